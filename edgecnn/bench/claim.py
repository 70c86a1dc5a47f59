"""A claim about a comparison, such as `B < A by 2%`, and whether the measurement bears it out: for use in CI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

from edgecnn.bench import stats
from edgecnn.bench.records import BenchReport
from edgecnn.bench.stats import Interval
from edgecnn.errors import UsageError

CLAIM = re.compile(r"\s*([A-Z])\s*<\s*([A-Z])(?:\s+by\s+(\d+(?:\.\d+)?)\s*%)?\s*")
Outcome = Literal["holds", "refuted", "no significant difference"]


@dataclass(frozen=True)
class Claim:
    """That one artifact is faster than another, by at least a share of the other's latency.

    Args:
        faster: position of the artifact that is said to be faster; A is 0.
        slower: position of the other.
        by: 0.02 says that it takes at most 98 % of the time.
    """

    faster: int
    slower: int
    by: float

    def judge(self, report: BenchReport) -> Finding:
        """What the measurement says: the whole interval of the ratio must lie on one side of the bound."""
        a, b = (report.runs[i].blocks for i in (self.faster, self.slower))
        interval = stats.ratio_interval(a, b, seed=report.seed)
        bound = 1 - self.by
        outcome: Outcome = "no significant difference"
        if interval.high < bound:
            outcome = "holds"
        elif interval.low >= bound:
            outcome = "refuted"
        return Finding(self, outcome, stats.pooled_median(a) / stats.pooled_median(b), interval)

    def __str__(self) -> str:
        by = f" by {self.by * 100:g}%" if self.by else ""
        return f"{ascii_uppercase[self.faster]} < {ascii_uppercase[self.slower]}{by}"


@dataclass(frozen=True)
class Finding:
    """What a measurement says of a claim; `ratio` is the faster one's median over the other's."""

    claim: Claim
    outcome: Outcome
    ratio: float
    ci95: Interval

    def __str__(self) -> str:
        names = f"{ascii_uppercase[self.claim.faster]}/{ascii_uppercase[self.claim.slower]}"
        return f"{self.claim}: {self.outcome}, {names} is {self.ratio:.3f} ({self.ci95.low:.3f} - {self.ci95.high:.3f})"


def parse_claim(text: str, artifacts: Sequence[str]) -> Claim:
    """The claim in `X < Y` or `X < Y by P%`; A is the first artifact, B the second, and so on.

    Raises:
        UsageError: it is none, or names an artifact that is not there.
    """
    found = CLAIM.fullmatch(text)
    if found is None:
        raise UsageError(f"`{text}` is no claim", where="--assert", expected='such as "B < A" or "B < A by 2%"')
    faster, slower = (ascii_uppercase.index(name) for name in found.group(1, 2))
    by = float(found[3] or 0) / 100
    if max(faster, slower) >= len(artifacts) or faster == slower:
        known = ", ".join(f"{ascii_uppercase[i]} = {path}" for i, path in enumerate(artifacts[:26]))
        raise UsageError(f"`{text}` needs two artifacts", where="--assert", expected=f"two of {known}")
    if by >= 1:
        raise UsageError(f"nothing is faster by {found[3]} %", where="--assert", expected="less than 100 %")
    return Claim(faster, slower, by)
