"""Widens channel spaces with channels of zero weights to a multiple that integer kernels like.

A channel space is a set of values that must have the same channels: what a depthwise convolution, an activation, a
pool, a residual sum or a squeeze-excite gate joins. A dense convolution separates spaces. Widening one adds zero
filters where it is made and zero input weights where it is read, so nothing that is read changes, whatever stands in
the new channels (a sigmoid makes 1/2 of zero there; the weights behind it are zero all the same). A concat puts the
channels of its inputs, with their new ones, side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Note, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.shuffle_onehot import is_dense, is_depthwise

RULE = "pad_channels"

CHANNELWISE = frozenset(
    {"hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu", "clip", "leaky_relu"}
    | {"max_pool", "avg_pool", "global_pool"}
)
"""Kinds whose output channel k depends on input channel k alone, without constants."""


@dataclass(frozen=True)
class _Layout:
    """A widened space: its channel count, and where each old channel stands."""

    channels: int
    position: Array


def pad_channels(graph: Graph, *, multiple: int = 16, growth: float = 2.0) -> tuple[Graph, list[Note]]:
    """The graph with depthwise channels, and the inputs of concats, padded to a multiple; a note for each space.

    Args:
        graph: a float graph without batch norms.
        multiple: the channel count of a padded space is one of these.
        growth: a space that would become more than this many times wider stays as it is.
    """
    spaces = _Spaces(graph)
    layouts, notes = _layouts(graph, spaces, multiple, growth)
    edit = graph.edit()
    for op in graph.ops:
        new = _widened(graph, edit, op, lambda name: layouts.get(spaces.root(name)))
        if new is not op:
            edit.swap(op, new)
    for name, value in graph.values.items():
        layout = None if value.is_const else layouts.get(spaces.root(name))
        if layout is not None:
            edit.set_shape(name, (value.shape[0], layout.channels, *value.shape[2:]))
    return edit.finish(), notes


class _Spaces:
    """The channel spaces of a graph: which values share one, which must keep their width and why."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fixed: dict[str, str] = {}
        self.wanted: set[str] = set()
        self.joins: dict[str, Op] = {}
        self._parent = {name: name for name, value in graph.values.items() if not value.is_const}
        for op in graph.ops:
            self._join(op)
        for name in (*graph.inputs, *graph.outputs):
            self._fix(name, f"`{name}` is an input or output of the graph")
        self._settle()

    def root(self, name: str) -> str:
        """The value that stands for the space of `name`."""
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def _join(self, op: Op) -> None:
        if is_depthwise(self.graph, op):
            self._same(op)
            self.wanted.add(op.output)
        elif op.kind == "concat" and op.attrs["axis"] == 1:
            self.joins[op.output] = op
            self.wanted.update(op.inputs)
        elif self._keeps_channels(op):
            self._same(op)
        elif not self._mixes_channels(op):
            for name in (*self.graph.activations(op), op.output):
                self._fix(name, f"`{op.name}` ({op.kind}) does not work channel by channel")

    def _mixes_channels(self, op: Op) -> bool:
        """Whether every output channel sums over all input channels with weights."""
        if op.kind == "linear":
            return len(self.graph.shape(op.output)) == 2 and self.graph.value(op.inputs[1]).is_const
        return is_dense(self.graph, op)

    def _keeps_channels(self, op: Op) -> bool:
        """Whether output channel k comes from channel k of the inputs, and numbers in new channels are harmless."""
        shapes = [self.graph.shape(name) for name in (*op.inputs, op.output)]
        if op.kind in ("add", "sub", "mul"):
            joined = self.graph.activations(op) == op.inputs
            return joined and all(len(s) > 1 and s[1] == shapes[-1][1] for s in shapes)
        if op.kind in ("flatten", "reshape"):
            return all(s[1] == prod(s[1:]) for s in shapes)
        return op.kind in CHANNELWISE or (op.kind == "pad" and not isinstance(attrs_of(op)["value"], tuple))

    def _same(self, op: Op) -> None:
        for name in self.graph.activations(op):
            self._parent[self.root(name)] = self.root(op.output)

    def _fix(self, name: str, why: str) -> None:
        self.fixed.setdefault(name, why)

    def _settle(self) -> None:
        """Speaks of spaces instead of values, and keeps a concat's inputs where its output must keep its width."""
        of_values, self.fixed = self.fixed, {}
        for name, why in of_values.items():
            self._fix(self.root(name), why)
        self.wanted = {self.root(name) for name in self.wanted}
        makers: dict[str, list[Op]] = {}
        for op in self.graph.ops:
            if op.output in self.joins or (op.kind in ("conv", "linear") and not is_depthwise(self.graph, op)):
                makers.setdefault(self.root(op.output), []).append(op)
        for op in self.joins.values():
            if len(makers[self.root(op.output)]) > 1:
                self._fix(self.root(op.output), f"`{op.name}` (concat) is added to something else")
        # From the last concat to the first, because one may read another.
        for op in reversed(self.joins.values()):
            if self.root(op.output) in self.fixed:
                for name in op.inputs:
                    self._fix(self.root(name), self.fixed[self.root(op.output)])


def _layouts(graph: Graph, spaces: _Spaces, multiple: int, growth: float) -> tuple[dict[str, _Layout], list[Note]]:
    """The layout of each space that becomes wider, by its root."""
    layouts: dict[str, _Layout] = {}
    notes: list[Note] = []
    joined = {spaces.root(name) for name in spaces.joins}
    for root in sorted(spaces.wanted - joined, key=list(graph.values).index):
        channels = graph.shape(root)[1]
        padded = -(-channels // multiple) * multiple
        if padded == channels:
            continue
        if root in spaces.fixed:
            notes.append(Note(RULE, root, False, spaces.fixed[root]))
        elif padded > growth * channels:
            notes.append(Note(RULE, root, False, f"{channels} channels would become {padded}"))
        else:
            layouts[root] = _Layout(padded, np.arange(channels))
            notes.append(Note(RULE, root, True, f"{channels} to {padded} channels"))
    for name, op in spaces.joins.items():
        if spaces.root(name) in spaces.fixed:
            continue
        parts = [
            layouts.get(spaces.root(i)) or _Layout(graph.shape(i)[1], np.arange(graph.shape(i)[1])) for i in op.inputs
        ]
        starts = np.cumsum([0, *(part.channels for part in parts)])
        position = np.concatenate([part.position + start for part, start in zip(parts, starts[:-1], strict=True)])
        if starts[-1] != len(position):
            layouts[spaces.root(name)] = _Layout(int(starts[-1]), position)
    return layouts, notes


def _widened(graph: Graph, edit: Editor, op: Op, layout: Callable[[str], _Layout | None]) -> Op:
    """`op` with its constants and attributes as the layouts of its input and output want them."""
    made, read = layout(op.output), layout(op.inputs[0])
    if op.kind == "reshape" and made:
        return op.with_attrs(shape=(op.attrs["shape"][0], made.channels, *op.attrs["shape"][2:]))
    if op.kind not in ("conv", "linear") or not (made or read):
        return op
    depthwise = is_depthwise(graph, op)
    weight, *bias = op.inputs[1:]
    data = graph.const(weight)
    if read and not depthwise:
        data = _scattered(data, read, axis=1)
    if made:
        data = _scattered(data, made, axis=0)
        bias = [edit.const(name, _scattered(graph.const(name), made, axis=0)) for name in bias]
    new = replace(op, inputs=(op.inputs[0], edit.const(weight, data), *bias))
    return new.with_attrs(groups=made.channels) if depthwise and made else new


def _scattered(data: Array, layout: _Layout, *, axis: int) -> Array:
    """`data` with zeros in the new channels of `axis`."""
    shape = (*data.shape[:axis], layout.channels, *data.shape[axis + 1 :])
    wide = np.zeros(shape, data.dtype)
    wide[(slice(None),) * axis + (layout.position,)] = data
    return wide
