"""How the labels of channels pass through each kind of op; see `prune.coupling`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.prune.coupling import Builder, Coupling

Rule = Callable[[Builder, Op], None]

PER_CHANNEL = frozenset(
    {"clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu"}
    | {"max_pool", "avg_pool", "global_pool", "upsample"}
)
"""Kinds that treat all channels alike and each on its own."""

REASONS = {
    "lrn": "its sums run over neighbouring channels",
    "softmax": "its sum runs over all channels",
}


def couple(graph: Graph) -> Coupling:
    """The units of `graph`."""
    builder = Builder(graph)
    for name in graph.inputs:
        builder.locked(name)
    for op in graph.ops:
        RULES.get(op.kind, _locked)(builder, op)
    for name in graph.outputs:
        builder.lock(builder.of(name), name, "the net's answer")
    return builder.finish()


def _locked(b: Builder, op: Op, why: str | None = None) -> None:
    """Everything the op reads and makes stays."""
    why = why or REASONS.get(op.kind, f"no rule says what `{op.kind}` does to channels")
    for name in b.graph.activations(op):
        b.lock(b.of(name), op.output, why)
    for name in op.inputs:
        if b.graph.value(name).is_const:
            for key, labels in b.labels.items():
                if key[0] == name:
                    b.lock(labels, op.output, why)
    b.locked(op.output)


def _per_channel(b: Builder, op: Op) -> None:
    x = op.inputs[0]
    if b.axis[x] >= len(b.graph.shape(op.output)):
        return _locked(b, op, "its channels do not lie along one axis")
    return b.put(op.output, b.of(x), b.axis[x])


def _conv(b: Builder, op: Op) -> None:
    x, weight = b.of(op.inputs[0]), op.inputs[1]
    rows, columns = b.graph.shape(weight)[:2]
    groups = attrs_of(op)["groups"]
    y = b.fresh(rows)
    _rows(b, op, y)
    if groups == 1:
        b.constant(weight, 1, x)
        return
    x_groups, y_groups = x.reshape(groups, -1), y.reshape(groups, -1)
    whole = [(x_groups, x_groups[:, :1]), (y_groups, x_groups[:, :1])]
    if columns == 1:
        b.edges += [_spread(a, c) for a, c in whole]
        b.ways[op.output] = "groups"
        return
    if len(b.graph.users[weight]) > 1:  # the columns that go differ by group, and may by reader
        b.lock(x, op.output, "a convolution in groups that shares its weight")
        b.lock(y, op.output, "a convolution in groups that shares its weight")
        return
    # Which columns go differs by group, so they have no labels of their own: see `coupling.columns`.
    b.choose(op, {"groups": [_spread(a, c) for a, c in whole], "positions": []}, even=(x_groups, y_groups))


def _spread(a: Array, b: Array) -> tuple[Array, Array]:
    x, y = np.broadcast_arrays(a, b)
    return x, y


def _rows(b: Builder, op: Op, y: Array) -> None:
    """The labels of a layer's filters: its output, the rows of its weight, its bias."""
    b.put(op.output, y, len(b.graph.shape(op.output)) - 1 if op.kind == "linear" else 1)
    b.constant(op.inputs[1], 0, y)
    if len(op.inputs) > 2:
        b.constant(op.inputs[2], 0, y)


def _deform_conv(b: Builder, op: Op) -> None:
    x, weight, _, *moved = op.inputs
    for name in moved:
        b.lock(b.of(name), name, "the offsets and masks of a deformable convolution")
    rows, columns, height, width = b.graph.shape(weight)
    channels = b.graph.shape(x)[1]
    _rows(b, op, b.fresh(rows))
    offset_groups = b.graph.shape(moved[0])[1] // (2 * height * width)
    if columns == channels and offset_groups == 1:
        b.constant(weight, 1, b.of(x))
    else:
        b.lock(b.of(x), op.output, "a deformable convolution in groups")
        b.lock(b.of(op.output), op.output, "a deformable convolution in groups")


def _linear(b: Builder, op: Op) -> None:
    x = op.inputs[0]
    if b.axis[x] != len(b.graph.shape(x)) - 1:
        return _locked(b, op, "a linear layer over another axis than the channels'")
    _rows(b, op, b.fresh(b.graph.shape(op.inputs[1])[0]))
    return b.constant(op.inputs[1], 1, b.of(x))


def _batch_norm(b: Builder, op: Op) -> None:
    for name in op.inputs[1:]:
        b.constant(name, 0, b.of(op.inputs[0]))
    b.put(op.output, b.of(op.inputs[0]))


def _element_wise(b: Builder, op: Op) -> None:
    """Sides with channels fall together; a constant per channel goes with its channel."""
    active = b.graph.activations(op)
    rank = len(b.graph.shape(op.output))
    if not active:
        return b.locked(op.output)
    axes = {b.axis[name] + rank - len(b.graph.shape(name)) for name in active}
    if len(axes) > 1:
        return _locked(b, op, "its sides have their channels along different axes")
    axis = axes.pop()
    size = b.graph.shape(op.output)[axis]
    wide = [name for name in active if len(b.of(name)) == size]
    if not wide:
        return _locked(b, op, "one channel spreads over many")
    labels = b.of(wide[0])
    for name in active:
        if name in wide:
            b.join(labels, b.of(name))
        else:  # one channel for all, such as a map of weights over pixels
            b.lock(b.of(name), name, "one channel that meets all channels")
    for name in op.inputs:
        if b.graph.value(name).is_const:
            shape = b.graph.shape(name)
            own = axis - (rank - len(shape))
            if own >= 0 and shape[own] == size and size > 1:
                b.constant(name, own, labels)
    return b.put(op.output, labels, axis)


def _concat(b: Builder, op: Op) -> None:
    at = op.attrs["axis"]
    axes = {b.axis[name] for name in b.graph.activations(op)}
    if len(axes) > 1:
        return _locked(b, op, "it joins values whose channels lie along different axes")
    axis = axes.pop() if axes else at
    parts = []
    for name in op.inputs:
        if b.graph.value(name).is_const:
            b.constant(name, axis, b.fresh(b.graph.shape(name)[axis]))
            parts.append(b.labels[name, axis])
        else:
            parts.append(b.of(name))
    if axis == at:
        return b.put(op.output, np.concatenate(parts), axis)
    for part in parts[1:]:
        b.join(parts[0], part)
    return b.put(op.output, parts[0], axis)


def _slice(b: Builder, op: Op) -> None:
    x = op.inputs[0]
    labels, axis = b.of(x), b.axis[x]
    b.put(op.output, labels[op.attrs["start"] : op.attrs["stop"]] if op.attrs["axis"] == axis else labels, axis)


def _shuffle(b: Builder, op: Op) -> None:
    x = b.of(op.inputs[0])
    by_group = x.reshape(op.attrs["groups"], -1)
    b.put(op.output, by_group.T.reshape(-1))
    b.choose(op, {"groups": [_spread(by_group, by_group[:, :1])], "positions": [_spread(by_group, by_group[:1])]})


def _pad(b: Builder, op: Op) -> None:
    b.put(op.output, b.of(op.inputs[0]), b.axis[op.inputs[0]])


def _flatten(b: Builder, op: Op) -> None:
    _regrouped(b, op, (prod(b.graph.shape(op.inputs[0])[1:]),))


def _reshape(b: Builder, op: Op) -> None:
    _regrouped(b, op, tuple(op.attrs["shape"][1:]))


def _regrouped(b: Builder, op: Op, shape: tuple[int, ...]) -> None:
    """The same numbers under another shape: fine as long as each channel still is a slice along one axis."""
    x = op.inputs[0]
    old = b.graph.shape(x)[1:]
    along = [1] * len(old)
    along[b.axis[x] - 1] = -1
    spread = np.broadcast_to(b.of(x).reshape(along), old).reshape(shape)
    for axis in range(len(shape)):
        first = spread[tuple(slice(None) if k == axis else slice(0, 1) for k in range(len(shape)))]
        if np.array_equal(spread, np.broadcast_to(first, shape)):
            return b.put(op.output, first.reshape(-1), axis + 1)
    return _locked(b, op, "its channels do not lie along one axis")


def _transpose(b: Builder, op: Op) -> None:
    x = op.inputs[0]
    b.put(op.output, b.of(x), list(op.attrs["perm"]).index(b.axis[x]))


RULES: dict[str, Rule] = {
    "conv": _conv,
    "deform_conv": _deform_conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "concat": _concat,
    "slice": _slice,
    "channel_shuffle": _shuffle,
    "pad": _pad,
    "flatten": _flatten,
    "reshape": _reshape,
    "transpose": _transpose,
    **dict.fromkeys(("add", "sub", "mul"), _element_wise),
    **dict.fromkeys(PER_CHANNEL, _per_channel),
}
