"""A net in pieces that are reconstructed one after the other: layers, or blocks with one way in and one way out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgecnn.ir.graph import Graph, Op

Unit = Literal["layer", "block"]

LAYERS = ("conv", "linear")
"""The kinds whose weights are learned."""

ACTIVATIONS = frozenset(
    {"clip", "hard_swish", "hard_sigmoid", "silu", "sigmoid", "tanh", "gelu", "leaky_relu"}
)  # fmt: skip
"""What is reconstructed together with the layer in front of it: only what comes through an activation counts."""

MOST_LAYERS = 16
"""A block with more layers (a whole stage of a DenseNet) is taken layer by layer: its memory and the number of weights
that are chosen at once grow with it, and a block's point is to be small."""


@dataclass(frozen=True)
class Segment:
    """Ops that stand in a row.

    Args:
        ops: in the order of the graph.
        inputs: the activations that they read of others.
        output: the value that leaves; those of a layer's segment that others read besides are none.
    """

    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    output: str

    @property
    def layers(self) -> tuple[Op, ...]:
        """Those that have weights."""
        return tuple(op for op in self.ops if op.kind in LAYERS)

    def graph(self, whole: Graph) -> Graph:
        """The segment as a graph of its own, with the constants and parameters that `whole` has."""
        names = dict.fromkeys([*self.inputs, *(n for op in self.ops for n in (*op.inputs, op.output))])
        return Graph.build(self.output, self.ops, [whole.value(n) for n in names], self.inputs, (self.output,))


def segments(graph: Graph, unit: Unit) -> list[Segment]:
    """The ops of `graph`, each in one segment, in order.

    - `layer`: each op is one, with the activation behind it that alone reads it.
    - `block`: cut wherever all that is computed later depends on one value only, but not between a layer and its
      activation. Residual blocks, squeeze-and-excitation and branches stay whole.
    """
    if unit == "layer":
        return [_segment(graph, ops) for ops in _with_activations(graph, [[op] for op in graph.ops])]
    found: list[Segment] = []
    for ops in _with_activations(graph, list(_blocks(graph))):
        whole = _segment(graph, ops)
        if len(whole.layers) > MOST_LAYERS:
            found += [_segment(graph, part) for part in _with_activations(graph, [[op] for op in ops])]
        else:
            found.append(whole)
    return found


def _blocks(graph: Graph) -> Iterator[list[Op]]:
    """Pieces between which a single value is alive."""
    last = {name: at for at, op in enumerate(graph.ops) for name in op.inputs}
    alive, piece = set(graph.inputs), list[Op]()
    for at, op in enumerate(graph.ops):
        piece.append(op)
        alive.add(op.output)
        alive = {name for name in alive if last.get(name, -1) > at or name in graph.outputs}
        if alive == {op.output}:
            yield piece
            piece = []
    if piece:
        yield piece


def _with_activations(graph: Graph, pieces: list[list[Op]]) -> list[list[Op]]:
    """The pieces, where an activation that alone reads the layer at the end of the piece before has joined that."""
    joined: list[list[Op]] = []
    for piece in pieces:
        before = joined[-1][-1] if joined else None
        follows = (
            len(piece) == 1
            and before is not None
            and before.kind in LAYERS
            and piece[0].kind in ACTIVATIONS
            and graph.only_user(before.output) is piece[0]
        )
        if follows:
            joined[-1].append(piece[0])
        else:
            joined.append(list(piece))
    return joined


def _segment(graph: Graph, ops: list[Op]) -> Segment:
    made = {op.output for op in ops}
    inputs = dict.fromkeys(name for op in ops for name in graph.activations(op) if name not in made)
    return Segment(tuple(ops), tuple(inputs), ops[-1].output)
