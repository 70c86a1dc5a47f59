"""Range estimators: from the statistics of an activation to the interval its codes shall cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from edgecnn.ir.graph import Array
from edgecnn.quant.ranges import Stats
from edgecnn.registry import Registry

LEVELS = 256
"""Codes of an 8-bit activation."""


class Estimator(Protocol):
    """From the statistics of an activation, and how many codes it may have, to the smallest and largest number."""

    def __call__(self, stats: Stats, levels: int = LEVELS, /) -> tuple[float, float]:
        """The interval."""
        ...


ESTIMATORS: Registry[Estimator] = Registry("estimator")


@ESTIMATORS.register("mean-minmax")
def mean_minmax(stats: Stats, _levels: int = LEVELS) -> tuple[float, float]:
    """The mean over images of each image's minimum and maximum: one odd image does not widen the range."""
    return stats.mean_min, stats.mean_max


@ESTIMATORS.register("minmax")
def minmax(stats: Stats, _levels: int = LEVELS) -> tuple[float, float]:
    """The smallest and largest number ever seen: nothing saturates."""
    return stats.min, stats.max


@ESTIMATORS.register("percentile")
def percentile(stats: Stats, _levels: int = LEVELS, *, keep: float = 0.9999) -> tuple[float, float]:
    """The interval that holds the share `keep` of the numbers, with equal shares cut off at both ends.

    An end that stands at zero (behind a ReLU) holds so much mass that nothing is cut off there.
    """
    histogram = stats.histogram
    cumulative = np.cumsum(histogram.counts)
    tail = (1.0 - keep) / 2 * cumulative[-1]
    low = int(np.searchsorted(cumulative, tail, side="right"))
    high = int(np.searchsorted(cumulative, cumulative[-1] - tail, side="left"))
    lo = (histogram.first + low) * histogram.width
    hi = (histogram.first + high + 1) * histogram.width
    return max(lo, stats.min), min(hi, stats.max)


@ESTIMATORS.register("mse")
def mse(stats: Stats, levels: int = LEVELS) -> tuple[float, float]:
    """The interval with the least mean squared error of rounding inside it plus clipping outside it.

    Rounding to steps of s costs s^2 / 12 per number inside; clipping costs the squared distance to the nearer end.
    Both ends shrink independently towards zero over 64 candidates each.
    """
    x, n = stats.histogram.centers, stats.histogram.counts.astype(np.float64)
    below, above = _clip_error(-x[::-1], n[::-1]), _clip_error(x, n)
    shares = np.arange(1, 65) / 64
    lows, highs = -min(stats.min, 0.0) * shares, max(stats.max, 0.0) * shares
    lost = below(lows)[:, None] + above(highs)[None, :]
    step = (lows[:, None] + highs[None, :]) / (levels - 1)
    total = lost + n.sum() * step**2 / 12
    low, high = np.unravel_index(int(np.argmin(total)), total.shape)
    return -float(lows[low]), float(highs[high])


def _clip_error(x: Array, n: Array) -> Callable[[Array], Array]:
    """A function of thresholds t >= 0: the sum of (x - t)^2 over the numbers above t; `x` ascends."""

    def tail(weights: Array) -> Array:
        return np.append(np.cumsum(weights[::-1])[::-1], 0.0)

    zeroth, first, second = tail(n), tail(n * x), tail(n * x * x)

    def error(thresholds: Array) -> Array:
        at = np.searchsorted(x, thresholds, side="right")
        lost: Array = second[at] - 2 * thresholds * first[at] + thresholds**2 * zeroth[at]
        return np.maximum(lost, 0.0)

    return error


CLIPPED = 0.0001
"""The largest share of numbers that `entropy` lets saturate.

Without a bound it cuts the tails of swish-like activations, because no even spread over a level fits their mass near
zero: the logits of a randomly weighted EfficientNet-B0 fall from 17 to 10 dB."""


@ESTIMATORS.register("entropy")
def entropy(stats: Stats, levels: int = LEVELS) -> tuple[float, float]:
    """The interval whose levels (256 for 8 bits) keep the distribution best (least Kullback-Leibler divergence).

    The candidates are [max(min, -t), min(max, t)] for 58 thresholds t. Numbers outside a candidate count at its ends;
    a level spreads its mass evenly over its bins that are not empty. The bin of zero takes the mean of its neighbours:
    what a ReLU puts there is coded exactly in every candidate, and would otherwise outweigh everything else. No
    candidate lets more than the share `CLIPPED` of the numbers saturate.

    Source: S. Migacz, 8-bit inference with TensorRT, GTC 2017.
    """
    x, n = stats.histogram.centers, stats.histogram.counts.astype(np.float64)
    zero = -stats.histogram.first
    if 0 <= zero < len(n):
        beside = [n[i] for i in (zero - 1, zero + 1) if 0 <= i < len(n)]
        n[zero] = np.mean(beside) if beside else n[zero]
    extent = max(-stats.min, stats.max)
    best = (np.inf, stats.min, stats.max)
    for share in np.arange(64, 7, -1) / 64:
        lo, hi = max(stats.min, -extent * share), min(stats.max, extent * share)
        if n[(x < lo) | (x > hi)].sum() > CLIPPED * n.sum():
            break
        divergence = _divergence(x, n, lo, hi, levels)
        if divergence < best[0]:
            best = (divergence, lo, hi)
    return best[1], best[2]


def _divergence(x: Array, n: Array, lo: float, hi: float, levels: int) -> float:
    inside = (x >= lo) & (x <= hi)
    if not n[inside].any():
        return float(np.inf)
    kept, centers = n[inside], x[inside]
    wanted = kept.copy()
    wanted[0] += n[x < lo].sum()
    wanted[-1] += n[x > hi].sum()
    level = np.minimum(((centers - centers[0]) / (centers[-1] - centers[0] + 1e-30) * levels).astype(int), levels - 1)
    filled = kept > 0
    mass = np.bincount(level, weights=kept, minlength=levels)
    share = np.bincount(level, weights=filled, minlength=levels)
    coded = np.where(filled, mass[level] / np.maximum(share[level], 1), 0.0)
    p, q = wanted / wanted.sum(), coded / coded.sum()
    # Mass clipped into an empty end bin has no counterpart in q; a tiny floor makes it dear instead of infinite.
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))))
