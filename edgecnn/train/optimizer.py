"""The optimizer of a run and its learning rate, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from edgecnn.train.settings import TrainSettings


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW; weight decay on matrices and kernels only."""
    # Biases and batch norm are vectors; decaying them costs accuracy and regularises nothing.
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # A call for all tensors instead of one for each: the same numbers, and on a CPU half the time.
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, foreach=True)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, foreach=True)


@dataclass(frozen=True)
class Schedule:
    """A learning rate that rises linearly and falls along a cosine, step by step."""

    settings: TrainSettings
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    def lr(self, epoch: int, step: int) -> float:
        """The rate of one step; both count from 0."""
        done = epoch * self.steps_per_epoch + step + 1
        warmup = min(self.settings.warmup_epochs * self.steps_per_epoch, self.steps - 1)
        if done <= warmup:
            return self.settings.lr * done / warmup
        return self.settings.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (self.steps - warmup + 1)))
