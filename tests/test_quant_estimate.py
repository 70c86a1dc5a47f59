"""Range estimators: each does what it says, measured on the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array
from edgecnn.ir.text import parse
from edgecnn.quant.estimate import ESTIMATORS, percentile
from edgecnn.quant.measure import measure
from edgecnn.quant.ranges import Stats
from edgecnn.quant.scheme import LITERT
from edgecnn.quant.spans import Span, span_q

# 8 * 24 * 24 numbers per image: fewer than the sample that enters a histogram, so the histogram holds them all.
IDENTITY = "graph g(x: [N,8,24,24]) {\n y = clip(x) lo=0.0 hi=None\n return y\n}"
SHAPE = (16, 8, 24, 24)


def stats_of(x: Array) -> Stats:
    return measure(parse(IDENTITY), [x.astype(np.float32)]).stats["x"]


def heavy_tailed(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_t(3, SHAPE).astype(np.float32)


def mean_squared_error(x: Array, span: tuple[float, float]) -> float:
    q = span_q(Span.around(*span), LITERT)
    return float(np.mean((q.dequantize(q.quantize(x)).astype(np.float64) - x) ** 2))


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_no_estimator_leaves_what_was_seen(name: str, shift: float) -> None:
    stats = stats_of(np.abs(heavy_tailed()) * shift if shift else heavy_tailed())
    lo, hi = ESTIMATORS[name](stats)
    # mse ends at zero rather than above it: every span is widened to zero anyway.
    assert min(stats.min, 0.0) <= lo < hi <= max(stats.max, 0.0)


def test_robust_estimators_cut_heavy_tails_and_one_odd_image_hardly_moves_the_mean() -> None:
    stats = stats_of(heavy_tailed())
    widths = {name: np.ptp(ESTIMATORS[name](stats)) for name in ESTIMATORS}
    assert all(width < widths["minmax"] for name, width in widths.items() if name != "minmax")
    odd = heavy_tailed()
    odd[3, 0, 0, 0] = 1000.0
    # One image of 16 moves the mean by at most a sixteenth of what it moves the extent.
    moved = {
        name: ESTIMATORS[name](stats_of(odd))[1] - ESTIMATORS[name](stats)[1] for name in ("minmax", "mean-minmax")
    }
    assert moved["mean-minmax"] <= (1000.0 - odd[3].min()) / 16
    assert moved["minmax"] > 900


def test_mse_has_the_least_error_of_all_estimators() -> None:
    x = heavy_tailed(1)
    stats = stats_of(x)
    errors = {name: mean_squared_error(x, ESTIMATORS[name](stats)) for name in ESTIMATORS}
    # The error is modelled as step^2 / 12 inside; with 256 levels on a smooth density that is good to a few percent.
    assert errors["mse"] <= 1.05 * min(errors.values())
    assert errors["mse"] < 0.9 * errors["minmax"]


def test_uniform_numbers_are_kept_whole_by_mse() -> None:
    stats = stats_of(np.random.default_rng(2).uniform(-1, 3, SHAPE))
    lo, hi = ESTIMATORS["mse"](stats)
    # Cutting a share c off one end of a uniform density costs c^3 / 3, a 256th of the width gains less than 1 / 64.
    assert lo == pytest.approx(stats.min, abs=4 / 64 + 1e-6)
    assert hi == pytest.approx(stats.max, abs=4 / 64 + 1e-6)


def test_the_percentile_cuts_the_share_it_says() -> None:
    x = heavy_tailed(3)
    stats = stats_of(x)
    lo, hi = percentile(stats, keep=0.99)
    # The ends stand on edges of bins, so each tail is off by less than one bin's share.
    largest_bin = stats.histogram.counts.max() / x.size
    assert abs(np.mean(x < lo) - 0.005) <= largest_bin
    assert abs(np.mean(x > hi) - 0.005) <= largest_bin


def test_a_relus_zeros_are_no_tail() -> None:
    stats = stats_of(np.maximum(heavy_tailed(4), 0))
    for name in ESTIMATORS:
        lo, hi = ESTIMATORS[name](stats)
        assert lo == 0.0
        assert hi > 1.0


def test_a_constant_activation_has_a_range() -> None:
    for value in (0.0, 2.5, -1e-20):
        stats = stats_of(np.full(SHAPE, value))
        for name in ESTIMATORS:
            lo, hi = ESTIMATORS[name](stats)
            assert np.isfinite([lo, hi]).all()
            assert lo <= np.float32(value) <= hi or Span.around(lo, hi) == Span.around(value, value)


def test_an_unknown_estimator_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as failure:
        ESTIMATORS["min-max"]
    assert str(failure.value) == (
        "UsageError: unknown estimator `min-max`\n"
        "  expected one of entropy, mean-minmax, minmax, mse, percentile\n"
        "  do       did you mean `minmax` or `mean-minmax`?"
    )
