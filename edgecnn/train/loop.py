"""Training a net from scratch: SGD or AdamW, warm-up and cosine, label smoothing; the same seed gives the same net."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgecnn.data.accuracy import Accuracy
from edgecnn.data.dataset import Dataset
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.device import Compute
from edgecnn.train.evaluate import evaluate
from edgecnn.train.regularize import check_sizes
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import EpochReport, OnStep, Progress, Trainer

__all__ = ["EpochReport", "OnStep", "Progress", "TrainResult", "train_net"]


@dataclass(frozen=True)
class TrainResult:
    """What training came to: one report per epoch, and the accuracy on the evaluation split at the end."""

    history: tuple[EpochReport, ...]
    accuracy: Accuracy
    seconds: float


_BATCH_NORM_IMAGES = 2048
"""Enough for a mean and a variance per channel; more would only take longer."""


def train_net(
    module: nn.Module,
    dataset: Dataset,
    *,
    settings: TrainSettings,
    teacher: nn.Module | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    checkpoint: Path | None = None,
) -> TrainResult:
    """Trains `module` in place on the calibration split of `dataset` and leaves it in inference mode, on the CPU.

    The evaluation split is looked at once, after the last step; nothing is chosen by it. Batch norm's statistics are
    measured afresh at the end. The order of the images, augmentation and dropout depend on `seed` alone; the initial
    weights are the module's own, so seed their making too. torch's global random state is left as it was.

    Args:
        module: takes float32 (N, channels, height, width), returns logits (N, classes), or in training mode
            `TrainingOutputs` if it has auxiliary classifiers, whose losses are added with their weight.
        dataset: labelled images; its training split is decoded once and held in memory as uint8.
        settings: the recipe's `[train]` table.
        teacher: a net whose answers to the same images are learned too; it is left in inference mode.
        seed: see above.
        progress: called after each epoch.
        on_step: called after each step.
        checkpoint: a file from which an interrupted run goes on, to the very same weights; it is written every
            `checkpoint_seconds` and at the end, and is the caller's to remove once the result is safe. None: the run
            starts afresh and leaves no trace.

    Raises:
        InputError: the data have no labels, no split to evaluate on, too few images for one batch, or other classes
            than the net or the teacher; a checkpoint that is damaged.
        UsageError: the checkpoint is of another recipe, or settings that do not fit the net or the processes.
        CheckFailed: the loss is no longer finite; epoch and step are named.
        EnvironmentFailure: a GPU was asked for and there is none.
    """
    started = time.monotonic()
    compute = Compute.of(settings)
    check_sizes(module, settings, dataset.preprocessing.input_shape)
    nets = [module] if teacher is None else [module, teacher.eval()]
    try:
        for net in nets:
            # Depthwise convolutions train about twice as fast on a CPU in this memory format; values are the same.
            net.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        module.train()
        trainer = Trainer(module, dataset, settings, compute=compute, teacher=teacher, seed=seed, checkpoint=checkpoint)
        history = trainer.run(progress, on_step)
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        clean = dataset.batches(256, split="calibration", limit=_BATCH_NORM_IMAGES)
        recalibrate_batch_norm(module, (x for x, _ in clean))
        module.eval()
        accuracy = evaluate(module, dataset)
    finally:
        for net in nets:
            net.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return TrainResult(history, accuracy, time.monotonic() - started)
