"""Receptive field and stride of every value of a graph with respect to its input.

The receptive field is how many input pixels, along each axis, one output position depends on, borders not counted; the
stride is how far apart in the input two neighbouring positions look. Where branches meet, the largest counts.

Source: Araujo, Norris, Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill: with r and j
of the layer's input, r' = r + (k - 1) * j and j' = j * s, k being the kernel with its dilation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.ops import attrs_of

Pair = tuple[float, float]

COLLECT = frozenset({"global_pool", "linear", "flatten", "reshape"})
"""Kinds whose output may depend on every position of a map."""


@dataclass(frozen=True)
class Field:
    """The receptive field and stride of a value, (height, width) in input pixels; `inf` is the whole image."""

    size: Pair
    stride: Pair

    @property
    def whole(self) -> bool:
        """Whether the value depends on every pixel, however large the image."""
        return inf in self.size


def fields(graph: Graph) -> dict[str, Field]:
    """The field of each activation.

    The gate of a squeeze-and-excitation sees the whole image and so, strictly, does all behind it; that says nothing
    about the layers, so a factor of one position per channel does not count where it meets a map.
    """
    known = {name: Field((1.0, 1.0), (1.0, 1.0)) for name in graph.inputs}
    for op in graph.ops:
        inputs = _counting(graph, op)
        merged = Field(_most([known[i].size for i in inputs]), _most([known[i].stride for i in inputs]))
        known[op.output] = _behind(graph, op, merged)
    return known


def _counting(graph: Graph, op: Op) -> list[str]:
    names = [n for n in op.inputs if not graph.value(n).is_const]
    if op.kind == "mul":
        maps = [n for n in names if not _is_gate(graph.shape(n))]
        return maps or names
    return names[:1] if op.kind == "deform_conv" else names


def _is_gate(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2:] == (1, 1)


def _behind(graph: Graph, op: Op, x: Field) -> Field:
    attrs = attrs_of(op)
    if op.kind in ("conv", "deform_conv"):
        weight = next(i for i in op.inputs if graph.value(i).is_const and len(graph.shape(i)) == 4)
        return _window(x, graph.shape(weight)[2:], attrs["stride"], attrs["dilation"])
    if op.kind in ("max_pool", "avg_pool"):
        return _window(x, attrs["kernel"], attrs["stride"], attrs.get("dilation", (1, 1)))
    if op.kind == "upsample":
        rows, columns = attrs["factor"]
        return Field(x.size, (x.stride[0] / rows, x.stride[1] / columns))
    if op.kind in COLLECT and _positions(graph, op.inputs[0]) > _positions(graph, op.output):
        return Field((inf, inf), x.stride)
    return x


def _positions(graph: Graph, name: str) -> int:
    shape = graph.shape(name)
    return shape[2] * shape[3] if len(shape) == 4 else 1


def _window(x: Field, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> Field:
    size = tuple(r + d * (k - 1) * j for r, k, d, j in zip(x.size, kernel, dilation, x.stride, strict=True))
    step = tuple(j * s for j, s in zip(x.stride, stride, strict=True))
    return Field((size[0], size[1]), (step[0], step[1]))


def _most(pairs: list[Pair]) -> Pair:
    return max(p[0] for p in pairs), max(p[1] for p in pairs)
