"""What a group loses by keeping its best units only: by their scores, or measured on images.

By scores, a layer that keeps the share s of its filters' scores has lost -log s, so that taking a layer's last filters
is never cheap. That says which units go, but hardly which layer's: layers differ in what they are worth, and scores are
relative to each layer's own. Measured, the loss is how far the net's answers move when nothing but this group shrinks.

Source: NetAdapt (Yang et al. 2018, arXiv:1804.03230) and AMC (He et al. 2018, arXiv:1802.03494) likewise ask the net
    itself what a layer is worth, by its accuracy; a divergence from its own answers needs no labels and fewer images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.module import GraphModule
from edgecnn.prune.apply import apply
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, alive, allowed, least_first

POINTS = 4
"""Counts of units at which a group's loss is measured; between them it follows the scores."""
BATCH = 64


class Loss(Protocol):
    """What a group loses."""

    def at(self, kept: int) -> float:
        """The loss of keeping so many units; 0 for all of them, and never less for fewer."""
        ...


@dataclass(eq=False)
class ScoreLoss:
    """The loss by scores.

    Args:
        group: whose units.
        scores: of them, ascending.
    """

    group: Group
    scores: Array

    def __post_init__(self) -> None:
        self._below = np.concatenate([[0.0], np.cumsum(self.scores)])

    def at(self, kept: int) -> float:
        """See `Loss`."""
        gone = float(self._below[len(self.group) - kept])
        whole = float(self._below[-1])
        return -len(self.group.layers) * float(np.log(max(1 - gone / whole, 1e-12))) if whole > 0 else 0.0


@dataclass(eq=False)
class MeasuredLoss:
    """The loss as it was measured at a few counts, in between in proportion to the loss by scores.

    Args:
        shape: the loss by scores.
        points: what was measured, by the units kept.
    """

    shape: ScoreLoss
    points: Mapping[int, float]

    def __post_init__(self) -> None:
        counts = sorted(self.points, reverse=True)
        self._x = np.array([0.0, *(self.shape.at(n) for n in counts)])
        # Noise may let a smaller group look better; the plan must not believe it.
        self._y = np.maximum.accumulate([0.0, *(self.points[n] for n in counts)])

    def at(self, kept: int) -> float:
        """See `Loss`."""
        x = self.shape.at(kept)
        if x > self._x[-1] > 0:
            return float(self._y[-1] * x / self._x[-1])
        return float(np.interp(x, self._x, self._y))


def score_losses(groups: Sequence[Group], order: Mapping[str, Array], scores: Array) -> dict[str, ScoreLoss]:
    """The loss of each group by the scores of its units, which `order` has ascending."""
    return {g.name: ScoreLoss(g, scores[order[g.name]]) for g in groups}


class Divergence:
    """How far the answers of smaller nets are from those of one, in nats: the mean of Kullback-Leibler divergences.

    Batch norm takes its statistics from the images, as it will have them measured again before anything else is done
    with what is left.

    Args:
        original: the net whose answers are the right ones.
        images: float32 (N, C, H, W); what they show need not be known.
    """

    def __init__(self, original: Graph, images: Array) -> None:
        self.images = images
        self._wanted = self._answers(original)

    def of(self, graph: Graph) -> float:
        """That of a net with outputs of the same shapes."""
        pairs = zip(self._wanted, self._answers(graph), strict=True)
        return sum(float((p.exp() * (p - q)).sum(1).mean()) for p, q in pairs)

    def _answers(self, graph: Graph) -> list[torch.Tensor]:
        """Log-probabilities of each output, (N, classes, ...)."""
        module = GraphModule(graph).train()
        with torch.no_grad():
            parts = [
                module(torch.from_numpy(x)) for x in np.array_split(self.images, max(1, len(self.images) // BATCH))
            ]
        outputs = zip(*((part if isinstance(part, tuple) else (part,)) for part in parts), strict=True)
        return [F.log_softmax(torch.cat(output), 1) for output in outputs]


def measured_losses(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Array,
    counts: Mapping[str, Sequence[int]],
    divergence: Divergence,
) -> dict[str, MeasuredLoss]:
    """The loss of each group by how much further the net's answers move without its least worthy units.

    Args:
        coupling: whose units.
        groups: that may shrink.
        scores: of all units.
        counts: for each group the numbers of units it may keep, falling, the first all of them.
        divergence: from the answers that are right.
    """
    protected = alive(coupling, scores)
    order = least_first(groups, scores, protected)
    now = divergence.of(coupling.graph)
    found = {}
    for group, shape in zip(groups, score_losses(groups, order, scores).values(), strict=True):
        points = {}
        for kept in _spread(allowed(group, counts[group.name], protected)[1:]):
            smaller = apply(coupling, order[group.name][: len(group) - kept])
            points[kept] = divergence.of(smaller) - now
        found[group.name] = MeasuredLoss(shape, points)
    return found


def _spread(counts: Sequence[int]) -> list[int]:
    """At most `POINTS` of them, the last among them."""
    if len(counts) <= POINTS:
        return list(counts)
    return [counts[round(at)] for at in np.linspace(0, len(counts) - 1, POINTS + 1)[1:]]
