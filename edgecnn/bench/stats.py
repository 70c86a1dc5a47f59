"""What blocks of latencies say: medians, and intervals that know that neighbours in time resemble each other.

Latencies inside a block share the machine's state (clock, caches, neighbours), so they are not independent: an
interval from single samples would be far too narrow. Whole blocks are resampled instead (block bootstrap), and for a
ratio the same rounds on both sides, because interleaving made them share the same moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An interval with its two ends."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """The interval of the quantity times a positive `factor`."""
        return Interval(self.low * factor, self.high * factor)


def median_interval(blocks: Sequence[Array], *, seed: int = 0, level: float = LEVEL) -> Interval:
    """The bootstrap interval of the median of all samples, in their unit.

    Raises:
        ValueError: fewer than two blocks; nothing is known about their variation then.
    """
    rounds = _resampled_rounds(len(blocks), seed)
    return _percentiles(_medians(blocks, rounds), len(blocks), level)


def ratio_interval(
    blocks: Sequence[Array], reference: Sequence[Array], *, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The bootstrap interval of median(blocks) / median(reference), block k of both taken in the same round.

    Raises:
        ValueError: fewer than two blocks, or not as many on both sides.
    """
    if len(blocks) != len(reference):
        raise ValueError(f"{len(blocks)} blocks against {len(reference)}")
    rounds = _resampled_rounds(len(blocks), seed)
    return _percentiles(_medians(blocks, rounds) / _medians(reference, rounds), len(blocks), level)


def unpaired_ratio_interval(
    blocks: Sequence[Array], reference: Sequence[Array], *, seed: int = 0, level: float = LEVEL
) -> Interval:
    """The bootstrap interval of median(blocks) / median(reference), measured at different times or places.

    Raises:
        ValueError: fewer than two blocks on a side.
    """
    above = _medians(blocks, _resampled_rounds(len(blocks), seed))
    below = _medians(reference, _resampled_rounds(len(reference), seed + 1))
    return _percentiles(above / below, min(len(blocks), len(reference)), level)


def pooled_median(blocks: Sequence[Array]) -> float:
    """The median of the samples of all blocks."""
    return float(np.median(np.concatenate(blocks)))


def _resampled_rounds(count: int, seed: int) -> Array:
    if count < 2:
        raise ValueError(f"{count} blocks; an interval needs at least two")
    chosen: Array = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    return chosen


def _medians(blocks: Sequence[Array], rounds: Array) -> Array:
    """The median of the pooled samples of the blocks named by each row of `rounds`.

    The samples are sorted once; a resample only changes how often each counts.
    """
    samples = np.concatenate(blocks)
    owner = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
    order = np.argsort(samples, kind="stable")
    samples, owner = samples[order], owner[order]
    medians = np.empty(len(rounds))
    for row, chosen in enumerate(rounds):
        weights = np.bincount(chosen, minlength=len(blocks))[owner]
        reached = np.cumsum(weights)
        medians[row] = samples[np.searchsorted(reached, reached[-1] / 2)]
    return medians


def _percentiles(values: Array, count: int, level: float) -> Interval:
    tail = expanded_tail(count, level)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def expanded_tail(count: int, level: float) -> float:
    """The percentile to cut on each side so that an interval from `count` blocks covers as it says.

    Plain percentile intervals of few units are too narrow, like a normal interval in place of Student's without the
    factor sqrt(n / (n - 1)); the tail is that of the normal distribution beyond the widened bound.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), section 5.3, expanded percentiles.
    """
    bound = sqrt(count / (count - 1)) * student_quantile((1 + level) / 2, count - 1)
    return NormalDist().cdf(-bound)


def student_quantile(p: float, degrees: int) -> float:
    """The `p` quantile of Student's t with `degrees` of freedom; within 0.5 % for 4 degrees or more, 0.5 < p < 0.99.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z, v = NormalDist().inv_cdf(p), degrees
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def drift(blocks: Sequence[Array]) -> float:
    """How much slower the last third of the blocks is than the first: 0.1 is 10 % slower, negative is faster."""
    third = max(1, len(blocks) // 3)
    return pooled_median(blocks[-third:]) / pooled_median(blocks[:third]) - 1


def trend(blocks: Sequence[Array]) -> float:
    """The change of the blocks' medians from the first to the last along a straight line, relative to their median.

    Its slope is the median of the slopes between all pairs of blocks, which up to 29 % of outliers cannot move far.

    Source: Theil, "A rank-invariant method of linear and polynomial regression analysis" (1950); Sen (1968).
    """
    medians = np.array([float(np.median(b)) for b in blocks])
    first, second = np.triu_indices(len(medians), 1)
    slopes = (medians[second] - medians[first]) / (second - first)
    return float(np.median(slopes)) * (len(medians) - 1) / float(np.median(medians))


def spread(blocks: Sequence[Array]) -> float:
    """The interquartile range of the blocks' medians, relative to their median."""
    medians = [float(np.median(b)) for b in blocks]
    low, middle, high = np.quantile(medians, [0.25, 0.5, 0.75])
    return float((high - low) / middle)
