"""Which channels live and die together.

Every channel of every value, and every slice of a constant along an axis, carries a label; equal labels fall together.
An op's rule says how labels pass through it: a convolution gives its output channels labels of their own, a sum makes
the labels of its two sides equal, a shuffle or a slice only moves them, and what stands for a whole (the image, the
net's answer) is locked. The labels that end up connected are a *unit*: the smallest set of channels that can be removed
so that the rest is a net of the same form.

A kind without a rule locks what it reads and makes, with the reason noted: never wrong, at worst too careful.

Grouped convolutions and channel shuffles keep their form in two ways: `positions` takes equally many channels out of
every group (a shuffle: the same ones), `groups` takes whole groups out (fewer groups; a depthwise convolution knows
nothing else). Which of the two, is chosen in the order of the graph so that most units are left: of ResNeXt's groups
whole ones go, of a heterogeneous convolution positions do, so that P still divides its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.prune.balance import balanced
from edgecnn.prune.unionfind import smallest_members

LOCKED = -1
Way = Literal["positions", "groups"]
Key = tuple[str, int]
"""A value's name and one of its axes."""

PRODUCERS = frozenset({"conv", "deform_conv", "linear"})
"""Kinds whose output channels are their own: filters that can be removed."""


@dataclass(frozen=True)
class Lock:
    """Channels that stay, and why."""

    at: str
    why: str


@dataclass(frozen=True, eq=False)
class Coupling:
    """The units of a graph.

    Args:
        graph: whose channels they are.
        units: how many there are; a unit is a number below that.
        labels: the unit of each index along an axis of a value, `LOCKED` for those that stay.
        axis: the axis of each activation along which its channels lie.
        ways: what a grouped convolution or a shuffle loses: positions of every group, or whole groups.
        locks: channels that stay for a reason of their own.
    """

    graph: Graph
    units: int
    labels: Mapping[Key, Array]
    axis: Mapping[str, int]
    ways: Mapping[str, Way]
    locks: tuple[Lock, ...]

    def of(self, name: str) -> Array:
        """The units of an activation's channels."""
        return self.labels[name, self.axis[name]]

    def filters(self, op: Op) -> Array:
        """The units of a producer's filters: rows of its weight."""
        return self.labels[op.inputs[1], 0]

    def columns(self, op: Op) -> Array | None:
        """The units that the columns of a producer's weight belong to, (rows, columns); None: they all stay.

        They are those of the channels read, which a convolution in groups has others of in each group.
        """
        weight = op.inputs[1]
        rows, columns = self.graph.shape(weight)[:2]
        if (weight, 1) in self.labels:
            return np.broadcast_to(self.labels[weight, 1], (rows, columns))
        if self.ways.get(op.output) != "positions":
            return None
        by_group = self.of(op.inputs[0]).reshape(-1, columns)
        return np.repeat(by_group, rows // len(by_group), axis=0)

    def producers(self) -> list[Op]:
        """The ops whose filters can be removed, in order."""
        return [op for op in self.graph.ops if op.kind in PRODUCERS]


@dataclass
class _Choice:
    """A place with two ways: edges between labels, and labels by group of which each group loses equally many."""

    op: Op
    ways: dict[Way, list[tuple[Array, Array]]]
    even: tuple[Array, ...]


@dataclass
class Builder:
    """Labels and edges while the graph is walked; `prune.rules` fills it."""

    graph: Graph
    count: int = 1  # label 0 is the lock
    labels: dict[Key, Array] = field(default_factory=dict)
    axis: dict[str, int] = field(default_factory=dict)
    edges: list[tuple[Array, Array]] = field(default_factory=list)
    choices: list[_Choice] = field(default_factory=list)
    ways: dict[str, Way] = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)

    def fresh(self, size: int) -> Array:
        """That many new labels."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def join(self, a: Array, b: Array) -> None:
        """Makes labels equal, one by one; one array may be a single label for all of the other."""
        self.edges.append(tuple(np.broadcast_arrays(a, b)))  # type: ignore[arg-type]

    def of(self, name: str) -> Array:
        """The labels of an activation's channels."""
        return self.labels[name, self.axis[name]]

    def put(self, name: str, labels: Array, axis: int = 1) -> None:
        """Notes the labels of an activation."""
        self.labels[name, axis] = labels
        self.axis[name] = axis

    def constant(self, name: str, axis: int, labels: Array) -> None:
        """Notes the labels of a constant; one that several ops read joins what they say."""
        if (name, axis) in self.labels:
            self.join(self.labels[name, axis], labels)
        else:
            self.labels[name, axis] = labels

    def lock(self, labels: Array, at: str, why: str) -> None:
        """These labels stay."""
        self.join(labels, np.zeros(1, int))
        self.locks.append(Lock(at, why))

    def locked(self, name: str) -> None:
        """An activation whose channels all stay, whatever its rank."""
        shape = self.graph.shape(name)
        axis = min(1, len(shape) - 1)
        self.put(name, np.zeros(shape[axis] if axis else 1, int), axis)

    def choose(self, op: Op, ways: dict[Way, list[tuple[Array, Array]]], even: tuple[Array, ...] = ()) -> None:
        """Leaves it open which edges hold.

        Args:
            op: what it is about.
            ways: the edges of each way.
            even: labels (groups, channels) that are made even by `balance`, one after the other, for `positions`.
        """
        self.choices.append(_Choice(op, ways, even))

    def finish(self) -> Coupling:
        """Decides what was left open, and numbers the units."""
        root = smallest_members(self.count, self.edges)
        for choice in self.choices:
            found = {way: self._joined(root, edges) for way, edges in choice.ways.items()}
            for rows in choice.even:
                now = found["positions"]
                found["positions"] = self._joined(now, balanced(now[rows], locked=int(now[0])))
            best = max(found, key=lambda way: _removable(found[way]))
            self.ways[choice.op.output], root = best, found[best]
        unlocked = np.flatnonzero((root == np.arange(self.count)) & (root != root[0]))
        number = np.full(self.count, LOCKED)
        number[unlocked] = np.arange(len(unlocked))
        labels = {key: number[root[found]] for key, found in self.labels.items()}
        return Coupling(self.graph, len(unlocked), labels, dict(self.axis), dict(self.ways), tuple(self.locks))

    def _joined(self, root: Array, edges: list[tuple[Array, Array]]) -> Array:
        return smallest_members(self.count, [(np.arange(self.count), root), *edges])


def _removable(root: Array) -> int:
    """How many connected sets are not locked."""
    return int(((root == np.arange(len(root))) & (root != root[0])).sum())
