"""Intervals: exact on small cases, honest in simulation, and narrower where pairing earns it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.bench import stats
from edgecnn.bench.stats import Interval


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4).map(lambda n: 2 * n - 1), min_size=3, max_size=3),
    chosen=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_a_resample_is_the_median_of_the_blocks_it_names(sizes: list[int], chosen: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.random(n) for n in sizes]
    pooled = np.sort(np.concatenate([blocks[i] for i in chosen]))
    found = stats._medians(blocks, np.array([chosen]))
    # Of an odd number of samples (three odd blocks) the median is one of them.
    assert found[0] == pooled[len(pooled) // 2] == np.median(pooled)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # The 0.975 quantile of Student's t, any table.
    [(5, 2.571), (9, 2.262), (19, 2.093), (29, 2.045), (1000, 1.962)],
)
def test_student_quantile(degrees: int, quantile: float) -> None:
    # The table has three decimals; the expansion stops at 1 / degrees^4, under 0.1 % from 5 degrees on.
    assert stats.student_quantile(0.975, degrees) == pytest.approx(quantile, abs=0.0005 + 0.001 * quantile)


def test_few_blocks_widen_the_interval() -> None:
    tails = [stats.expanded_tail(n, 0.95) for n in (6, 10, 20, 1000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, rel=0.02)  # 1000 blocks: t and sqrt(n / (n - 1)) are 0.3 % off normal


EXPERIMENTS = 300


def simulated(rng: np.random.Generator, *, blocks: int, samples: int) -> list[np.ndarray]:
    """Latencies with median 1: skewed noise of 5 % inside a block, and 3 % that a whole block shares."""
    shared = rng.normal(0, 0.03, blocks)
    return [np.exp(shift + rng.normal(0, 0.05, samples)) for shift in shared]


def test_the_interval_covers_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    hits = sum(1.0 in stats.median_interval(simulated(rng, blocks=20, samples=15), seed=k) for k in range(EXPERIMENTS))
    # A binomial of 300 trials with p = 0.95 has a standard deviation of 1.26 %: three of them on the low side, and
    # on the high side not all, which an interval that is far too wide would reach.
    assert 0.95 - 3 * 0.0126 <= hits / EXPERIMENTS < 1.0


def test_an_interval_of_single_samples_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why blocks are resampled: as if each sample were a block of its own, the same data cover far less often."""
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(60):
        loose = np.concatenate(simulated(rng, blocks=20, samples=15))
        hits += 1.0 in stats.median_interval(list(loose.reshape(-1, 1)), seed=k)
    # The standard error of such an interval is 0.05 * 1.25 / sqrt(300) = 0.0036 with the shared 3 % left out, which
    # alone are 0.03 / sqrt(20) = 0.0067: it covers about 2 * Phi(1.96 * 0.0041 / 0.0077) - 1 = 70 % of the time.
    assert hits / 60 < 0.9


def test_rounds_are_paired_in_a_ratio() -> None:
    """A machine that slows down by half during the bench leaves the ratio alone, as both sides meet the same rounds."""
    rng = np.random.default_rng(1)
    pace = np.linspace(1.0, 1.5, 20)
    a = [p * np.exp(rng.normal(0, 0.01, 41)) for p in pace]
    b = [2 * p * np.exp(rng.normal(0, 0.01, 41)) for p in pace]
    ratio = stats.ratio_interval(b, a)
    alone = stats.median_interval(b)
    assert 2.0 in ratio
    assert (ratio.high - ratio.low) / 2 < (alone.high - alone.low) / stats.pooled_median(b) / 3


def test_equal_artifacts_are_told_apart_no_more_often_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    rng = np.random.default_rng(2)
    trials = 100
    wrong = sum(
        1.0
        not in stats.ratio_interval(simulated(rng, blocks=20, samples=9), simulated(rng, blocks=20, samples=9), seed=k)
        for k in range(trials)
    )
    # Binomial with p = 0.05: 5 expected, standard deviation 2.2.
    assert wrong <= 5 + 3 * 2.2


def test_seeds_repeat() -> None:
    blocks = simulated(np.random.default_rng(3), blocks=8, samples=5)
    assert stats.median_interval(blocks, seed=1) == stats.median_interval(blocks, seed=1)
    assert stats.median_interval(blocks, seed=1) != stats.median_interval(blocks, seed=2)


def test_constant_latencies_have_an_interval_of_no_width() -> None:
    blocks = [np.full(3, 5)] * 6
    assert stats.median_interval(blocks) == Interval(5.0, 5.0)
    assert stats.ratio_interval(blocks, blocks) == Interval(1.0, 1.0)
    assert stats.spread(blocks) == stats.drift(blocks) == 0.0


def test_drift_and_spread_by_hand() -> None:
    blocks = [np.array([v]) for v in (10.0, 10.0, 12.0, 12.0, 15.0, 15.0)]
    assert stats.drift(blocks) == 0.5
    # The quartiles of the six medians are 10.5 and 14.25, the middle 12.
    assert stats.spread(blocks) == pytest.approx((14.25 - 10.5) / 12, rel=1e-12)


def test_too_few_or_unequal_blocks() -> None:
    one = [np.ones(3)]
    with pytest.raises(ValueError, match="an interval needs at least two"):
        stats.median_interval(one)
    with pytest.raises(ValueError, match="1 blocks against 2"):
        stats.ratio_interval(one, one * 2)
