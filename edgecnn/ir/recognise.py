"""Activation functions written out by hand, put back together: `x * relu6(x + 3) / 6` is `hard_swish`.

Each of the three rules fires only where nothing else reads the values in between.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isclose

from edgecnn.ir.graph import Graph, Op


def recognise(graph: Graph) -> Graph:
    """The graph with hand-written `hard_sigmoid`, `hard_swish` and `silu` as one op each, named after the last."""
    # A hard_swish may hold a hard_sigmoid, so the order matters.
    for find in (_hard_sigmoid, _gate, _hard_swish):
        graph = _rewritten(graph, find)
    return graph


Found = tuple[str, str]
"""The kind, and the value it is applied to."""


def _rewritten(graph: Graph, find: Callable[[Graph, Op], Found | None]) -> Graph:
    editor = graph.edit()
    found = [(op, match) for op in graph.ops if (match := find(graph, op)) is not None]
    for op, (kind, x) in found:
        editor.swap(op, Op(kind, (x,), op.output, {}, op.source))
    return editor.finish() if found else graph


def _maker(graph: Graph, name: str, kind: str) -> Op | None:
    """The op that makes `name`, if it is of `kind` and only one op reads it."""
    op = graph.makers.get(name)
    return op if op is not None and op.kind == kind and graph.only_user(name) is not None else None


def _by_number(graph: Graph, op: Op | None, kind: str, number: float) -> str | None:
    """The activation `x` of `op`, if that is x + number or x * number."""
    if op is None or op.kind != kind or op.attrs.get("clip", (None, None)) != (None, None):
        return None
    x, other = op.inputs
    value = graph.value(other)
    if value.data is None or value.data.size != 1 or not isclose(float(value.data.item()), number, rel_tol=1e-6):
        return None
    return x


def _relu6_of_plus_3(graph: Graph, name: str) -> str | None:
    """x, if `name` is clip(x + 3, 0, 6)."""
    clip = _maker(graph, name, "clip")
    if clip is None or (clip.attrs["lo"], clip.attrs["hi"]) != (0.0, 6.0):
        return None
    return _by_number(graph, _maker(graph, clip.inputs[0], "add"), "add", 3.0)


def _hard_sigmoid(graph: Graph, op: Op) -> Found | None:
    """clip(x + 3, 0, 6) / 6, or clip(x / 6 + 0.5, 0, 1)."""
    scaled = _by_number(graph, op, "mul", 1 / 6)
    x = None if scaled is None else _relu6_of_plus_3(graph, scaled)
    if x is None and op.kind == "clip" and (op.attrs["lo"], op.attrs["hi"]) == (0.0, 1.0):
        half = _by_number(graph, _maker(graph, op.inputs[0], "add"), "add", 0.5)
        x = None if half is None else _by_number(graph, _maker(graph, half, "mul"), "mul", 1 / 6)
    return None if x is None else ("hard_sigmoid", x)


def _gate(graph: Graph, op: Op) -> Found | None:
    """x * hard_sigmoid(x), or x * sigmoid(x), in either order."""
    if op.kind == "mul":
        for x, gate in (op.inputs, op.inputs[::-1]):
            for kind, whole in {"hard_sigmoid": "hard_swish", "sigmoid": "silu"}.items():
                maker = _maker(graph, gate, kind)
                if maker is not None and maker.inputs[0] == x:
                    return whole, x
    return None


def _hard_swish(graph: Graph, op: Op) -> Found | None:
    """(x * clip(x + 3, 0, 6)) / 6, or (x / 6) * clip(x + 3, 0, 6)."""
    product = _by_number(graph, op, "mul", 1 / 6)
    made = None if product is None else _maker(graph, product, "mul")
    if made is not None:
        for x, gate in (made.inputs, made.inputs[::-1]):
            if _relu6_of_plus_3(graph, gate) == x:
                return "hard_swish", x
    if op.kind == "mul":
        for sixth, gate in (op.inputs, op.inputs[::-1]):
            x6 = _by_number(graph, _maker(graph, sixth, "mul"), "mul", 1 / 6)
            if x6 is not None and _relu6_of_plus_3(graph, gate) == x6:
                return "hard_swish", x6
    return None
