"""Latency as a function of channel counts: single pieces measured at a few widths, everything between interpolated.

What is measured, and where, is the caller's: a function takes small float graphs and gives their costs. It may lower,
quantise and time them here, on another device, or count instructions; the table only knows its name. Each piece is cut
out with its batch norm and activation, at full width, at half and at a quarter of what it reads and makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

import numpy as np

from edgecnn.artifact import atomic_write, canonical_json, sha256_of
from edgecnn.ir.graph import Graph, Op, Value
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.verify import verify
from edgecnn.prune.cost import Piece, PieceCost, pieces_of
from edgecnn.prune.coupling import LOCKED, PRODUCERS, Coupling
from edgecnn.prune.groups import fitting

Measure = Callable[[Mapping[str, Graph]], Mapping[str, float]]
"""From small float graphs by key to what they cost; a graph that cannot be measured is left out."""

SHARES = (1.0, 0.5, 0.25)
FREE = frozenset({"flatten", "reshape"})
"""Kinds that take no time: the same bytes under another shape."""


@dataclass
class LatencyTable:
    """Measured latencies, kept on disk.

    Args:
        where: target, core, machine and versions, in words: an entry of another one is none.
        measure: for entries that are not there yet.
        path: of the file; None: nothing is kept.
        unit: of the costs.
    """

    where: str
    measure: Measure
    path: Path | None = None
    unit: str = "us"
    measured: int = 0
    entries: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                if content.get("where") == self.where:
                    self.entries = {str(k): float(v) for k, v in content[self.key].items()}
            except (OSError, ValueError, KeyError, AttributeError):
                self.entries = {}  # a damaged file only means that it is measured again

    @property
    def key(self) -> str:
        """Of the entries in the file."""
        return "latency_us" if self.unit == "us" else self.unit

    def look_up(self, graphs: Mapping[str, Graph]) -> dict[str, float]:
        """The cost of each graph that could be measured, by its key."""
        missing = {key: graph for key, graph in graphs.items() if key not in self.entries}
        if missing:
            found = self.measure(missing)
            self.measured += len(found)
            self.entries.update(found)
            if self.path is not None:
                atomic_write(self.path, canonical_json({"where": self.where, self.key: self.entries}))
        return {key: self.entries[key] for key in graphs if key in self.entries}


def latency_costs(coupling: Coupling, table: LatencyTable, *, tile: int) -> dict[str, PieceCost]:
    """For each piece its latency in microseconds by channels read and made, from the table.

    Counts between the measured ones are interpolated, after rounding up to full tiles: the last tile costs the same
    however full it is. A piece that cannot be measured alone costs nothing.
    """
    grids = {piece.name: _Grid.of(coupling.graph, piece, tile) for piece in pieces_of(coupling)}
    graphs = {key: graph for grid in grids.values() for key, graph in grid.graphs.items()}
    found = table.look_up(graphs)
    return {name: grid.cost(found) for name, grid in grids.items()}


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where one piece is measured: the counts along both sides, their tiles, and the key of each point."""

    reads: tuple[int, ...]
    makes: tuple[int, ...]
    tiles: tuple[int, int]
    keys: Mapping[tuple[int, int], str]
    graphs: Mapping[str, Graph]

    @staticmethod
    def of(graph: Graph, piece: Piece, tile: int) -> _Grid:
        first = piece.ops[0]
        if first.kind in FREE:
            return _Grid((0,), (0,), (1, 1), {}, {})
        tiles = fitting(tile, len(piece.reads)), fitting(tile, len(piece.makes))
        makes = _counts(piece.makes, tiles[1], piece)
        both = first.kind in PRODUCERS and not piece.per_group
        reads = _counts(piece.reads, tiles[0], piece) if both else (len(piece.reads),)
        keys, graphs = {}, {}
        for m in makes:
            for r in reads:
                small = resized(graph, piece, r if both else _reading(piece, m), m)
                if small is not None:
                    key = signature(small)
                    keys[r, m] = key
                    graphs[key] = small
        return _Grid(reads, makes, tiles, keys, graphs)

    def cost(self, found: Mapping[str, float]) -> PieceCost:
        """The function of (reads, makes) for the points that were measured."""
        if not self.keys or any(key not in found for key in self.keys.values()):
            return lambda reads, makes: 0.0
        us = np.array([[found[self.keys[r, m]] for m in self.makes] for r in self.reads])
        known: dict[tuple[int, int], float] = {}

        def at(reads: int, makes: int) -> float:
            if (reads, makes) not in known:
                column = [_between(self.makes, row, _full(makes, self.tiles[1], self.makes[-1])) for row in us]
                known[reads, makes] = _between(self.reads, column, _full(reads, self.tiles[0], self.reads[-1]))
            return known[reads, makes]

        return at


def _counts(units: np.ndarray[tuple[int], np.dtype[np.int64]], tile: int, piece: Piece) -> tuple[int, ...]:
    """The counts at which a side is measured, ascending: shares of it in whole tiles and groups."""
    size = len(units)
    if (units == LOCKED).all():
        return (size,)
    step = max(piece.groups, piece.per_group, 1)
    multiple = step * max(1, tile // step) if size > step else 1
    return tuple(sorted({size, *(min(size, max(multiple, round(size * s / multiple) * multiple)) for s in SHARES)}))


def _reading(piece: Piece, makes: int) -> int:
    """What a piece whose input shrinks with its output reads, if it makes so many."""
    return max(1, round(len(piece.reads) * makes / len(piece.makes)))


def _full(count: int, tile: int, most: int) -> int:
    return min(most, ceil(count / tile) * tile)


def _between(
    counts: Sequence[int], us: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], at: int
) -> float:
    """Linear between the points, and beyond the first one as between the first two; never below zero."""
    if len(counts) > 1 and at < counts[0]:
        slope = (us[1] - us[0]) / (counts[1] - counts[0])
        return max(0.0, float(us[0] + slope * (at - counts[0])))
    return float(np.interp(at, counts, us))


def signature(graph: Graph) -> str:
    """The hash of all that a small graph's latency depends on: kinds, attributes, shapes, what is constant."""
    number = {name: at for at, name in enumerate(dict.fromkeys(n for op in graph.ops for n in (*op.inputs, op.output)))}
    ops = [[op.kind, [number[i] for i in op.inputs], sorted(attrs_of(op).items())] for op in graph.ops]
    values = [[number[n], list(graph.shape(n)), graph.value(n).is_const] for n in number]
    return sha256_of(canonical_json([ops, values]))[:24]


def resized(graph: Graph, piece: Piece, reads: int, makes: int) -> Graph | None:
    """The piece alone, reading and making so many channels; None where that cannot be.

    Weights are random: only their shape matters, and quantising constants of one value would not.
    """
    first, *rest = piece.ops
    rng = np.random.default_rng(0)
    values: dict[str, Value] = {}

    def activation(name: str, channels: int) -> None:
        shape = list(graph.shape(name))
        shape[1] = channels
        values[name] = Value(name, tuple(shape))

    def constant(name: str, shape: Sequence[int]) -> None:
        values[name] = Value(name, tuple(shape), rng.normal(0, 1, shape).astype(np.float32))

    x = graph.activations(first)
    old = len(piece.makes)
    if first.kind in PRODUCERS:
        activation(first.inputs[0], reads)
        weight = graph.shape(first.inputs[1])
        fan_in = piece.per_group or reads // piece.groups
        constant(first.inputs[1], (makes, fan_in, *weight[2:]))
        scale = 1 / np.sqrt(np.prod(values[first.inputs[1]].shape[1:]))
        values[first.inputs[1]] = replace(values[first.inputs[1]], data=values[first.inputs[1]].data * scale)
        if len(first.inputs) > 2:
            constant(first.inputs[2], (makes,))
        for name in first.inputs[3:]:
            values[name] = graph.value(name)
        if piece.per_group:
            first = first.with_attrs(groups=reads // piece.per_group)
    elif first.kind == "concat":
        bounds = [0]
        for name in first.inputs:
            bounds.append(bounds[-1] + graph.shape(name)[1])
        cuts = [round(b * makes / bounds[-1]) for b in bounds]
        inputs = []
        for name, low, high in zip(first.inputs, cuts, cuts[1:], strict=False):
            if high > low and name not in values:
                activation(name, high - low)
                inputs.append(name)
        if sum(values[name].shape[1] for name in inputs) != makes:
            return None
        first = replace(first, inputs=tuple(inputs))
    else:
        for name in x:
            activation(name, makes if graph.shape(name)[1] == old else graph.shape(name)[1])
        if first.kind == "slice":
            activation(x[0], max(reads, makes))
            if first.attrs["axis"] == 1:
                first = first.with_attrs(start=0, stop=makes)
        for name in first.inputs:
            if graph.value(name).is_const:
                constant(name, [makes if d == old else d for d in graph.shape(name)])
    return _finished(graph, first, rest, values, makes, constant)


def _finished(
    graph: Graph,
    first: Op,
    rest: Sequence[Op],
    values: dict[str, Value],
    makes: int,
    constant: Callable[[str, Sequence[int]], None],
) -> Graph | None:
    """The chain behind its resized first op, if that is a legal graph."""
    inputs = tuple(dict.fromkeys(n for n in first.inputs if values[n].data is None))
    for op in (first, *rest):
        for name in op.inputs[1:]:
            if name not in values:
                constant(name, (makes,))
        if op.kind == "batch_norm":
            variance = values[op.inputs[4]]
            values[op.inputs[4]] = replace(variance, data=np.ones(variance.shape, np.float32))
        shape = list(graph.shape(op.output))
        shape[1] = makes
        values[op.output] = Value(op.output, tuple(shape))
    small = Graph.build("piece", (first, *rest), values.values(), inputs, ((rest[-1] if rest else first).output,))
    try:
        verify(small)
    except ValueError:
        return None
    return small
