"""A rough model of an op's cost for where nothing can be measured: multiply-adds with full tiles, and bytes moved.

The two factors are from int8 MobileNetV3-Large in LiteRT on one x86 core (AVX512-VNNI): dense convolutions ran at about
200 multiply-adds per nanosecond, depthwise ones at about 18, and element-wise operators moved about 12 bytes per
nanosecond. Other cores differ; shares by this model tell a large cost from a small one, no more.
"""

from __future__ import annotations

from math import ceil, prod

from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.ops import macs_of
from edgecnn.lint.shapes import convs

DEPTHWISE_FACTOR = 11
BYTE_FACTOR = 16


def work_of(graph: Graph, tile: int) -> dict[str, float]:
    """The modelled cost of each op, in multiply-adds of a dense convolution."""
    of_convs = {c.op.name: c for c in convs(graph)}
    costs: dict[str, float] = {}
    for op in graph.ops:
        moved = _elements(graph, op)
        conv = of_convs.get(op.name)
        if conv is None:
            costs[op.name] = BYTE_FACTOR * moved + macs_of(graph, op)
        elif conv.depthwise:
            costs[op.name] = DEPTHWISE_FACTOR * conv.macs + moved
        else:
            per_group = conv.out_channels // conv.groups
            full = ceil(per_group / tile) * tile / per_group
            costs[op.name] = conv.macs * full + moved
    return costs


def _elements(graph: Graph, op: Op) -> int:
    names = (*graph.activations(op), op.output)
    return sum(prod(graph.shape(name)[1:]) for name in names)
