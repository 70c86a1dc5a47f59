"""Learned quantisation parameters: scales, and zero points if wanted, that gradients may move within bounds.

Source: Esser et al. 2020, Learned Step Size Quantization; Bhalgat et al. 2020, LSQ+ (zero points).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn.ir.graph import Graph, QParams
from edgecnn.ir.ops import CLIPPING, attrs_of
from edgecnn.ir.rounding import Clip, code_range
from edgecnn.quant.spans import is_fixed, on_gate_grid
from edgecnn.quant.straight_through import Bounds, gradient_times
from edgecnn.quant.ties import Group

FARTHEST = 16.0
"""A scale moves by at most this factor from where it started; a longer way is a training that diverges."""


@dataclass(frozen=True)
class Grid:
    """The parameters of one value in one forward pass: what `QParams` says, with gradients.

    Args:
        scale: float32, 0-d, or 1-d along the output channels of a weight.
        zero: the zero point as a tensor if it is learned, else None.
        zero_point: the zero point of an activation; 0 for a weight.
        start: type and bounds of the codes; its scale and zero point are where learning began.
    """

    scale: Tensor
    zero: Tensor | None
    zero_point: int
    start: QParams

    @cached_property
    def q(self) -> QParams:
        """The parameters as data."""
        scale = np.asarray(self.scale.detach().cpu().numpy(), np.float32)
        if self.zero is None:
            return replace(self.start, scale=scale)
        return replace(self.start, scale=scale, zero_point=np.asarray(self.zero_point, np.int32))

    @cached_property
    def bounds(self) -> Bounds:
        """The least and largest code, less the zero point."""
        return float(self.start.qmin - self.zero_point), float(self.start.qmax - self.zero_point)

    def within(self, clip: Clip) -> Bounds:
        """The bounds under a fused activation, less the zero point."""
        if clip == (None, None):
            return self.bounds
        low, high = code_range(self.q, clip)
        return float(low - self.zero_point), float(high - self.zero_point)


class LearnedQ(nn.Module):
    """Parameters to be trained, begun at those of `q`.

    What is trained is the ratio of a scale to where it began, so that one learning rate fits steps of every size. Its
    gradient is scaled by LSQ's 1 / sqrt(N * Qp) and by 1 / s**2, which is what plain gradient descent on the scale
    itself comes to; AdamW, which ignores the size of gradients, moves every scale by about lr of itself per step.

    Args:
        q: where to begin.
        numbers: N, how many numbers of one image (or of one weight's channel) share a scale.
        scales: whether scales are learned.
        zero_points: whether the zero point is, with the scale.
        most: the largest scale (see `most_scale`).
    """

    ratio: nn.Parameter | None
    zero: nn.Parameter | None
    start: Tensor
    factor: Tensor

    def __init__(
        self, q: QParams, *, numbers: int, scales: bool = True, zero_points: bool = False, most: float | None = None
    ) -> None:
        super().__init__()
        self._q = q
        self._zero_point = int(q.zero_point) if q.axis is None else 0
        start = torch.tensor(np.asarray(q.scale))
        self.most = FARTHEST if most is None else min(most / float(start), FARTHEST)
        self.register_buffer("start", start)
        # 1 / s**2 of a dead channel would overflow; its gradient is zero anyway.
        factor = 1 / (sqrt(numbers * q.qmax if q.qmax > 0 else numbers) * start.double().square().clamp(min=1e-30))
        self.register_buffer("factor", factor.float())
        self.ratio = nn.Parameter(torch.ones_like(start)) if scales else None
        self.zero = nn.Parameter(torch.tensor(float(q.zero_point))) if zero_points else None

    @property
    def codes(self) -> tuple[int, int]:
        """The smallest and largest code."""
        return self._q.qmin, self._q.qmax

    def grid(self) -> Grid:
        """The parameters as they are now (see `keep_in_bounds`)."""
        if self.ratio is None:
            return Grid(self.start, None, self._zero_point, self._q)
        scale = self.start * gradient_times(self.ratio, self.factor)
        if self.zero is None:
            return Grid(scale, None, self._zero_point, self._q)
        return Grid(scale, gradient_times(self.zero, self.factor), round(self.zero.item()), self._q)


@torch.no_grad()
def keep_in_bounds(learned: Iterable[LearnedQ]) -> None:
    """Moves back what an optimiser moved out of bounds: projected gradient descent."""
    trained = [(part, part.ratio) for part in learned if part.ratio is not None]
    if trained:
        ratios: list[Tensor] = [ratio for _, ratio in trained]
        torch._foreach_clamp_min_(ratios, 1 / FARTHEST)
        torch._foreach_clamp_max_(ratios, [part.most for part, _ in trained])
    for part, _ in trained:
        if part.zero is not None:
            part.zero.clamp_(part.codes[0], part.codes[1])


def is_rigid(graph: Graph, group: Group) -> bool:
    """Whether parameters must stay as they are.

    Those of the graph's inputs, whose codes are the caller's, those that runtimes demand, and the grid on which a
    hard-swish is a product of codes.
    """
    q = graph.value(group.values[0]).q
    assert q is not None  # groups are of coded values
    makers = [graph.makers[name] for name in group.values if name in graph.makers]
    gated = on_gate_grid(q) and any(op.kind == "hard_swish" for name in group.values for op in graph.users[name])
    return gated or any(name in graph.inputs for name in group.values) or any(is_fixed(op.kind, q) for op in makers)


def learned_group(graph: Graph, group: Group, *, zero_points: bool) -> LearnedQ:
    """The parameters of activations that share them, where they are not rigid."""
    q = graph.value(group.values[0]).q
    assert q is not None  # groups are of coded values
    fixed = is_rigid(graph, group)
    clips = [_clip_of(graph, name) for name in group.computed]
    # Zero keeps its place where the ends of the codes are those of an activation, or codes are symmetric.
    free = q.qmin < int(q.zero_point) < q.qmax and q.qmin + q.qmax != 0 and all(clip == (None, None) for clip in clips)
    return LearnedQ(
        q,
        numbers=sum(prod(graph.shape(name)[1:]) for name in group.computed if not graph.value(name).is_const),
        scales=not fixed,
        zero_points=zero_points and free and not fixed,
        most=min((most for clip in clips if (most := most_scale(q, clip)) is not None), default=None),
    )


def _clip_of(graph: Graph, name: str) -> Clip:
    op = graph.makers.get(name)
    return attrs_of(op)["clip"] if op is not None and op.kind in CLIPPING else (None, None)


def most_scale(q: QParams, clip: Clip) -> float | None:
    """The largest scale at which the ends of the codes still are the fused activation `clip`; None if no end is.

    Beyond it a runtime would need an op for the clip.
    """
    found = []
    for bound, end, now in zip(clip, (q.qmin, q.qmax), code_range(q, clip), strict=True):
        steps = end - int(q.zero_point)
        if bound and steps and now == end:
            found.append(bound / steps)
    return max(min(found), float(q.scale)) if found else None
