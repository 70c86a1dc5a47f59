"""Fine-tuning a graph: its trainable module through the same loop as a net that is trained from scratch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgecnn.data.accuracy import Accuracy
from edgecnn.data.dataset import Dataset
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.train.loop import EpochReport, OnStep, Progress, train_net
from edgecnn.train.settings import TrainSettings


@dataclass(frozen=True)
class TuneResult:
    """A graph with new weights; one report per epoch; the accuracy on the evaluation split at the end."""

    graph: Graph
    history: tuple[EpochReport, ...]
    accuracy: Accuracy
    seconds: float


def tune_graph(
    graph: Graph,
    dataset: Dataset,
    *,
    settings: TrainSettings,
    teacher: nn.Module | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    make_module: Callable[[Graph], GraphModule] = GraphModule,
    checkpoint: Path | None = None,
) -> TuneResult:
    """`graph` with its weights trained further on the calibration split of `dataset`.

    Args:
        graph: any graph of one image to one row of logits; its names, ops and quantisation parameters stay.
        dataset: labelled images, of the graph's classes in the graph's order.
        settings: the recipe's `[train]` table; `FINE_TUNING` is a good start.
        teacher: see `train_net`; the graph before it was pruned is a good one.
        seed: see `train_net`.
        progress: called after each epoch.
        on_step: called after each step.
        make_module: how the graph becomes a module that trains; fake quantisation and masks come in here. Nothing is
            asked of it but forward, parameters, buffers and `to_graph`.
        checkpoint: see `train_net`.

    Raises:
        EdgecnnError: as `train_net`.
    """
    started = time.monotonic()
    module = make_module(graph)
    result = train_net(
        module,
        dataset,
        settings=settings,
        teacher=teacher,
        seed=seed,
        progress=progress,
        on_step=on_step,
        checkpoint=checkpoint,
    )
    return TuneResult(module.to_graph(), result.history, result.accuracy, time.monotonic() - started)
