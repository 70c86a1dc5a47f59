"""Moves the normalisation of the input into the first convolutions, so that the graph takes raw pixels.

With pixels p in 0...S (S is `input_scale`, 255 for bytes) the net has seen x = (p / S - mean) / std, a map per channel,
x = s * p + t with s = 1 / (S * std) and t = -mean / std. With what the net itself does to x channel by channel it moves
into the convolutions that read the result (`passes.input_map`), whose padding of x = 0 becomes one of p = S * mean.

Where something other than a convolution reads the result, a depthwise 1x1 convolution in front computes it instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array, Graph, Note, Pass, Source
from edgecnn.passes.affine import Affine, Refused, depthwise
from edgecnn.passes.cleanup import cleanup
from edgecnn.passes.input_map import input_map, into_convolutions

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
    mapped, own = input_map(graph, source)
    if own is not None:
        affine = affine.then(own)
    try:
        graph, embedded = into_convolutions(graph, source, mapped, affine, rule=RULE, may_pad=pad_per_channel)
    except Refused as why:
        graph, embedded = _normalise_in_front(graph, source, mapped, affine, str(why))
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


def _normalise_in_front(graph: Graph, source: str, mapped: str, affine: Affine, why: str) -> tuple[Graph, list[Note]]:
    edit = graph.edit()
    name = edit.activation(f"{source}_normalized", graph.shape(source))
    edit.redirect(mapped, name)
    edit.insert(depthwise(edit, affine, source=source, output=name, origin=Source()))
    return edit.finish(), [Note(RULE, source, True, f"by a depthwise 1x1 convolution `{name}`, because {why}")]
