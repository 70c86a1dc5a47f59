"""Folds channel shuffles, and the slices behind them, into the weights that read them.

A permutation of channels in front of a dense convolution is a permutation of its weights' input channels:

    conv(shuffle(x), w)  =  conv(x, w[:, inverse])

and a slice is the same with zero weights for what was cut off. In front of a depthwise convolution it moves behind it.
Where the shuffled half goes straight into a concat, there are no weights to fold into; it becomes a 1x1 convolution
with one-hot weights, which integer matrix kernels do faster than moving bytes channel by channel. Exact: every sum has
one term that is not zero. So does a shuffle in front of a grouped convolution, whose columns cannot be permuted, up to
`MOST_CHANNELS`; above, its products cost more than the moving.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Note, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.group_shuffle import feeds_groups

RULE = "shuffle_onehot"
MOST_CHANNELS = 512
"""Channels of the widest shuffle that is made by a convolution. Measured up to 384 (a ShuffleNetV1 of 8 groups)."""


@dataclass(frozen=True)
class _View:
    """A value that is never made: its channel k is channel `index[k]` of `stored`."""

    stored: str
    index: Array


def shuffle_onehot(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph without the channel shuffles that can be folded, and a note for each shuffle."""
    edit = graph.edit()
    views: dict[str, _View] = {}
    notes: list[Note] = []
    for op in graph.ops:
        if op.kind == "channel_shuffle":
            reason = _obstacle(graph, op)
            if reason is not None and feeds_groups(graph, op) and graph.shape(op.output)[1] <= MOST_CHANNELS:
                _materialise(graph, edit, op.output, _shuffled(graph, op, views))
                notes.append(Note(RULE, op.name, True, "a 1x1 convolution with one-hot weights"))
                continue
            notes.append(Note(RULE, op.name, reason is None, reason or "into the weights of its readers"))
            if reason is None:
                views[op.output] = _shuffled(graph, op, views)
        elif op.kind == "slice" and op.inputs[0] in views:
            seen = views[op.inputs[0]]
            views[op.output] = replace(seen, index=seen.index[op.attrs["start"] : op.attrs["stop"]])
        elif not views.keys().isdisjoint(op.inputs):
            _rewrite(graph, edit, op, views)
    return edit.finish(), notes


def is_depthwise(graph: Graph, op: Op) -> bool:
    """Whether `op` is a convolution of each channel with one constant filter of its own."""
    channels = graph.shape(op.inputs[0])[1]
    return _is_layer(graph, op) and attrs_of(op)["groups"] == channels == graph.shape(op.output)[1]


def is_dense(graph: Graph, op: Op) -> bool:
    """Whether `op` is a convolution of all channels with constant filters."""
    return _is_layer(graph, op) and attrs_of(op)["groups"] == 1 and not is_depthwise(graph, op)


def _is_layer(graph: Graph, op: Op) -> bool:
    return op.kind == "conv" and all(graph.value(name).is_const for name in op.inputs[1:])


def _obstacle(graph: Graph, shuffle: Op) -> str | None:
    """Why the shuffle must stay; None if everything behind it can read channels in any order."""
    todo = [(shuffle.output, True)]  # a value, and whether it has all channels
    while todo:
        name, whole = todo.pop()
        if name in graph.outputs:
            return f"`{name}` is an output of the graph"
        for user in graph.users[name]:
            if user.kind in ("slice", "channel_shuffle") and user.attrs.get("axis", 1) == 1:
                todo.append((user.output, whole and user.kind == "channel_shuffle"))
            elif is_depthwise(graph, user) and whole:
                if any(not is_dense(graph, u) for u in graph.users[user.output]) or user.output in graph.outputs:
                    return f"what follows `{user.name}` cannot read channels in another order"
            elif not is_dense(graph, user) and not (user.kind == "concat" and user.attrs["axis"] == 1):
                return f"`{user.name}` ({user.kind}) cannot read channels in another order"
    return None


def _shuffled(graph: Graph, op: Op, views: Mapping[str, _View]) -> _View:
    channels, groups = graph.shape(op.output)[1], op.attrs["groups"]
    order = np.arange(channels).reshape(groups, channels // groups).T.ravel()
    seen = views.get(op.inputs[0], _View(op.inputs[0], np.arange(channels)))
    return _View(seen.stored, seen.index[order])


def _rewrite(graph: Graph, edit: Editor, op: Op, views: dict[str, _View]) -> None:
    """Lets `op`, which reads a view, read what is stored."""
    if op.kind == "concat":
        for name in dict.fromkeys(n for n in op.inputs if n in views):
            _materialise(graph, edit, name, views[name])
        return
    seen = views[op.inputs[0]]
    weight = graph.const(op.inputs[1])
    if is_dense(graph, op):
        folded = np.zeros((weight.shape[0], graph.shape(seen.stored)[1], *weight.shape[2:]), np.float32)
        folded[:, seen.index] = weight
        constants = [edit.const(op.inputs[1], folded), *op.inputs[2:]]
    else:
        # Depthwise: its filters take the stored order, and so does its output.
        inverse = np.argsort(seen.index)
        constants = [edit.const(name, graph.const(name)[inverse]) for name in op.inputs[1:]]
        views[op.output] = _View(op.output, seen.index)
    edit.swap(op, replace(op, inputs=(seen.stored, *constants)))


def _materialise(graph: Graph, edit: Editor, name: str, seen: _View) -> None:
    """Makes the view called `name` by a convolution with one-hot weights, in the place of its shuffle or slice."""
    maker = next((op for op in edit.ops if op.output == name), None)
    if maker is None or maker.kind == "conv":  # made for another concat already
        return
    onehot = np.zeros((len(seen.index), graph.shape(seen.stored)[1], 1, 1), np.float32)
    onehot[np.arange(len(seen.index)), seen.index] = 1
    weight = edit.const(f"{name}_onehot", onehot)
    edit.swap(maker, Op("conv", (seen.stored, weight), name, source=maker.source))
