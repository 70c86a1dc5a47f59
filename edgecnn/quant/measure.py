"""Measuring: the float reference runs over the calibration images, and every computed activation is summarised."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from edgecnn.errors import InputError
from edgecnn.ir import reference
from edgecnn.ir.graph import Array, Graph, Op, Source
from edgecnn.ir.hash import graph_hash
from edgecnn.ir.ops import SAME_CODES
from edgecnn.quant.ranges import Histogram, Ranges, Stats, bin_of, exponent_for

SAMPLE = 8192
"""How many numbers of one activation of one image enter its histogram; minima and maxima are of all numbers."""


def measure(graph: Graph, batches: Iterable[Array], *, images: str = "") -> Ranges:
    """The ranges of every computed activation of `graph` over the batches.

    Minima and maxima are taken per image and averaged over images, so the result does not depend on how the images
    are cut into batches. Memory is that of one batch.

    Args:
        graph: a float graph with one input; quantisation parameters are ignored.
        batches: float32 arrays, NCHW, preprocessed as the net expects them.
        images: the hash of the list of images, kept in the result so that a stale file is noticed.

    Raises:
        InputError: there is no image, one has the wrong shape, or a constant or activation is NaN or infinite
            (the layer is named).
    """
    _constants_are_finite(graph)
    tallies = {name: _Tally() for name in measured_values(graph)}
    count = 0
    for batch in batches:
        _fits(graph, batch)

        def watch(name: str, tensor: Tensor, start: int = count) -> None:
            if name in tallies:
                tallies[name].add(tensor, graph, name, start)

        reference.run(graph, batch, watch=watch)
        count += len(batch)
    if count == 0:
        raise InputError("there are no calibration images", where=graph.name, do="give a folder with images")
    return Ranges(graph_hash(graph), images, {name: tally.stats() for name, tally in tallies.items()})


def measured_values(graph: Graph) -> list[str]:
    """The activations with a range of their own: the inputs, and what is not merely moved from elsewhere."""
    return [*graph.inputs, *(op.output for op in graph.ops if op.kind not in SAME_CODES)]


class _Tally:
    """The statistics of one activation while images come in."""

    def __init__(self) -> None:
        self.images = 0
        self.sum_min = self.sum_max = 0.0
        self.min, self.max = np.inf, -np.inf
        self.histogram: Histogram | None = None

    def add(self, tensor: Tensor, graph: Graph, name: str, start: int) -> None:
        flat = tensor.flatten(1)
        lows, highs = flat.amin(1).double(), flat.amax(1).double()  # two vectorised sweeps; aminmax(dim) is slower
        bad = ~(torch.isfinite(lows) & torch.isfinite(highs))
        if bad.any():
            raise _not_finite(graph, name, start + int(bad.nonzero()[0, 0]))
        self.images += len(lows)
        self.sum_min += float(lows.sum())
        self.sum_max += float(highs.sum())
        self.min, self.max = min(self.min, float(lows.min())), max(self.max, float(highs.max()))
        # The step is odd, so that on images of even width it does not stay on the same columns.
        step = (flat.shape[1] // SAMPLE) | 1
        fresh = _histogram(flat[:, ::step], float(lows.min()), float(highs.max()))
        self.histogram = fresh if self.histogram is None else self.histogram.merge(fresh)

    def stats(self) -> Stats:
        assert self.histogram is not None  # `measure` refuses to finish without an image
        mean_min, mean_max = self.sum_min / self.images, self.sum_max / self.images
        return Stats(self.images, mean_min, mean_max, self.min, self.max, self.histogram)


def _histogram(sample: Tensor, lo: float, hi: float) -> Histogram:
    exponent = exponent_for(lo, hi)
    first, last = bin_of(lo, exponent), bin_of(hi, exponent)
    bins, width = last - first + 1, 2.0**exponent
    counts = torch.histc(sample.float(), bins, min=first * width, max=(last + 1) * width)
    return Histogram(exponent, first, counts.to(torch.int64).numpy())


def _fits(graph: Graph, batch: Array) -> None:
    expected = graph.shape(graph.inputs[0])[1:]
    if tuple(batch.shape[1:]) != expected:
        raise InputError(
            "a calibration batch has the wrong shape",
            where=graph.name,
            expected="(N, " + ", ".join(map(str, expected)) + ")",
            got=str(tuple(batch.shape)),
        )


def _constants_are_finite(graph: Graph) -> None:
    for op in graph.ops:
        for name in op.inputs:
            data = graph.value(name).data
            if data is not None and not np.isfinite(data).all():
                bad = int((~np.isfinite(data)).sum())
                raise InputError(
                    f"constant `{name}` of `{op.name}` ({op.kind}) is not finite",
                    where=str(op.source),
                    got=f"{bad} of {data.size} numbers are NaN or infinite",
                    do="check the weights: the training may have diverged, or the file is damaged",
                )


def _not_finite(graph: Graph, name: str, image: int) -> InputError:
    op = graph.makers.get(name, Op("input", (), name, source=Source("the net's input")))
    return InputError(
        f"`{name}` ({op.kind}) is NaN or infinite",
        where=str(op.source),
        got=f"a number that is not finite, first in calibration image {image}",
        do="check the preprocessing and the weights of this layer",
    )
