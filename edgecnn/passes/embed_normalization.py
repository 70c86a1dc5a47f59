"""Moves the normalisation of the input into the first convolutions, so that the graph takes raw pixels.

With pixels p in 0...S (S is `input_scale`, 255 for bytes) the net has seen x = (p / S - mean) / std, a map per channel,
x = s * p + t with s = 1 / (S * std) and t = -mean / std. It goes into a convolution W x + b that reads the input as
(W s) p + (W t + b) (`passes.affine`). At a border the convolution has seen x = 0, which is p = S * mean and not p = 0:
so its padding moves into a `pad` op with that value per channel, and the convolution itself pads no more. Exact at the
borders too. Convolutions with the same padding share one pad op; without padding there is none.

Where something other than a convolution reads the input, a depthwise 1x1 convolution in front computes x instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array, Editor, Graph, Note, Op, Pass, Source
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.affine import Affine, depthwise, fold_before
from edgecnn.passes.cleanup import cleanup

RULE = "embed_normalization"


def embed_normalization(
    mean: Sequence[float], std: Sequence[float], *, input_scale: float = 255, pad_per_channel: bool = True
) -> Pass:
    """A pass after which the graph takes pixels of 0 to `input_scale` instead of normalised ones.

    The graph does not know what its input means: the caller records the new meaning.

    Args:
        mean: per channel (or one for all), in units of 0 to 1.
        std: per channel (or one for all), in units of 0 to 1.
        input_scale: the pixel value that counts as 1.
        pad_per_channel: whether the target can pad with a value per channel. If not, an input that is read with
            padding gets the depthwise layer.

    Raises:
        UsageError: (by the pass) mean and std do not fit the input, or std is not positive.
    """
    return partial(_embed_normalization, mean=mean, std=std, input_scale=input_scale, pad_per_channel=pad_per_channel)


def _embed_normalization(
    graph: Graph, mean: Sequence[float], std: Sequence[float], *, input_scale: float, pad_per_channel: bool
) -> tuple[Graph, list[Note]]:
    mean_c, std_c = _per_channel(graph, mean, std)
    graph, notes = cleanup(graph)  # a pad op in front of a convolution becomes the convolution's own padding
    source = graph.inputs[0]
    affine = Affine(1 / (input_scale * std_c), -mean_c / std_c)
    zero = mean_c * input_scale  # the pixel that the net has seen as 0
    if why := _obstacle(graph, source, may_pad=pad_per_channel):
        graph, embedded = _normalise_in_front(graph, source, affine, why)
    else:
        graph, embedded = _into_convolutions(graph, source, affine, zero)
    return graph, notes + embedded


def _per_channel(graph: Graph, mean: Sequence[float], std: Sequence[float]) -> tuple[Array, Array]:
    shape = graph.shape(graph.inputs[0])
    if len(shape) != 4:
        raise UsageError(
            "only images can be normalised inside the graph", where=graph.name, expected="an input NCHW", got=str(shape)
        )
    channels = shape[1]
    for what, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, channels):
            raise UsageError(
                f"`{what}` does not fit the input `{graph.inputs[0]}` of `{graph.name}`",
                expected=f"1 or {channels} numbers",
                got=f"{len(numbers)}: {tuple(numbers)}",
                do="give one number per channel of the image",
            )
    if not all(number > 0 for number in std):
        raise UsageError("`std` must be positive", where=graph.name, expected="numbers above 0", got=str(tuple(std)))
    spread = (np.broadcast_to(np.asarray(numbers, np.float64), channels) for numbers in (mean, std))
    mean_c, std_c = spread
    return mean_c, std_c


def _obstacle(graph: Graph, source: str, *, may_pad: bool) -> str | None:
    """Why the map cannot move into the readers of the input; None if it can."""
    if source in graph.outputs:
        return f"`{source}` is also an output of the graph"
    for reader in graph.users[source]:
        if reader.kind != "conv":
            return f"`{reader.output}`, which is {reader.kind}, reads it"
        if not may_pad and any(attrs_of(reader)["pad"]):
            return f"`{reader.output}` pads, and the target cannot pad with a value per channel"
    return None


def _into_convolutions(graph: Graph, source: str, affine: Affine, zero: Array) -> tuple[Graph, list[Note]]:
    edit, notes = graph.edit(), []
    padded: dict[tuple[int, ...], str] = {(0, 0, 0, 0): source}
    for conv in graph.users[source]:
        pad = attrs_of(conv)["pad"]
        if pad not in padded:
            padded[pad] = _insert_pad(edit, source, pad, zero, conv.source)
        moved = replace(conv, inputs=(padded[pad], *conv.inputs[1:])).with_attrs(pad=(0, 0, 0, 0))
        edit.swap(conv, moved)
        fold_before(edit, moved, affine)
        border = f", padded by `{padded[pad]}`" if any(pad) else ""
        notes.append(Note(RULE, source, True, f"into `{conv.output}`{border}"))
    return edit.finish(), notes


def _insert_pad(edit: Editor, source: str, pad: tuple[int, ...], zero: Array, origin: Source) -> str:
    top, bottom, left, right = pad
    batch, channels, height, width = edit.values[source].shape
    name = edit.activation(f"{source}_pad", (batch, channels, height + top + bottom, width + left + right))
    edit.insert(Op("pad", (source,), name, {"pad": pad, "value": tuple(float(v) for v in zero)}, origin))
    return name


def _normalise_in_front(graph: Graph, source: str, affine: Affine, why: str) -> tuple[Graph, list[Note]]:
    edit = graph.edit()
    name = edit.activation(f"{source}_normalized", graph.shape(source))
    edit.redirect(source, name)
    edit.insert(depthwise(edit, affine, source=source, output=name, origin=Source()))
    return edit.finish(), [Note(RULE, source, True, f"by a depthwise 1x1 convolution `{name}`, because {why}")]
