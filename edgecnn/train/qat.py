"""Quantisation-aware training: a quantised graph is tuned with the codes that its target will compute."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import nn

from edgecnn.data.dataset import Dataset
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.quant.fake import FakeQuantModule
from edgecnn.train.loop import OnStep, Progress
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import TuneResult, tune_graph

QAT = TrainSettings(epochs=2, lr=1e-3, warmup_epochs=0.1, weight_decay=1e-5, label_smoothing=0.0, distill_weight=0.9)
"""Where quantisation-aware training starts from: weights that are good already, and a teacher that knows the task.

Weights have batch norm folded into them, so a decay would change the function itself; there is next to none.
"""


def quantization_aware(
    graph: Graph,
    dataset: Dataset,
    *,
    settings: TrainSettings = QAT,
    teacher: nn.Module | None = None,
    learn_scales: bool = True,
    learn_zero_points: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
) -> TuneResult:
    """The graph with weights, biases and scales that were trained to be right in integers.

    The accuracy in the result is that of the integer meaning, hence of the artifact.

    Args:
        graph: from `quant.assign`, on the graph that a target's passes made.
        dataset: labelled images with a split to evaluate on.
        settings: how to train; `distill_weight` is the teacher's share of the loss.
        teacher: whose answers are imitated; None: the same graph in float.
        learn_scales: train the scales of weights and activations too (LSQ).
        learn_zero_points: train zero points (LSQ+).
        seed: of the order of the images and their augmentation.
        progress: called after each epoch.
        on_step: called after each step.
        checkpoint: see `tune_graph`.

    Raises:
        InputError: the graph has no quantisation parameters, or the data no labels or nothing to evaluate on.
        CheckFailed: the loss is no longer finite.
    """
    return tune_graph(
        graph,
        dataset,
        settings=settings,
        teacher=teacher or GraphModule(graph).eval(),
        seed=seed,
        progress=progress,
        on_step=on_step,
        make_module=partial(FakeQuantModule, learn_scales=learn_scales, learn_zero_points=learn_zero_points),
        checkpoint=checkpoint,
    )
