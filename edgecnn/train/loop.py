"""Training a net from scratch: SGD or AdamW, warm-up and cosine, label smoothing; the same seed gives the same net."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn.data.accuracy import Accuracy
from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocessing import Pixels, normalize
from edgecnn.errors import CheckFailed, InputError
from edgecnn.nets.auxiliary import TrainingOutputs
from edgecnn.train.augment import AUGMENTATIONS
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import TrainSettings


@dataclass(frozen=True)
class EpochReport:
    """How one epoch went.

    Units: `loss` is the mean over the epoch's steps (nats); `train_top1` in percent, on the augmented images as the
    net met them; `lr` the learning rate of the last step; `seconds` wall-clock time of the epoch.
    """

    epoch: int
    epochs: int
    loss: float
    train_top1: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What training came to: one report per epoch, and the accuracy on the evaluation split at the end."""

    history: tuple[EpochReport, ...]
    accuracy: Accuracy
    seconds: float


Progress = Callable[[EpochReport], None]

_BATCH_NORM_IMAGES = 2048
"""Enough for a mean and a variance per channel; more would only take longer."""


def train_net(
    module: nn.Module,
    dataset: Dataset,
    *,
    settings: TrainSettings,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains `module` in place on the calibration split of `dataset` and leaves it in inference mode.

    The evaluation split is looked at once, after the last step; nothing is chosen by it. Batch norm's statistics are
    measured afresh at the end. The order of the images, augmentation and dropout depend on `seed` alone; the initial
    weights are the module's own, so seed their making too. torch's global random state is left as it was.

    Args:
        module: takes float32 (N, channels, height, width), returns logits (N, classes), or in training mode
            `TrainingOutputs` if it has auxiliary classifiers, whose losses are added with their weight.
        dataset: labelled images; its training split is decoded once and held in memory as uint8.
        settings: the recipe's `[train]` table.
        seed: see above.
        progress: called after each epoch.

    Raises:
        InputError: the data have no labels, no split to evaluate on, or too few images for one batch.
        CheckFailed: the loss is no longer finite; epoch and step are named.
    """
    started = time.monotonic()
    trainer = _Trainer(module, dataset, settings, seed)
    history: list[EpochReport] = []
    # Depthwise convolutions train about twice as fast on a CPU in this memory format; values are the same.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout, which takes no generator
        for epoch in range(settings.epochs):
            history.append(trainer.epoch(epoch))
            if progress is not None:
                progress(history[-1])
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    clean = dataset.batches(256, split="calibration", limit=_BATCH_NORM_IMAGES)
    recalibrate_batch_norm(module, (x for x, _ in clean))
    module.eval()
    return TrainResult(tuple(history), evaluate(module, dataset), time.monotonic() - started)


class _Trainer:
    """What one run of training holds: the images, the optimizer, and the random state of their order and changes."""

    def __init__(self, module: nn.Module, dataset: Dataset, settings: TrainSettings, seed: int) -> None:
        self.module, self.settings, self.preprocessing = module, settings, dataset.preprocessing
        self.pixels_nhwc, self.labels = _training_images(dataset, settings)
        self.schedule = _Schedule(settings, steps_per_epoch=len(self.labels) // settings.batch_size)
        self.optimizer = _optimizer(module, settings)
        self.loss = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self.augment = AUGMENTATIONS[settings.augment]
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, epoch: int) -> EpochReport:
        """Every training image once, up to a last incomplete batch; `epoch` counts from 0."""
        started = time.monotonic()
        losses: list[float] = []
        right = 0
        for step, chosen in enumerate(_shuffled(len(self.labels), self.settings.batch_size, self.generator)):
            lr = self.schedule.lr(epoch, step)
            loss, hits = self._step(chosen, lr)
            losses.append(_finite(loss, epoch, step, lr))
            right += hits
        return EpochReport(
            epoch=epoch + 1,
            epochs=self.settings.epochs,
            loss=float(np.mean(losses)),
            train_top1=100 * right / (len(losses) * self.settings.batch_size),
            lr=lr,
            seconds=time.monotonic() - started,
        )

    def _step(self, chosen: Tensor, lr: float) -> tuple[float, int]:
        """The loss on the images `chosen`, before the weights move, and how many of them were right."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        x_nchw = torch.from_numpy(normalize(self.pixels_nhwc[chosen.numpy()], self.preprocessing))
        x_nchw = self.augment(x_nchw, self.generator).contiguous(memory_format=torch.channels_last)
        labels = self.labels[chosen]
        outputs = TrainingOutputs.of(self.module(x_nchw))
        loss = outputs.loss(self.loss, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return loss.item(), int((outputs.logits.detach().argmax(1) == labels).sum())


def _training_images(dataset: Dataset, settings: TrainSettings) -> tuple[Pixels, Tensor]:
    """The training split as uint8 (N, height, width, channels), and its labels (N,)."""
    train, test = dataset.split_of("calibration"), dataset.split_of("evaluation")
    if dataset.classes is None:
        raise InputError("training needs labels", where=dataset.name, do="use a folder with one subfolder per class")
    if train == test:
        raise InputError(
            "the data have no images apart from those to train on",
            where=dataset.name,
            do="give folders `train` and `test`, or a profile of your own with `holdout`",
        )
    parts = list(dataset.raw_batches(256, split="calibration"))
    pixels = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts if labels is not None])
    if len(labels) < settings.batch_size:
        raise InputError(
            f"{len(labels)} training images do not fill one batch",
            where=dataset.name,
            expected=f"at least batch_size = {settings.batch_size}",
            do="lower batch_size, or give more images",
        )
    return pixels, torch.from_numpy(labels)


def _optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    # Biases and batch norm are vectors; decaying them costs accuracy and regularises nothing.
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)


@dataclass(frozen=True)
class _Schedule:
    """A learning rate that rises linearly and falls along a cosine, step by step."""

    settings: TrainSettings
    steps_per_epoch: int

    def lr(self, epoch: int, step: int) -> float:
        done = epoch * self.steps_per_epoch + step + 1
        total = self.settings.epochs * self.steps_per_epoch
        warmup = min(self.settings.warmup_epochs * self.steps_per_epoch, total - 1)
        if done <= warmup:
            return self.settings.lr * done / warmup
        return self.settings.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup + 1)))


def _shuffled(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of whole batches, in a new order at each call."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def _finite(loss: float, epoch: int, step: int, lr: float) -> float:
    if not math.isfinite(loss):
        raise CheckFailed(
            f"the loss is {loss}",
            where=f"epoch {epoch + 1}, step {step + 1}",
            got=f"learning rate {lr:.3g}",
            do="lower lr, raise warmup_epochs, or check the data for damaged images",
        )
    return loss
