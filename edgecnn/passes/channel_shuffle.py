"""Folds channel shuffles, and the splits around them, into the weights of the convolutions that read them.

A shuffle moves every channel and computes nothing; as a TRANSPOSE it was 31 % of ShuffleNetV2. Here no channel is moved
for its own sake. Each value is a `View`: its logical channel i is channel `channels[i]` of some stored value. Then

    slice, channel_shuffle   pick from the view; no op remains
    convolution              reads the stored channels: its weight's columns are permuted (a view of a part of a value
                             is first gathered: one slice per run of neighbouring channels)
    depthwise, elementwise   work on channels as they are stored; weights and constants are permuted
    concat                   joins runs of stored channels; how it stores them is written down in its view
    anything else            gets its channels in logical order

The convolution in front of a concat may store its rows in any order. Stored in descending order at every second unit,
the channels that the next split keeps lie next to each other, and the runs stay few.

The sums of a convolution are added in another order, which is float noise and nothing in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Graph, Note, Op
from edgecnn.ir.ops import attrs_of

RULE = "fold_channel_shuffle"
RULED = "channel_shuffle"

CHANNELWISE = frozenset(
    {"clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu"}
    | {"max_pool", "avg_pool", "global_pool"}
)
"""Kinds that treat all channels alike and each on its own."""


@dataclass(frozen=True)
class View:
    """A value by its channels: logical channel i is channel `channels[i]` of the stored value `source`."""

    source: str
    channels: tuple[int, ...]

    def pick(self, indices: Sequence[int]) -> View:
        """The view whose logical channel i is channel `indices[i]` of this one."""
        return View(self.source, tuple(self.channels[i] for i in indices))


def fold_channel_shuffle(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph without its `channel_shuffle` ops; a note for each, and one for each place that restores an order."""
    shuffles = [Note(RULE, op.output, True, "into the weights around it") for op in graph.ops if op.kind == RULED]
    if not shuffles:
        return graph, []
    fold = _Fold(graph)
    return fold.run(), shuffles + fold.notes


def runs(channels: Sequence[int]) -> list[tuple[int, int]]:
    """The channels as runs (start, stop) of ascending neighbours, in the order given.

    Example:
        >>> runs([4, 5, 6, 0, 1, 9])
        [(4, 7), (0, 2), (9, 10)]
    """
    found: list[tuple[int, int]] = []
    for channel in channels:
        if found and found[-1][1] == channel:
            found[-1] = (found[-1][0], channel + 1)
        else:
            found.append((channel, channel + 1))
    return found


def shuffled(channels: int, groups: int) -> list[int]:
    """Where each channel behind a `channel_shuffle` comes from."""
    return [(i % groups) * (channels // groups) + i // groups for i in range(channels)]


class _Fold:
    """One walk over a graph that rewrites it op by op."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.edit = graph.edit()
        self.ops: list[Op] = []
        self.splits = any(op.kind == "slice" and op.attrs["axis"] == 1 for op in graph.ops)
        self.descending = True
        self.notes: list[Note] = []
        self._views: dict[str, View] = {}
        self._slices: dict[tuple[str, int, int], str] = {}
        self._ordered: dict[View, str] = {}

    def run(self) -> Graph:
        """The folded graph."""
        for op in self.graph.ops:
            self._views[op.output] = RULES.get(op.kind, _in_logical_order)(self, op)
        # The outputs of the graph keep their names, so what they show must be stored under these very names.
        for name in self.graph.outputs:
            if self.view(name) != self.identity(name):
                self._store_as(name, self.view(name))
        self.edit.ops = self.ops
        return self.edit.finish()

    # ---- views

    def identity(self, name: str) -> View:
        """The view of a value stored under its own name in its own order."""
        shape = self.graph.shape(name)
        return View(name, tuple(range(shape[1] if len(shape) > 1 else 0)))

    def view(self, name: str) -> View:
        """How a value of the original graph is stored now."""
        return self._views.get(name) or self.identity(name)

    def whole(self, name: str) -> View:
        """A view of all channels of one stored value, gathered first if it shows only a part of one."""
        view = self.view(name)
        if len(view.channels) == self.channels_of(view.source):
            return view
        stored = sorted(view.channels)
        gathered = self._gather(view.source, runs(stored), name)
        place = {channel: at for at, channel in enumerate(stored)}
        return View(gathered, tuple(place[channel] for channel in view.channels))

    def ordered(self, name: str) -> str:
        """A stored value that has the channels of `name` in logical order."""
        view = self.view(name)
        if view == self.identity(view.source):
            return view.source
        if view not in self._ordered:
            self._ordered[view] = self.edit.activation(f"{name}_ordered", self.graph.shape(name))
            self._order(view, self._ordered[view])
        return self._ordered[view]

    def channels_of(self, stored: str) -> int:
        """The number of channels of a stored value."""
        return self.edit.values[stored].shape[1]

    # ---- new ops

    def keep(self, op: Op, source: str, view: View, *constants: str) -> View:
        """Adds `op` with `source` (and constants, if given) for inputs; its output is stored as `view` says."""
        self.ops.append(replace(op, inputs=(source, *constants) if constants else (source, *op.inputs[1:])))
        return View(op.output, view.channels)

    def piece(self, source: str, start: int, stop: int, stem: str) -> str:
        """The stored channels from `start` up to `stop`, as a value of their own."""
        if (start, stop) == (0, self.channels_of(source)):
            return source
        key = (source, start, stop)
        if key not in self._slices:
            shape = self.edit.values[source].shape
            name = self.edit.activation(f"{stem}_part", (shape[0], stop - start, *shape[2:]))
            self.ops.append(Op("slice", (source,), name, {"axis": 1, "start": start, "stop": stop}))
            self._slices[key] = name
        return self._slices[key]

    def _gather(self, source: str, wanted: list[tuple[int, int]], stem: str) -> str:
        pieces = [self.piece(source, start, stop, stem) for start, stop in wanted]
        if len(pieces) == 1:
            return pieces[0]
        shape = self.edit.values[source].shape
        channels = sum(stop - start for start, stop in wanted)
        name = self.edit.activation(f"{stem}_gathered", (shape[0], channels, *shape[2:]))
        self.ops.append(Op("concat", tuple(pieces), name, {"axis": 1}))
        return name

    def _order(self, view: View, name: str) -> None:
        """Stores `view` in logical order under `name`: as a shuffle if it is one, else as runs."""
        count = len(view.channels)
        groups = [g for g in range(2, count) if count % g == 0 and view.channels == tuple(shuffled(count, g))]
        if groups and count == self.channels_of(view.source):
            self.ops.append(Op(RULED, (view.source,), name, {"groups": groups[0]}))
            why = f"a shuffle in {groups[0]} groups"
        elif len(wanted := runs(view.channels)) == 1:
            self.ops.append(Op("slice", (view.source,), name, {"axis": 1, "start": wanted[0][0], "stop": wanted[0][1]}))
            why = "a slice"
        else:
            pieces = tuple(self.piece(view.source, start, stop, name) for start, stop in wanted)
            self.ops.append(Op("concat", pieces, name, {"axis": 1}))
            why = f"{len(pieces)} runs of channels"
        self.notes.append(Note(RULE, name, False, f"read in its logical order, which takes {why}"))

    def _store_as(self, name: str, view: View) -> None:
        """Stores `view` in logical order under `name`; an op that has the name and another order gives it away."""
        if any(op.output == name for op in self.ops):
            stored = self.edit.activation(f"{name}_stored", self.edit.values[name].shape)
            self.ops = [_renamed(op, name, stored) for op in self.ops]
            self._views = {n: View(stored, v.channels) if v.source == name else v for n, v in self._views.items()}
            view = self.view(name)
        self._order(view, name)


def _renamed(op: Op, old: str, new: str) -> Op:
    inputs = tuple(new if name == old else name for name in op.inputs)
    return replace(op, inputs=inputs, output=new if op.output == old else op.output)


def _in_logical_order(fold: _Fold, op: Op) -> View:
    """Any other op: it reads its channels in the order of the original graph."""
    names = (fold.ordered(i) if not fold.graph.value(i).is_const else i for i in op.inputs)
    fold.ops.append(replace(op, inputs=tuple(names)))
    return fold.identity(op.output)


def _slice(fold: _Fold, op: Op) -> View:
    if op.attrs["axis"] != 1:
        return _in_logical_order(fold, op)
    return fold.view(op.inputs[0]).pick(range(op.attrs["start"], op.attrs["stop"]))


def _shuffle(fold: _Fold, op: Op) -> View:
    view = fold.view(op.inputs[0])
    return view.pick(shuffled(len(view.channels), op.attrs["groups"]))


def _concat(fold: _Fold, op: Op) -> View:
    if op.attrs["axis"] != 1:
        return _in_logical_order(fold, op)
    pieces: list[str] = []
    channels: list[int] = []
    base = 0
    for name in op.inputs:
        view = fold.view(name)
        stored = sorted(view.channels)
        place = {channel: base + at for at, channel in enumerate(stored)}
        pieces += [fold.piece(view.source, start, stop, name) for start, stop in runs(stored)]
        channels += [place[channel] for channel in view.channels]
        base += len(stored)
    fold.ops.append(replace(op, inputs=tuple(pieces)))
    return View(op.output, tuple(channels))


def _conv(fold: _Fold, op: Op) -> View:
    groups = attrs_of(op)["groups"]
    if groups == 1:
        return _dense(fold, op)
    if groups == len(fold.view(op.inputs[0]).channels):
        return _depthwise(fold, op)
    return _in_logical_order(fold, op)


def _dense(fold: _Fold, op: Op) -> View:
    """A convolution or linear layer: columns follow the stored order; rows may be stored in any, see the module."""
    view = fold.whole(op.inputs[0])
    weight = np.empty_like(fold.graph.const(op.inputs[1]))
    weight[:, list(view.channels)] = fold.graph.const(op.inputs[1])
    rows = list(range(len(weight)))
    if fold.splits and _joined(fold.graph, op):
        rows = rows[::-1] if fold.descending else rows
        fold.descending = not fold.descending
    return fold.keep(op, view.source, View(op.output, tuple(rows)), *_rows(fold, op, weight, rows))


def _joined(graph: Graph, op: Op) -> bool:
    """Whether a concatenation reads what `op` makes, be it behind its batch norm and activation."""
    while (user := graph.only_user(op.output)) is not None and user.kind in ("batch_norm", "clip"):
        op = user
    return any(user.kind == "concat" and user.attrs["axis"] == 1 for user in graph.users[op.output])


def _depthwise(fold: _Fold, op: Op) -> View:
    view = fold.whole(op.inputs[0])
    weight = fold.graph.const(op.inputs[1])
    outputs_each = len(weight) // len(view.channels)
    rows = [channel * outputs_each + i for channel in view.channels for i in range(outputs_each)]
    return fold.keep(op, view.source, View(op.output, tuple(rows)), *_rows(fold, op, weight, rows))


def _rows(fold: _Fold, op: Op, weight: Array, rows: list[int]) -> list[str]:
    """New constants of a layer whose logical output channel i is stored as channel `rows[i]`."""
    names = []
    for name, data in zip(op.inputs[1:], (weight, *(fold.graph.const(i) for i in op.inputs[2:])), strict=True):
        stored = np.empty_like(data)
        stored[rows] = data
        names.append(fold.edit.const(f"{name}_stored", stored))
    return names


def _channelwise(fold: _Fold, op: Op) -> View:
    view = fold.whole(op.inputs[0])
    return fold.keep(op, view.source, view)


def _batch_norm(fold: _Fold, op: Op) -> View:
    """Each channel by its own four constants, which are stored in the order of the channels."""
    view = fold.whole(op.inputs[0])
    constants = []
    for name in op.inputs[1:]:
        stored = np.empty_like(fold.graph.const(name))
        stored[list(view.channels)] = fold.graph.const(name)
        constants.append(fold.edit.const(f"{name}_stored", stored))
    return fold.keep(op, view.source, view, *constants)


def _pad(fold: _Fold, op: Op) -> View:
    if isinstance(attrs_of(op)["value"], tuple):
        return _in_logical_order(fold, op)
    return _channelwise(fold, op)


def _elementwise(fold: _Fold, op: Op) -> View:
    """Sums and products: as stored if both inputs are stored alike and none is a constant per channel."""
    active = fold.graph.activations(op)
    alike = all(fold.graph.shape(name)[1:2] == fold.graph.shape(op.output)[1:2] for name in active)
    constants = [fold.graph.shape(name) for name in op.inputs if name not in active]
    if not alike or any(prod(shape) != 1 for shape in constants):
        return _in_logical_order(fold, op)
    views = [fold.whole(name) for name in active]
    if len({view.channels for view in views}) > 1:
        return _in_logical_order(fold, op)
    sources = dict(zip(active, (view.source for view in views), strict=True))
    fold.ops.append(replace(op, inputs=tuple(sources.get(name, name) for name in op.inputs)))
    return View(op.output, views[0].channels)


def _flatten(fold: _Fold, op: Op) -> View:
    view = fold.whole(op.inputs[0])
    pixels = prod(fold.graph.shape(op.inputs[0])[2:])
    features = tuple(channel * pixels + i for channel in view.channels for i in range(pixels))
    return fold.keep(op, view.source, View(op.output, features))


def _linear(fold: _Fold, op: Op) -> View:
    return _dense(fold, op) if len(fold.graph.shape(op.output)) == 2 else _in_logical_order(fold, op)


RULES: dict[str, Callable[[_Fold, Op], View]] = {
    "slice": _slice,
    "channel_shuffle": _shuffle,
    "concat": _concat,
    "conv": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "pad": _pad,
    "flatten": _flatten,
    **dict.fromkeys(("add", "sub", "mul"), _elementwise),
    **dict.fromkeys(CHANNELWISE, _channelwise),
}
