"""Cross-layer equalisation: channels that share a scale get ranges alike, and the net stays the same function.

A channel may be divided by s > 0 where it is made and multiplied by s where it is read, if all between is positively
homogeneous: f(s x) = s f(x), as ReLU, pooling, padding with zeros and sums of maps divided alike. So the channels of
one activation, which have one scale per tensor, become equally large.

The paper evens out the ranges r1 of the weights that make a channel and r2 of those that read it (equation 11):
s = r1 / sqrt(r1 r2). Targets here code weights per channel, so the weights that make a channel lose nothing whatever
its size, and r1 is the reach of the activation itself. Where a channel is read by depthwise layers alone, whose weights
have a scale per channel too, nothing is lost on that side either, and s = r1 makes all channels alike.

A bounded activation (ReLU6) is not homogeneous; its bound would differ by channel, which no runtime can express.

Source: M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from edgecnn.ir import reference
from edgecnn.ir.graph import Array, Editor, Graph, Note, Op
from edgecnn.ir.ops import attrs_of

RULE = "equalize"
LAYERS = ("conv", "linear")
FREE_CLIPS = ((None, None), (0.0, None))
SAME_CHANNELS = frozenset({"max_pool", "avg_pool", "global_pool", "upsample", "leaky_relu"})
MOVES = frozenset({"flatten", "reshape", "slice", "channel_shuffle"})
MOST = 2.0**10
"""A channel is scaled by at most this and at least its inverse: float32 constants keep all their bits, and nearly dead
channels are not blown up."""


@dataclass
class Family:
    """Values whose channels are scaled together.

    Args:
        channels: how many scales there are.
        positions: by value, which scale each of its channels (axis 1) takes.
        makers: the layers that make them.
        readers: the layers that read them, with the value that each reads.
    """

    channels: int
    positions: dict[str, Array] = field(default_factory=dict)
    makers: list[Op] = field(default_factory=list)
    readers: list[tuple[Op, str]] = field(default_factory=list)


def equalize(graph: Graph, reach: Mapping[str, Array]) -> tuple[Graph, list[Note]]:
    """`graph` with evened channels, the same function to float noise, and a note for each set of values.

    Args:
        graph: a float graph, batch norm folded.
        reach: from `channel_reach`.
    """
    edit, notes = graph.edit(), list[Note]()
    shared = {name for name in graph.values if len(graph.users[name]) > 1}
    for family in families(graph):
        constants = [name for op in _layers(family) for name in op.inputs[1:]]
        if shared & set(constants):
            continue
        scales = _scales(graph, edit, family, reach)
        gain = _evenness(family, reach, np.ones(family.channels)), _evenness(family, reach, scales)
        if not np.any(scales != 1):
            continue
        for op in family.makers:
            _divide(edit, op, scales[family.positions[op.output]])
        for op, name in family.readers:
            _multiply(edit, op, scales[family.positions[name]])
        notes.append(
            Note(RULE, family.makers[0].name, True, f"a channel fills {gain[0]:.0%} of its codes, then {gain[1]:.0%}")
        )
    return edit.finish(), notes


def channel_reach(graph: Graph, batches: Iterable[Array]) -> dict[str, Array]:
    """The largest magnitude of each channel (axis 1) of every activation, over the batches."""
    found: dict[str, Array] = {}

    def watch(name: str, y: torch.Tensor) -> None:
        most = y.abs().amax((0, *range(2, y.ndim))).numpy().astype(np.float64)
        found[name] = np.maximum(found[name], most) if name in found else most

    for batch in batches:
        reference.run(graph, batch, watch=watch)
    return found


def families(graph: Graph) -> list[Family]:
    """The sets of values that can be scaled, in the order of the net."""
    root = {name: name for name in graph.values}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    for op in graph.ops:
        for name in _carried(graph, op):
            root[find(name)] = find(op.output)
    members: dict[str, list[str]] = {}
    for name in (*graph.inputs, *(op.output for op in graph.ops)):
        members.setdefault(find(name), []).append(name)
    return [family for names in members.values() if (family := _family(graph, names)) is not None]


def _carried(graph: Graph, op: Op) -> tuple[str, ...]:
    """The operands that `op` passes on, so that scaling their channels scales those of its output alike."""
    a = attrs_of(op)
    if op.kind in ("add", "sub"):
        return op.inputs if a["clip"] in FREE_CLIPS and len(graph.activations(op)) == 2 else ()
    if op.kind == "mul" and a["clip"] in FREE_CLIPS:
        whole = [name for name in op.inputs if graph.shape(name) == graph.shape(op.output)]
        return (whole[0],) if len(whole) == 1 else ()
    if op.kind == "clip":
        return op.inputs if (a["lo"], a["hi"]) in FREE_CLIPS else ()
    if op.kind == "pad":
        return op.inputs if a["value"] == 0 else ()
    return op.inputs if op.kind in SAME_CHANNELS | MOVES else ()


def _family(graph: Graph, names: list[str]) -> Family | None:
    """The values `names`, which ops pass on among themselves, as a family; None if something fixes their scale."""
    inside = set(names)
    family: Family | None = None
    for name in names:
        op = graph.makers.get(name)
        if op is None or name in graph.outputs:
            return None
        if carried := _carried(graph, op):
            positions = None if family is None else _passed_on(graph, op, carried, family)
            if family is None or positions is None:
                return None
            family.positions[name] = positions
        elif op.kind in LAYERS and attrs_of(op)["clip"] in FREE_CLIPS and _is_constant(graph, op):
            channels = graph.shape(name)[1]
            family = family or Family(channels)
            if family.channels != channels:
                return None
            family.positions[name] = np.arange(channels)
            family.makers.append(op)
        else:
            return None
        for reader in graph.users[name]:
            if reader.output in inside and name in _carried(graph, reader):
                continue
            if reader.kind not in LAYERS or not _is_constant(graph, reader):
                return None
            assert family is not None  # set above
            family.readers.append((reader, name))
    return family if family is not None and family.readers else None


def _is_constant(graph: Graph, op: Op) -> bool:
    return all(graph.value(name).is_const for name in op.inputs[1:])


def _passed_on(graph: Graph, op: Op, carried: tuple[str, ...], family: Family) -> Array | None:
    """The scale of each channel of the op's output; None if its operands differ or channels are mixed."""
    if any(name not in family.positions for name in carried):
        return None
    first, *others = (family.positions[name] for name in carried)
    if not all(np.array_equal(first, other) for other in others):
        return None
    if op.kind not in MOVES:
        return first
    # The numbers of the channels take the way of the channels.
    shape = graph.shape(carried[0])[1:]
    numbers = torch.from_numpy(first.astype(np.float32)).reshape(1, -1, *(1,) * (len(shape) - 1)).expand(1, *shape)
    moved = reference.FLOAT[op.kind](attrs_of(op), numbers.contiguous()).numpy()
    flat = moved.reshape(moved.shape[1], -1)
    return flat[:, 0].astype(np.int64) if np.all(flat == flat[:, :1]) else None


def _layers(family: Family) -> list[Op]:
    return [*family.makers, *(op for op, _ in family.readers)]


def _scales(graph: Graph, edit: Editor, family: Family, reach: Mapping[str, Array]) -> Array:
    """s of each channel: what it is divided by where it is made."""
    r1, r2 = np.zeros(family.channels), np.zeros(family.channels)
    for name, positions in family.positions.items():
        # Values of one family have scales of their own: what counts is a channel's share of its tensor.
        share = reach[name] / max(float(reach[name].max()), 1e-30)
        np.maximum.at(r1, positions, share)
    dense = [(op, name) for op, name in family.readers if not _is_depthwise(graph, op)]
    for op, name in dense:
        weight = edit.values[op.inputs[1]].data
        assert weight is not None  # `_is_constant`
        columns = _columns(op, weight)
        np.maximum.at(r2, family.positions[name], columns / max(float(columns.max()), 1e-30))
    scales = r1 if not dense else np.sqrt(r1 / np.where(r2 > 0, r2, 1))
    usable = (r1 > 0) & ((r2 > 0) | (not dense))
    if not usable.any():
        return np.ones(family.channels)
    scales = np.where(usable, scales, 1.0)
    scales[usable] /= np.exp(np.log(scales[usable]).mean())  # whole tensors keep their size
    found: Array = np.clip(scales, 1 / MOST, MOST).astype(np.float32)
    return found


def _is_depthwise(graph: Graph, op: Op) -> bool:
    """Whether each output channel reads one input channel."""
    return op.kind == "conv" and attrs_of(op)["groups"] == graph.shape(op.inputs[0])[1]


def _columns(op: Op, weight: Array) -> Array:
    """The largest weight that reads each input channel of a layer."""
    if op.kind == "linear":
        found: Array = np.abs(weight).max(axis=0)
        return found
    groups = attrs_of(op)["groups"]
    by_group: Array = np.abs(weight).reshape(groups, -1, *weight.shape[1:]).max(axis=(1, 3, 4)).reshape(-1)
    return by_group


def _divide(edit: Editor, op: Op, s: Array) -> None:
    """The layer with each output channel divided by `s`."""
    for name in op.inputs[1:]:
        value = edit.values[name]
        assert value.data is not None  # `_is_constant`
        data = value.data / s.reshape(-1, *(1,) * (value.data.ndim - 1))
        edit.values[name] = replace(value, data=data.astype(np.float32))


def _multiply(edit: Editor, op: Op, s: Array) -> None:
    """The layer with the weights that read each input channel multiplied by `s`."""
    value = edit.values[op.inputs[1]]
    assert value.data is not None  # `_is_constant`
    w = value.data
    if op.kind == "linear":
        data = w * s
    else:
        groups = attrs_of(op)["groups"]
        data = (w.reshape(groups, -1, *w.shape[1:]) * s.reshape(groups, 1, -1, 1, 1)).reshape(w.shape)
    edit.values[value.name] = replace(value, data=data.astype(np.float32))


def _evenness(family: Family, reach: Mapping[str, Array], scales: Array) -> float:
    """How much of the tensor's range a channel reaches, mean over channels and values."""
    shares = []
    for name, positions in family.positions.items():
        scaled = reach[name] / scales[positions]
        shares.append(float((scaled / max(float(scaled.max()), 1e-30)).mean()))
    return float(np.mean(shares))
