"""One run of training: what a step does, where the run stands, and how it goes on from a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn import __version__
from edgecnn.data.dataset import Dataset
from edgecnn.errors import CheckFailed, InputError
from edgecnn.nets.auxiliary import TrainingOutputs
from edgecnn.train import regularize
from edgecnn.train.augment import AUGMENTATIONS
from edgecnn.train.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, weights_hash
from edgecnn.train.device import Compute
from edgecnn.train.ema import Ema
from edgecnn.train.images import training_images, whole_batches
from edgecnn.train.loss import TrainingLoss
from edgecnn.train.optimizer import Schedule, make_optimizer
from edgecnn.train.parallel import WholeBatchNorm, World
from edgecnn.train.settings import TrainSettings

NO_SAY = {"checkpoint_seconds"}
"""Settings that the result does not depend on."""


@dataclass(frozen=True)
class StepReport:
    """How one step went; `done` of `steps` in the whole run are over."""

    epoch: int
    done: int
    steps: int
    loss: float
    lr: float


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


Progress = Callable[[EpochReport], None]
OnStep = Callable[[StepReport], None]


@dataclass
class _Place:
    """Where a run stands: `epoch` and `step` are the next to do; the rest is of the epoch under way."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    right: int = 0
    seconds: float = 0.0


class Trainer:
    """What one run holds: images, optimizer, random states, averages, and where it stands.

    Args:
        module: the net, in training mode and on the device of `compute`.
        dataset: labelled images.
        settings: the recipe's `[train]` table.
        compute: where and how exactly.
        teacher: a net whose answers are learned too, in eval mode on the same device.
        seed: of the order and the changes of images, and of dropout.
        checkpoint: the file to go on from if it is there, and to write to; None: neither.
    """

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        settings: TrainSettings,
        *,
        compute: Compute,
        teacher: nn.Module | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
    ) -> None:
        self.module, self.teacher, self.settings = module, teacher, settings
        self.compute, self.seed, self.checkpoint = compute, seed, checkpoint
        self.images = training_images(dataset, batch_size=settings.batch_size)
        self.world = World.current()
        self.shard = self.world.shard(settings.batch_size)
        self.schedule = Schedule(settings, steps_per_epoch=len(self.images) // settings.batch_size)
        self.world.share_weights(module)
        self.optimizer = make_optimizer(module, settings)
        self.parameters = list(module.parameters())
        self.scaler = compute.scaler()
        self.loss = TrainingLoss(settings)
        self.augment = AUGMENTATIONS[settings.augment]
        self.drops = regularize.Drops(module)
        self.ema = Ema(module, settings.ema) if settings.ema else None
        self.generator = torch.Generator().manual_seed(seed)
        self.place, self.history = _Place(), list[EpochReport]()
        self.order = torch.empty(0, dtype=torch.int64)
        self.recipe = self._recipe() if checkpoint else {}
        self.saved_at = time.monotonic()

    def run(self, progress: Progress | None = None, on_step: OnStep | None = None) -> tuple[EpochReport, ...]:
        """All epochs that are still to do; the module then has the weights of the last step, or their average.

        Raises:
            CheckFailed: the loss is no longer finite; epoch and step are named.
            InputError: net or teacher have other classes than the data, or the checkpoint is damaged.
            UsageError: the checkpoint is of another recipe.
        """
        with (
            torch.random.fork_rng(devices=self.compute.cuda_devices),
            WholeBatchNorm() if self.world.size > 1 else nullcontext(),
        ):
            torch.manual_seed(self.seed + self.world.rank)  # for dropout, which takes no generator
            if self.checkpoint and self.checkpoint.is_file():
                self._restore(self.checkpoint)
            while self.place.epoch < self.settings.epochs:
                self.history.append(self._epoch(on_step))
                self.place = _Place(epoch=self.place.epoch + 1)
                if progress is not None:
                    progress(self.history[-1])
            if self.checkpoint is not None and self._good():
                self._save(self.checkpoint)
        self.drops.scale(1.0)
        if self.ema is not None:
            self.ema.apply()
        return tuple(self.history)

    def _epoch(self, on_step: OnStep | None) -> EpochReport:
        """Every training image once, up to a last incomplete batch; or what is left of the epoch."""
        at, size = self.place, self.settings.batch_size
        started = time.monotonic() - at.seconds
        stage = regularize.stage_of(at.epoch, self.settings, self.images.pixels_nhwc.shape[1:3])
        self.drops.scale(stage.strength)
        if at.step == 0:
            self.order = torch.randperm(len(self.images), generator=self.generator)
        for chosen in list(whole_batches(self.order, size))[at.step :]:
            lr = self.schedule.lr(at.epoch, at.step)
            loss, right = self._step(chosen, lr, stage)
            at.losses.append(self._finite(loss, lr))
            at.right += right
            at.step += 1
            at.seconds = time.monotonic() - started
            self._save_if_due()
            if on_step is not None:
                done = at.epoch * self.schedule.steps_per_epoch + at.step
                on_step(StepReport(at.epoch + 1, done, self.schedule.steps, loss, lr))
        return EpochReport(
            epoch=at.epoch + 1,
            epochs=self.settings.epochs,
            loss=float(np.mean(at.losses)),
            train_top1=100 * at.right / (len(at.losses) * size),
            lr=self.schedule.lr(at.epoch, at.step - 1),
            seconds=at.seconds,
        )

    def _step(self, chosen: Tensor, lr: float, stage: regularize.Stage) -> tuple[float, int]:
        """The loss on the images `chosen`, before the weights move, and how many of them were right."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        labels = self.images.labels[chosen]
        x_nchw, targets = self._batch(chosen, labels, stage)
        x_nchw = self.compute.images(x_nchw[self.shard])
        targets, labels = self.compute.to(targets[self.shard]), self.compute.to(labels[self.shard])
        with self.compute.autocast():
            outputs = TrainingOutputs.of(self.module(x_nchw))
            self._check_classes(outputs.logits, "the net")
            loss = self.loss(outputs, targets, self._taught(x_nchw))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.world.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()
        right = int((outputs.logits.detach().argmax(1) == labels).sum())
        total, hits = self.world.sum(loss.item(), right, device=self.compute.device)
        return total / self.world.size, int(hits)

    def _batch(self, chosen: Tensor, labels: Tensor, stage: regularize.Stage) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the whole batch, also where this process needs a part of it: all draw the same."""
        settings, generator = self.settings, self.generator
        x_nchw = self.augment(self.images.inputs(chosen), generator)
        x_nchw = regularize.resized(x_nchw, stage.size)
        if share := settings.cutout * stage.strength:
            x_nchw = regularize.cutout(x_nchw, share=share, generator=generator)
        if alpha := settings.mixup * stage.strength:
            return regularize.mixup(x_nchw, labels, len(self.images.classes), alpha=alpha, generator=generator)
        return x_nchw, labels

    def _taught(self, x_nchw: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            logits: Tensor = self.teacher(x_nchw)
        self._check_classes(logits, "the teacher")
        return logits

    def _check_classes(self, logits: Tensor, who: str) -> None:
        if logits.shape[1:] != (len(self.images.classes),):
            raise other_classes(who, logits.shape[-1], len(self.images.classes))

    def _finite(self, loss: float, lr: float) -> float:
        if math.isfinite(loss):
            return loss
        kept = None
        if self.checkpoint is not None and self.checkpoint.is_file():
            at = Checkpoint.load(self.checkpoint).progress
            kept = f"the last good checkpoint, {self.checkpoint}, is of epoch {at['epoch'] + 1} after step {at['step']}"
        raise CheckFailed(
            f"the loss is {loss}",
            where=f"epoch {self.place.epoch + 1}, step {self.place.step + 1}",
            got=f"learning rate {lr:.3g}" + (f"\n{kept}" if kept else ""),
            do="lower lr, raise warmup_epochs, or check the data for damaged images"
            + ("; then start afresh with --restart" if kept else ""),
        )

    def _save_if_due(self) -> None:
        if self.checkpoint is None:
            return
        due = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        if self.world.size > 1:  # the clock of the first process decides for all
            due = bool(self.world.sum(due and self.world.leads, device=self.compute.device)[0])
        if due and self._good():
            self._save(self.checkpoint)
            self.saved_at = time.monotonic()

    def _good(self) -> bool:
        """Whether there is no NaN in the weights, which a finite loss before the step does not tell."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters)

    def _save(self, path: Path) -> None:
        random = dict(enumerate(self.world.gather(torch.random.get_rng_state())))
        tensors = {f"random/{rank}": state for rank, state in random.items()}
        if self.compute.cuda_devices:
            for rank, state in enumerate(self.world.gather(torch.cuda.get_rng_state())):
                tensors[f"random-cuda/{rank}"] = state
        if not self.world.leads:
            return
        tensors |= {"order": self.order, "random-images": self.generator.get_state()}
        tensors |= {f"net/{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.average.items()}
        progress = {
            **asdict(self.place),
            "history": [asdict(report) for report in self.history],
            "ema_steps": self.ema.steps if self.ema else 0,
            "scaler": self.scaler.state_dict(),
        }
        Checkpoint(self.recipe, progress, tensors).save(path)

    def _restore(self, path: Path) -> None:
        saved = Checkpoint.load(path)
        saved.check_recipe(self.recipe, path)
        progress = dict(saved.progress)
        self.history = [EpochReport(**report) for report in progress.pop("history")]
        ema_steps, scaler = progress.pop("ema_steps"), progress.pop("scaler")
        self.place = _Place(**progress)
        self.order = saved.tensors["order"]
        self.generator.set_state(saved.tensors["random-images"])
        torch.random.set_rng_state(saved.tensors[f"random/{self.world.rank}"])
        if self.compute.cuda_devices:
            torch.cuda.set_rng_state(saved.tensors[f"random-cuda/{self.world.rank}"])
        weights = saved.part("net")
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(weights[name])
        restore_optimizer(self.optimizer, saved.part("optimizer"))
        if self.ema is not None:
            self.ema.restore(saved.part("ema"), ema_steps)
        if scaler:
            self.scaler.load_state_dict(scaler)

    def _recipe(self) -> dict[str, Any]:
        """Everything that the result depends on, flat, as `Checkpoint.check_recipe` compares it."""
        settings = self.settings.model_dump(mode="json", exclude=NO_SAY)
        return {
            **settings,
            "device": self.compute.device.type,
            "precision": str(self.compute.dtype).removeprefix("torch."),
            "seed": self.seed,
            "net": weights_hash(self.module),
            "teacher": weights_hash(self.teacher) if self.teacher else None,
            "data": self.images.fingerprint(),
            "processes": self.world.size,
            "threads": torch.get_num_threads() if self.compute.device.type == "cpu" else None,
            "torch": torch.__version__,
            "edgecnn": __version__,
        }


def other_classes(who: str, has: int, needs: int) -> InputError:
    """The error for a net or teacher that cannot answer for the data's classes."""
    return InputError(
        f"{who} and the data have different classes",
        expected=f"{needs} classes, as the data have",
        got=f"{has} classes, as {who} has",
        do="use the data it was trained on, or "
        + ("another teacher" if "teacher" in who else "train a net for these (`edgecnn train`)"),
    )
