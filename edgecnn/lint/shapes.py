"""What the rules ask about convolutions, and the same convolution with other channel counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Graph, Op, QParams, Value
from edgecnn.ir.ops import attrs_of, infer_shape


@dataclass(frozen=True)
class Conv:
    """One convolution of a graph in numbers; sizes are of one image."""

    op: Op
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    positions: int
    in_positions: int

    @property
    def depthwise(self) -> bool:
        """Whether every filter has one channel of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def pointwise(self) -> bool:
        """Whether the kernel is 1x1."""
        return self.kernel == (1, 1)

    @property
    def name(self) -> str:
        """In words: kernel, kind, and the size of its output."""
        kind = "depthwise " if self.depthwise else ""
        rows, columns = self.kernel
        return f"{rows}x{columns} {kind}convolution over {self.positions:,} positions"

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.out_channels * self.in_channels // self.groups * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.weights * self.positions

    @property
    def memory_access(self) -> int:
        """Elements read and written: input, output, weights (the MAC of the ShuffleNet V2 paper)."""
        return self.in_channels * self.in_positions + self.out_channels * self.positions + self.weights


def convs(graph: Graph) -> Iterator[Conv]:
    """The convolutions of a graph with constant weights, in order."""
    for op in graph.ops:
        if op.kind == "conv" and graph.value(op.inputs[1]).is_const:
            out, channels, kh, kw = graph.shape(op.inputs[1])
            groups = attrs_of(op)["groups"]
            yield Conv(
                op,
                channels * groups,
                out,
                (kh, kw),
                groups,
                prod(graph.shape(op.output)[2:]),
                prod(graph.shape(op.inputs[0])[2:]),
            )


def resized(graph: Graph, op: Op, *, in_channels: int, out_channels: int, groups: int = 1) -> Graph:
    """`op` alone with other channel counts, everything else as it is; its weights are noise. For timing only."""
    single = cut(graph, op)
    x, w = single.value(op.inputs[0]), single.value(op.inputs[1])
    shape = (out_channels, in_channels // groups, *w.shape[2:])
    values = [
        replace(x, shape=(x.shape[0], in_channels, *x.shape[2:])),
        _noise(w, shape),
        *(_noise(single.value(b), (out_channels,)) for b in op.inputs[2:]),
    ]
    new = op.with_attrs(groups=groups)
    draft = Graph.build(op.output, [new], [*values, single.value(op.output)], single.inputs, single.outputs)
    out = replace(single.value(op.output), shape=infer_shape(draft, new))
    return Graph.build(op.output, [new], [*values, out], single.inputs, single.outputs)


def _noise(value: Value, shape: tuple[int, ...]) -> Value:
    assert value.data is not None  # the rules look at convolutions with constant weights only
    spread = float(np.abs(value.data).mean()) or 1.0
    data = (np.random.default_rng(0).standard_normal(shape) * spread).astype(np.float32)
    return replace(value, shape=shape, data=data, q=_resized_q(value.q, shape))


def _resized_q(q: QParams | None, shape: tuple[int, ...]) -> QParams | None:
    if q is None or q.axis is None:
        return q
    channels = shape[q.axis]
    return replace(q, scale=np.resize(q.scale, channels), zero_point=np.resize(q.zero_point, channels))


def nearest_multiple(channels: float, tile: int) -> int:
    """The multiple of `tile` nearest to `channels`, at least one."""
    return max(1, round(channels / tile)) * tile
