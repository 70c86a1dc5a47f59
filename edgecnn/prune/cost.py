"""What a net costs by how many channels each layer has left: multiply-adds, parameters, or the time of a table.

A *piece* is an op with the batch norm and the activation behind it, which every target makes one with it. Its cost
depends on how many channels it reads and makes; a ledger keeps those numbers while units go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.prune.coupling import LOCKED, PRODUCERS, Coupling

FOLLOWERS = frozenset(
    {"batch_norm", "clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu"}
)


@dataclass(frozen=True, eq=False)
class Piece:
    """An op with what is fused behind it.

    Args:
        ops: the op and its followers.
        reads: the units of the channels of its first input.
        makes: the units of the channels of its output.
        per_group: for a convolution in groups that loses whole ones, the channels each group reads; else 0.
        groups: of a convolution that keeps its groups; else 1.
    """

    ops: tuple[Op, ...]
    reads: Array
    makes: Array
    per_group: int
    groups: int

    @property
    def name(self) -> str:
        """That of its first op."""
        return self.ops[0].output

    def fan_in(self, channels: int) -> float:
        """Channels that each filter reads, if `channels` are left."""
        return self.per_group or channels / self.groups


PieceCost = Callable[[int, int], float]
"""From (channels read, channels made) to a cost."""


def pieces_of(coupling: Coupling) -> tuple[Piece, ...]:
    """The pieces of a graph, in order."""
    graph = coupling.graph
    chains: dict[str, list[Op]] = {}
    lead: dict[str, str] = {}
    for op in graph.ops:
        x = next(iter(graph.activations(op)), None)
        follows = op.kind in FOLLOWERS and x in lead and graph.only_user(x) is op
        lead[op.output] = lead[x] if follows and x is not None else op.output
        chains.setdefault(lead[op.output], []).append(op)
    found = []
    for chain in chains.values():
        first, x = chain[0], next(iter(graph.activations(chain[0])), None)
        makes = coupling.of(chain[-1].output)
        groups = attrs_of(first).get("groups", 1) if first.kind == "conv" else 1
        whole = groups > 1 and coupling.ways.get(first.output) == "groups"
        found.append(
            Piece(
                tuple(chain),
                makes if x is None else coupling.of(x),
                makes,
                graph.shape(first.inputs[1])[1] if whole else 0,
                1 if whole else groups,
            )
        )
    return tuple(found)


def macs_cost(graph: Graph, piece: Piece) -> PieceCost:
    """Multiply-adds of a piece, as `ir.ops.macs_of` counts them."""
    first = piece.ops[0]
    if first.kind not in PRODUCERS:
        return _free
    taps = prod(graph.shape(first.inputs[1])[2:])
    pixels = prod(graph.shape(first.output)[2:]) if first.kind != "linear" else 1
    return lambda reads, makes: makes * piece.fan_in(reads) * taps * pixels


def params_cost(graph: Graph, piece: Piece) -> PieceCost:
    """Parameters of a piece: weights, biases, scales and shifts of batch norm."""
    first = piece.ops[0]
    per_channel = 2 * sum(op.kind == "batch_norm" for op in piece.ops)
    if first.kind not in PRODUCERS:
        return lambda reads, makes: per_channel * makes
    taps = prod(graph.shape(first.inputs[1])[2:])
    per_channel += len(first.inputs) > 2
    return lambda reads, makes: makes * (piece.fan_in(reads) * taps + per_channel)


def _free(reads: int, makes: int) -> float:
    return 0.0


@dataclass(eq=False)
class Ledger:
    """How many channels every piece has left, and what that costs.

    Args:
        pieces: of the graph.
        costs: one function per piece.
        units: how many there are.
    """

    pieces: tuple[Piece, ...]
    costs: tuple[PieceCost, ...]
    units: int

    def __post_init__(self) -> None:
        self.reads = np.array([len(p.reads) for p in self.pieces])
        self.makes = np.array([len(p.makes) for p in self.pieces])
        # All (unit, piece, side) that meet, sorted by unit: which numbers fall when a unit goes.
        unit = np.concatenate([side for p in self.pieces for side in (p.reads, p.makes)])
        sizes = [size for p in self.pieces for size in (len(p.reads), len(p.makes))]
        place = np.repeat(np.arange(len(sizes)), sizes)
        there = unit != LOCKED
        order = np.argsort(unit[there], kind="stable")
        self._place = place[there][order]
        self._start = np.searchsorted(unit[there][order], np.arange(self.units + 1))

    def total(self) -> float:
        """The cost of what is left."""
        return sum(cost(int(r), int(m)) for cost, r, m in zip(self.costs, self.reads, self.makes, strict=True))

    def saving(self, units: Array) -> float:
        """What the cost falls by if `units` go."""
        saved = 0.0
        for piece, reads, makes in self._lost(units):
            r, m = int(self.reads[piece]), int(self.makes[piece])
            saved += self.costs[piece](r, m) - self.costs[piece](r - reads, m - makes)
        return saved

    def remove(self, units: Array) -> frozenset[int]:
        """Takes `units` off the counts; the pieces concerned."""
        return self._move(units, -1)

    def restore(self, units: Array) -> frozenset[int]:
        """Takes `units` back; the pieces concerned."""
        return self._move(units, 1)

    def _move(self, units: Array, sign: int) -> frozenset[int]:
        lost = self._lost(units)
        for piece, reads, makes in lost:
            self.reads[piece] += sign * reads
            self.makes[piece] += sign * makes
        return frozenset(piece for piece, _, _ in lost)

    def touched(self, units: Array) -> frozenset[int]:
        """The pieces that have channels of `units`."""
        return frozenset(piece for piece, _, _ in self._lost(units))

    def _lost(self, units: Array) -> list[tuple[int, int, int]]:
        if not len(units):
            return []
        places = np.concatenate([self._place[self._start[u] : self._start[u + 1]] for u in units])
        sides, counts = np.unique(places, return_counts=True)
        lost: dict[int, list[int]] = {}
        for side, count in zip(sides.tolist(), counts.tolist(), strict=True):
            lost.setdefault(side // 2, [0, 0])[side % 2] = count
        return [(piece, reads, makes) for piece, (reads, makes) in lost.items()]


COSTS: Mapping[str, Callable[[Graph, Piece], PieceCost]] = {"macs": macs_cost, "params": params_cost}
"""Costs that follow from the graph alone; latency comes from a table."""


def ledger_of(coupling: Coupling, cost: Callable[[Graph, Piece], PieceCost]) -> Ledger:
    """A ledger of a graph in which nothing is removed yet."""
    pieces = pieces_of(coupling)
    return Ledger(pieces, tuple(cost(coupling.graph, piece) for piece in pieces), coupling.units)
