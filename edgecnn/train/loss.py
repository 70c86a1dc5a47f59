"""The loss: cross-entropy with the labels and, where there is a teacher, agreement with its answers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.nets.auxiliary import TrainingOutputs
from edgecnn.train.settings import TrainSettings


class TrainingLoss:
    """(1 - w) cross-entropy + w T^2 KL(teacher at temperature T || net at temperature T), w the `distill_weight`.

    T^2 keeps the two gradients in proportion whatever the temperature.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self.labels = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self.weight, self.temperature = settings.distill_weight, settings.distill_temperature

    def __call__(self, outputs: TrainingOutputs, targets: Tensor, teacher: Tensor | None = None) -> Tensor:
        """The mean over the batch.

        Shapes:
            Targets int64 (N,) or shares (N, classes); the teacher's logits (N, classes).
        """
        hard = outputs.loss(self.labels, targets)
        if teacher is None:
            return hard
        return (1 - self.weight) * hard + self.weight * distillation(outputs.logits, teacher, self.temperature)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the Kullback-Leibler divergence of the net's softened answers from the teacher's, the batch's mean."""
    ours = F.log_softmax(logits.float() / temperature, dim=1)
    theirs = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
