"""Moves a map per channel that stands between the input and the first convolutions into these.

Many nets normalise their image themselves, `(x - mean) / std` or `x * scale + shift`, as GoogLeNet and Inception v3 do
to make ImageNet's normalisation theirs, all channels at once or one by one. Such arithmetic with constants is a map
y = scale * x + shift per channel, and a convolution W y + b that reads it is (W scale) x + (W shift + b)
(`passes.affine`). At a border the convolution has seen y = 0, which is x = -shift / scale: so its padding moves into a
`pad` op with that value per channel, and the convolution itself pads no more. Exact at the borders too. Convolutions
with the same padding share one pad op; without padding there is none.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Note, Op, Source
from edgecnn.ir.ops import NO_CLIP, attrs_of
from edgecnn.passes.affine import Affine, Refused, fold_before

RULE = "fold_input_map"


def fold_input_map(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph whose first convolutions read its inputs as they are, and a note for each map that moved or could not.

    A map stays where something other than a convolution reads what it makes.
    """
    notes: list[Note] = []
    for source in graph.inputs:
        mapped, affine = input_map(graph, source)
        if affine is None:
            continue
        try:
            graph, moved = into_convolutions(graph, source, mapped, affine, rule=RULE)
            notes += moved
        except Refused as why:
            notes.append(Note(RULE, mapped, False, str(why)))
    return graph, notes


def input_map(graph: Graph, source: str) -> tuple[str, Affine | None]:
    """The last value of what happens per channel to the input `source`, and all of it as one map.

    Channels may be cut apart, mapped each in its own way, and put together again in their order. `source` itself and
    None if nothing happens.
    """
    name, whole = _chain(graph, source)
    if (parts := _parts(graph, name)) is not None:
        end, mapped = parts
        name, later = _chain(graph, end)
        whole = _composed(_composed(whole, mapped), later)
    return name, whole


def _chain(graph: Graph, source: str) -> tuple[str, Affine | None]:
    name, whole = source, None
    while (op := graph.only_user(name)) is not None:
        try:
            step = _step(graph, op)
        except Refused:
            break
        name, whole = op.output, _composed(whole, step)
    return name, whole


def _parts(graph: Graph, source: str) -> tuple[str, Affine] | None:
    """The concatenation of all slices of `source`, with what happened to each on the way."""
    cuts = graph.users[source]
    if not cuts or any(cut.kind != "slice" or cut.attrs["axis"] != 1 for cut in cuts):
        return None
    cuts = tuple(sorted(cuts, key=lambda cut: cut.attrs["start"]))
    bounds = [(cut.attrs["start"], cut.attrs["stop"]) for cut in cuts]
    whole = (0, *(stop for _, stop in bounds))
    if bounds != list(pairwise(whole)) or whole[-1] != graph.shape(source)[1]:
        return None
    ends, maps = zip(*(_chain(graph, cut.output) for cut in cuts), strict=True)
    together = graph.only_user(ends[0])
    if together is None or together.kind != "concat" or together.attrs["axis"] != 1 or together.inputs != ends:
        return None
    known = [m or Affine.uniform(stop - start) for m, (start, stop) in zip(maps, bounds, strict=True)]
    return together.output, Affine(np.concatenate([m.scale for m in known]), np.concatenate([m.shift for m in known]))


def _composed(first: Affine | None, second: Affine | None) -> Affine | None:
    return second if first is None else first if second is None else first.then(second)


def _step(graph: Graph, op: Op) -> Affine:
    if op.kind == "batch_norm":
        return Affine.of_batch_norm(graph, op)
    if op.kind not in ("add", "sub", "mul") or attrs_of(op)["clip"] != NO_CLIP:
        raise Refused(f"`{op.output}` is no map per channel")
    return Affine.of_arithmetic(graph, op)


def into_convolutions(
    graph: Graph, source: str, mapped: str, affine: Affine, *, rule: str, may_pad: bool = True
) -> tuple[Graph, list[Note]]:
    """Moves `affine`, which makes `mapped` of the input `source`, into the convolutions that read `mapped`.

    Args:
        graph: the graph.
        source: an input of the graph.
        mapped: what the readers see; `source` itself if the map is to be new there.
        affine: one entry per channel.
        rule: whose the notes are.
        may_pad: whether a pad op with a value per channel may be made.

    Raises:
        Refused: something else reads `mapped`, or the padding cannot be made.
    """
    readers = graph.users[mapped]
    _check(graph, mapped, readers, affine, may_pad=may_pad)
    edit, notes = graph.edit(), []
    padded: dict[tuple[int, ...], str] = {(0, 0, 0, 0): source}
    for conv in readers:
        pad = attrs_of(conv)["pad"]
        if pad not in padded:
            zero = -affine.shift / affine.scale + 0.0  # no negative zeros
            padded[pad] = _insert_pad(edit, source, pad, zero, conv.source)
        moved = replace(conv, inputs=(padded[pad], *conv.inputs[1:])).with_attrs(pad=(0, 0, 0, 0))
        edit.swap(conv, moved)
        fold_before(edit, moved, affine)
        border = f", padded by `{padded[pad]}`" if any(pad) else ""
        notes.append(Note(rule, mapped, True, f"into `{conv.output}`{border}"))
    return edit.finish(), notes


def _check(graph: Graph, mapped: str, readers: tuple[Op, ...], affine: Affine, *, may_pad: bool) -> None:
    if mapped in graph.outputs:
        raise Refused(f"`{mapped}` is also an output of the graph")
    for reader in readers:
        if reader.kind != "conv":
            raise Refused(f"`{reader.output}`, which is {reader.kind}, reads it")
        if any(attrs_of(reader)["pad"]):
            if not may_pad:
                raise Refused(f"`{reader.output}` pads, and the target cannot pad with a value per channel")
            if not affine.scale.all():
                raise Refused(f"`{reader.output}` pads, and no input is mapped to zero in every channel")


def _insert_pad(edit: Editor, source: str, pad: tuple[int, ...], zero: Array, origin: Source) -> str:
    top, bottom, left, right = pad
    batch, channels, height, width = edit.values[source].shape
    name = edit.activation(f"{source}_pad", (batch, channels, height + top + bottom, width + left + right))
    edit.insert(Op("pad", (source,), name, {"pad": pad, "value": tuple(float(v) for v in zero)}, origin))
    return name
