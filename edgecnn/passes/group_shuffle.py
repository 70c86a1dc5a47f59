"""Channel shuffles around grouped convolutions: into the rows of a dense one, or spared by making a grouped one dense.

Behind a dense convolution a shuffle is an order of its rows, and costs nothing:

    shuffle(conv(x, w))  =  conv(x, w[order])

A grouped convolution has no such freedom, since its rows and columns belong together. Filled up with zeros it has:
more products, but no channel has to be moved before it or behind it (its columns are for `fold_channel_shuffle` and
`shuffle_onehot`, which run later). Whether that pays is the target's to say. Exact: what is added is zero.

Depthwise convolutions and kinds that treat all channels alike may stand between the shuffle and the convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Graph, Note, Op, Pass
from edgecnn.ir.ops import attrs_of, macs_of
from edgecnn.passes.channel_shuffle import CHANNELWISE, RULED, shuffled

ROWS = "shuffle_into_rows"
DENSE = "ungroup"


@dataclass(frozen=True)
class Shuffle:
    """A shuffle that need not be made: its channels, and the pixels of its map."""

    channels: int
    pixels: int


Worth = Callable[[int, list[Shuffle]], bool]
"""Whether so many more multiply-adds take less time than the shuffles they spare."""


def shuffle_into_rows(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph without the shuffles that stand behind a dense convolution and alone read it; a note for each."""
    notes: list[Note] = []
    while (found := next(_behind_dense(graph), None)) is not None:
        shuffle, chain = found
        order = shuffled(graph.shape(shuffle.output)[1], shuffle.attrs["groups"])
        edit = graph.edit()
        edit.remove(shuffle)
        for op in chain:
            constants = [edit.const(f"{name}_ordered", graph.const(name)[order]) for name in op.inputs[1:]]
            output = shuffle.output if op.output == shuffle.inputs[0] else op.output
            edit.swap(op, replace(op, inputs=(op.inputs[0], *constants), output=output))
        graph = edit.finish()
        notes.append(Note(ROWS, shuffle.output, True, f"into the rows of `{chain[-1].inputs[1]}`"))
    return graph, notes


def ungroup(worth: Worth) -> Pass:
    """A pass that makes grouped convolutions next to shuffles dense where `worth` says so; a note for each of them."""
    return partial(_ungroup, worth=worth)


def _ungroup(graph: Graph, *, worth: Worth) -> tuple[Graph, list[Note]]:
    edit = graph.edit()
    notes: list[Note] = []
    spared: set[str] = set()
    # The later of two convolutions around a shuffle has the choice: its columns are for the passes that follow.
    for op in reversed(graph.ops):
        around = [*_before(graph, op), *_after(graph, op)] if is_grouped(graph, op) else []
        shuffles = [shuffle for shuffle in around if shuffle.output not in spared]
        if not shuffles:
            continue
        groups = attrs_of(op)["groups"]
        added = (groups - 1) * macs_of(graph, op)
        pays = worth(added, [_measure(graph, shuffle) for shuffle in shuffles])
        why = f"{groups} groups as one: {added:,} more multiply-adds for {len(shuffles)} fewer shuffles"
        notes.append(Note(DENSE, op.output, pays, why if pays else f"not worth it: {why}"))
        if pays:
            spared.update(shuffle.output for shuffle in shuffles)
            weight = edit.const(f"{op.inputs[1]}_dense", block_diagonal(graph.const(op.inputs[1]), groups))
            edit.swap(op, replace(op.with_attrs(groups=1), inputs=(op.inputs[0], weight, *op.inputs[2:])))
    return edit.finish(), notes[::-1]


def block_diagonal(w_oihw: Array, groups: int) -> Array:
    """The dense weight that does what a grouped one does: zeros where a row does not read a column."""
    outputs, inputs, *kernel = w_oihw.shape
    rows = outputs // groups
    dense = np.zeros((outputs, inputs * groups, *kernel), w_oihw.dtype)
    for g in range(groups):
        dense[g * rows : (g + 1) * rows, g * inputs : (g + 1) * inputs] = w_oihw[g * rows : (g + 1) * rows]
    return dense


def is_grouped(graph: Graph, op: Op) -> bool:
    """Whether `op` is a convolution in groups with constant weights, but not a depthwise one."""
    return _is_layer(graph, op) and 1 < attrs_of(op)["groups"] < graph.shape(op.inputs[0])[1]


def feeds_groups(graph: Graph, shuffle: Op) -> bool:
    """Whether all that reads the shuffle, one after another, is at last a grouped convolution."""
    reader = graph.only_user(shuffle.output)
    while reader is not None and _keeps_channels(graph, reader):
        reader = graph.only_user(reader.output)
    return reader is not None and is_grouped(graph, reader)


def _behind_dense(graph: Graph) -> Iterator[tuple[Op, list[Op]]]:
    """Shuffles with the chain of ops above them, upwards, that ends with a dense convolution."""
    for shuffle in graph.ops:
        if shuffle.kind != RULED:
            continue
        chain: list[Op] = []
        name = shuffle.inputs[0]
        while (op := graph.makers.get(name)) is not None and graph.only_user(name) is not None:
            chain.append(op)
            if _is_layer(graph, op) and attrs_of(op)["groups"] == 1:
                yield shuffle, chain
                break
            if not _keeps_channels(graph, op):
                break
            name = op.inputs[0]


def _before(graph: Graph, op: Op) -> Iterator[Op]:
    name = op.inputs[0]
    while (maker := graph.makers.get(name)) is not None and graph.only_user(name) is not None:
        if maker.kind == RULED:
            yield maker
        if not _keeps_channels(graph, maker):
            return
        name = maker.inputs[0]


def _after(graph: Graph, op: Op) -> Iterator[Op]:
    user = graph.only_user(op.output)
    while user is not None and _keeps_channels(graph, user):
        user = graph.only_user(user.output)
    if user is not None and user.kind == RULED:
        yield user


def _keeps_channels(graph: Graph, op: Op) -> bool:
    """Whether `op` works on each channel alone, so that an order of channels passes through it."""
    if op.kind in CHANNELWISE:
        return len(op.inputs) == 1
    channels = graph.shape(op.output)[1] if len(graph.shape(op.output)) > 1 else 0
    return _is_layer(graph, op) and attrs_of(op)["groups"] == channels == graph.shape(op.inputs[0])[1]


def _is_layer(graph: Graph, op: Op) -> bool:
    return op.kind == "conv" and all(graph.value(name).is_const for name in op.inputs[1:])


def _measure(graph: Graph, shuffle: Op) -> Shuffle:
    _, channels, *pixels = graph.shape(shuffle.output)
    return Shuffle(channels, prod(pixels))
