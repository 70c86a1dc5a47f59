"""What the tests of passes prove with: graphs in which a correct rewrite is exact, and the bound for all others.

A folded constant is rounded to float32. In a `dyadic` graph every constant has a few bits and every scale is a power of
two, so that rounding changes nothing and the only noise left is that of summation in float64.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import torch

from edgecnn.ir.graph import Array, Graph, Op, Pass, Value
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.reference import apply, run
from edgecnn.ir.text import dumps, parse

F64_UNIT, F32_UNIT = 2.0**-53, 2.0**-24
BOUNDED = {"sigmoid", "hard_sigmoid", "tanh"}
AT_MOST_TIMES = {"hard_swish": 1.5, "silu": 1.1, "gelu": 1.2}
"""The largest slope of an activation that also bounds its size: |f(x)| <= |x|."""


def exact(text: str) -> Graph:
    """The graph of an IR text, with constants in which correct rewrites are exact."""
    return dyadic(parse(text))


def dyadic(graph: Graph) -> Graph:
    """The graph with few-bit constants: weights in quarters, scales and standard deviations powers of two, eps 0."""
    values = dict(graph.values)
    for op in graph.ops:
        for index, name in enumerate(op.inputs):
            if values[name].is_const:
                values[name] = replace(values[name], data=_few_bits(op, index, values[name]))
    ops = tuple(op.with_attrs(eps=0.0) if op.kind == "batch_norm" else op for op in graph.ops)
    return Graph(graph.name, ops, values, graph.inputs, graph.outputs)


def _few_bits(op: Op, index: int, value: Value) -> Array:
    rng = np.random.default_rng(zlib.crc32(value.name.encode()))
    if (op.kind, index) == ("batch_norm", 4):
        data = 4.0 ** rng.integers(-1, 2, value.shape)
    elif op.kind == "mul" or (op.kind, index) == ("batch_norm", 1):
        data = rng.choice([-1.0, 1.0], value.shape) * 2.0 ** rng.integers(-1, 2, value.shape)
    else:
        data = rng.integers(-4, 5, value.shape) / 4
    return np.asarray(data, np.float32)


def images(graph: Graph, *, n: int = 2, seed: int = 0) -> Array:
    """A batch of images in eighths, between -2 and 2."""
    rng = np.random.default_rng(seed)
    return rng.integers(-16, 17, (n, *graph.shape(graph.inputs[0])[1:])) / 8


def outputs(graph: Graph, x_nchw: Array) -> list[Array]:
    return run(graph, x_nchw, dtype=torch.float64)


def assert_same(before: Graph, after: Graph, *, roundings: int = 0) -> None:
    """Asserts that both graphs compute the same.

    Args:
        before: the graph that was rewritten.
        after: what came of it.
        roundings: how often a constant of `after` may have been rounded to float32.
    """
    x = images(before)
    bounds = noise(before, x, roundings=roundings)
    for was, now, bound in zip(outputs(before, x), outputs(after, x), bounds, strict=True):
        np.testing.assert_array_less(np.abs(now - was), bound)


def noise(graph: Graph, x_nchw: Array, *, roundings: int = 0) -> list[Array]:
    """How far apart two orders of the same computation can be, per output.

    Replace every number of the net by its absolute value and every subtraction by an addition: the outputs M of that
    net bound every sum that occurs on the way. An op that sums n products errs by at most n u of its absolute sum
    (u = 2^-53; 8 more for what activations compute), and an error passes through later ops as the absolute sums do. So
    D ops err by D (n + 8) u M, two runs by twice that, to which constants that were rounded k times to float32 add
    D k 2^-24 M (and their second order, for which the factor 1.01 stands).
    """
    depth = len(graph.ops) + 1
    widest = max((_fan_in(graph, op) for op in graph.ops), default=1)
    unit = depth * (2 * (widest + 8) * F64_UNIT + roundings * F32_UNIT)
    return [1.01 * unit * (magnitude + F64_UNIT) for magnitude in _magnitudes(graph, x_nchw)]


def _fan_in(graph: Graph, op: Op) -> int:
    if op.kind in ("conv", "linear"):
        return int(np.prod(graph.shape(op.inputs[1])[1:]))
    if op.kind in ("avg_pool", "max_pool"):
        return int(np.prod(op.attrs["kernel"]))
    return int(np.prod(graph.shape(op.inputs[0])[2:])) if op.kind == "global_pool" else 4


def _magnitudes(graph: Graph, x_nchw: Array) -> list[Array]:
    made = {graph.inputs[0]: torch.from_numpy(np.abs(x_nchw))}
    for op in graph.ops:
        tensors = []
        for index, name in enumerate(op.inputs):
            data = graph.value(name).data
            tensor = made[name] if data is None else torch.from_numpy(np.asarray(np.abs(data), np.float64))
            tensors.append(-tensor if (op.kind, index) == ("batch_norm", 3) else tensor)
        made[op.output] = _magnitude(op, tensors)
    return [made[name].numpy() for name in graph.outputs]


def _magnitude(op: Op, tensors: list[torch.Tensor]) -> torch.Tensor:
    attrs = attrs_of(op)
    bounds = attrs.get("clip", (attrs.get("lo"), attrs.get("hi")))
    room = sum(abs(bound) for bound in bounds if bound is not None)
    if op.kind in BOUNDED:
        return tensors[0] + 1
    if op.kind in AT_MOST_TIMES:
        return AT_MOST_TIMES[op.kind] * tensors[0]
    if op.kind == "clip":
        return tensors[0] + room
    if op.kind == "sub":
        op = replace(op, kind="add")
    if op.kind == "pad":
        op = op.with_attrs(value=tuple(np.abs(attrs["value"])) if np.ndim(attrs["value"]) else abs(attrs["value"]))
    if "clip" in attrs:
        op = op.with_attrs(clip=(None, None))
    return apply(op, tensors) + room


def body(graph: Graph) -> list[str]:
    """The lines of the graph's text between the braces."""
    return [line.strip() for line in dumps(graph).splitlines()[1:-1]]


def rewritten(graph: Graph, rewrite: Pass, *, roundings: int = 0) -> tuple[list[str], list[str]]:
    """The text and the notes of the graph after `rewrite`, once it is proved to compute the same."""
    after, notes = rewrite(graph)
    assert after.outputs == graph.outputs
    assert_same(graph, after, roundings=roundings)
    return body(after), [str(note) for note in notes]
