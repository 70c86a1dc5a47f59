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
from edgecnn.train.loop import EpochReport, Progress, train_net
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
    make_module: Callable[[Graph], GraphModule] = GraphModule,
    checkpoint: Path | None = None,
) -> TuneResult:
    """The graph with its weights trained further on the calibration split of `dataset`."""
    started = time.monotonic()
    module = make_module(graph)
    result = train_net(module, dataset, settings=settings, seed=seed, progress=progress)
    return TuneResult(module.to_graph(), result.history, result.accuracy, time.monotonic() - started)
