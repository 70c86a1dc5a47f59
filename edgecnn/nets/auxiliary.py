"""Auxiliary classifiers: further classifiers in the middle of a net that help it train and are not deployed.

A net that has them returns `TrainingOutputs` in training mode and plain logits in eval mode, in which they never run.
Their weights are part of the net's state, so that official files load as they are; `drop_auxiliary` takes them out of a
net that is trained, after which its parameters are those that are deployed.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class AuxiliaryClassifier(nn.Module):
    """The base of every auxiliary classifier; a net holds one as an attribute that may be None."""


class TrainingOutputs(NamedTuple):
    """What a net with auxiliary classifiers returns in training mode.

    Args:
        logits: of the net proper, [N, classes].
        auxiliary: of the auxiliary classifiers, each [N, classes].
        weight: of the loss of each auxiliary classifier, where that of the net proper has 1.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    weight: float = 0.0

    @classmethod
    def of(cls, outputs: Tensor | TrainingOutputs) -> TrainingOutputs:
        """`outputs` of any net in training mode; plain logits have no auxiliary ones."""
        return outputs if isinstance(outputs, cls) else cls(outputs)  # type: ignore[arg-type]

    def loss(self, criterion: nn.Module, labels: Tensor) -> Tensor:
        """The weighted sum of `criterion(logits, labels)` over all classifiers."""
        total: Tensor = criterion(self.logits, labels)
        for logits in self.auxiliary:
            total = total + self.weight * criterion(logits, labels)
        return total


def drop_auxiliary(module: nn.Module) -> None:
    """Takes the auxiliary classifiers out of `module` in place; what it computes in eval mode stays the same."""
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, AuxiliaryClassifier):
                setattr(owner, name, None)
