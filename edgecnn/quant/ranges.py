"""What was measured of a graph's activations: the statistics, and the file that keeps them.

A histogram has bins whose width is a power of two and whose edges are multiples of it. Two such histograms merge
exactly (bins of the finer one pair up), so the result depends neither on the order nor on the size of the batches.

The file is JSON with one value per line, so that a change of calibration can be reviewed like any other change.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact import atomic_write
from edgecnn.errors import InputError
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.hash import graph_hash

BINS = 2048
FORMAT = "edgecnn ranges, version 1"

# A bin is never narrower than 2**-20 of the largest magnitude: its edges stay exact in float32.
_FINEST = 20
_SMALLEST_EXPONENT = -100


def exponent_for(lo: float, hi: float) -> int:
    """The smallest e for which bins of width 2**e, aligned at 0, cover [lo, hi] with at most `BINS` of them."""
    magnitude = max(abs(lo), abs(hi))
    if magnitude == 0.0:
        return _SMALLEST_EXPONENT
    # frexp(x)[1] is floor(log2(x)) + 1, exactly.
    exponent = max(math.frexp(magnitude)[1] - 1 - _FINEST, _SMALLEST_EXPONENT)
    while bin_of(hi, exponent) - bin_of(lo, exponent) >= BINS:
        exponent += 1
    return exponent


def bin_of(x: float, exponent: int) -> int:
    """The index of the bin of width 2**exponent that holds `x`."""
    return math.floor(math.ldexp(x, -exponent))


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of bins `first`, `first + 1`, ...; bin i covers [i, i + 1) * 2**exponent."""

    exponent: int
    first: int
    counts: Array

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centers(self) -> Array:
        """The middle of each bin, float64."""
        centers: Array = (self.first + np.arange(len(self.counts)) + 0.5) * self.width
        return centers

    def coarsen(self, exponent: int) -> Histogram:
        """The same counts in bins of width 2**exponent, which must not be smaller."""
        steps = exponent - self.exponent
        if steps == 0:
            return self
        bins = (self.first + np.arange(len(self.counts), dtype=np.int64)) >> steps
        counts = np.bincount(bins - bins[0], weights=self.counts).astype(np.int64)
        return Histogram(exponent, int(bins[0]), counts)

    def merge(self, other: Histogram) -> Histogram:
        """The counts of both, in the narrowest bins of which at most `BINS` cover both."""
        low = min(self.first * self.width, other.first * other.width)
        high = max(h.first * h.width + (len(h.counts) - 1) * h.width for h in (self, other))
        exponent = max(self.exponent, other.exponent, exponent_for(low, high))
        parts = [self.coarsen(exponent), other.coarsen(exponent)]
        first = min(p.first for p in parts)
        counts = np.zeros(max(p.first + len(p.counts) for p in parts) - first, np.int64)
        for part in parts:
            counts[part.first - first :][: len(part.counts)] += part.counts
        return Histogram(exponent, first, counts)


@dataclass(frozen=True, eq=False)
class Stats:
    """What was seen of one activation.

    Args:
        images: how many images.
        mean_min: the mean over images of an image's smallest number; likewise `mean_max`.
        mean_max: see `mean_min`.
        min: the smallest number of all images; likewise `max`.
        max: see `min`.
        histogram: of an even sample of the numbers (`min` and `max` are of all of them).
    """

    images: int
    mean_min: float
    mean_max: float
    min: float
    max: float
    histogram: Histogram


@dataclass(frozen=True, eq=False)
class Ranges:
    """The statistics of every computed activation of one graph over one list of images.

    Args:
        graph: hash of the graph that was measured.
        images: hash of the list of images, as the caller defines it.
        stats: by value name; values that only move codes (`ir.ops.SAME_CODES`) have none of their own.
    """

    graph: str
    images: str
    stats: Mapping[str, Stats]


def to_bytes(ranges: Ranges) -> bytes:
    """`ranges` as JSON, one value per line; the same ranges give the same bytes."""
    head = {"format": FORMAT, "graph": ranges.graph, "images": ranges.images}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    values = [f"  {json.dumps(name)}: {json.dumps(_to_json(s))}" for name, s in sorted(ranges.stats.items())]
    text = "{\n" + ",\n".join(lines) + ',\n"values": {\n' + ",\n".join(values) + "\n}\n}\n"
    return text.encode()


def save(ranges: Ranges, path: Path) -> None:
    """Writes `ranges` to `path`; see `to_bytes`."""
    atomic_write(path, to_bytes(ranges))


def load(path: Path, *, graph: Graph | None = None, images: str | None = None) -> Ranges:
    """The ranges in the file at `path`.

    Args:
        path: a file written by `save`.
        graph: refuse the file unless it was measured on this graph.
        images: refuse the file unless it was measured on the image list of this hash.

    Raises:
        InputError: the file is missing or damaged, or belongs to another graph or other images.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"the format is {record['format']!r}")
        stats = {name: _from_json(s) for name, s in record["values"].items()}
        ranges = Ranges(record["graph"], record["images"], stats)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(
            f"cannot read the ranges file `{path.name}`",
            where=str(path),
            expected=f"a file with the format `{FORMAT}`",
            got=f"{type(error).__name__}: {error}",
            do="delete it; it is measured again from the calibration images",
        ) from error
    _must_match("graph", path, None if graph is None else graph_hash(graph), ranges.graph)
    _must_match("image list", path, images, ranges.images)
    return ranges


def _must_match(what: str, path: Path, expected: str | None, got: str) -> None:
    if expected is not None and expected != got:
        raise InputError(
            f"the ranges file `{path.name}` was measured on another {what}",
            where=str(path),
            expected=f"{what} {expected[:12]}",
            got=f"{what} {got[:12]}",
            do="measure again, or give the file that belongs to this graph and these images",
        )


def _to_json(stats: Stats) -> dict[str, Any]:
    h = stats.histogram
    packed = base64.b64encode(zlib.compress(h.counts.astype("<u4").tobytes(), 9)).decode()
    return {
        "images": stats.images,
        "mean": [stats.mean_min, stats.mean_max],
        "extent": [stats.min, stats.max],
        "histogram": {"exponent": h.exponent, "first": h.first, "bins": len(h.counts), "counts": packed},
    }


def _from_json(record: Mapping[str, Any]) -> Stats:
    h = record["histogram"]
    counts = np.frombuffer(zlib.decompress(base64.b64decode(h["counts"])), "<u4").astype(np.int64)
    if len(counts) != h["bins"]:
        raise ValueError(f"a histogram of {len(counts)} bins says it has {h['bins']}")
    histogram = Histogram(h["exponent"], h["first"], counts)
    (mean_min, mean_max), (low, high) = record["mean"], record["extent"]
    return Stats(record["images"], mean_min, mean_max, low, high, histogram)
