"""A saved measurement taken again: the same numbers, or others, and what differs between then and now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifact import sha256_of_file
from edgecnn.bench import stats
from edgecnn.bench.run import bench
from edgecnn.bench.saved import SavedReport, SavedRun, unlike
from edgecnn.bench.stats import Interval
from edgecnn.device.place import Remote
from edgecnn.errors import CheckFailed, InputError


@dataclass(frozen=True)
class Again:
    """One artifact then and now.

    Args:
        artifact: the path as it was given then.
        then_ms: its median then.
        now_ms: its median now.
        ratio: now over then.
        ci95: of the ratio; the two were not interleaved.
        within: what counts as the same.
        because: what differs between the conditions, and what made either run unstable.
    """

    artifact: str
    then_ms: float
    now_ms: float
    ratio: float
    ci95: Interval
    within: float
    because: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the interval of the ratio meets 1 give or take `within`."""
        return self.ci95.high >= 1 - self.within and self.ci95.low <= 1 + self.within

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "artifact": self.artifact,
            "then_ms": self.then_ms,
            "now_ms": self.now_ms,
            "ratio": self.ratio,
            "ratio_ci95": [self.ci95.low, self.ci95.high],
            "same": self.same,
            "because": list(self.because),
        }


def check_files(saved: SavedReport) -> None:
    """Makes sure that the artifacts of a saved report are still what they were.

    Raises:
        InputError: one is gone.
        CheckFailed: one has changed.
    """
    for run in saved.runs:
        path = Path(run.artifact)
        if not path.is_file():
            raise InputError(
                f"`{path.name}` is not where it was", where=run.artifact, do="run it from the folder it was saved in"
            )
        if (now := sha256_of_file(path)) != run.sha256:
            raise CheckFailed(
                f"`{path.name}` has changed since it was measured",
                where=run.artifact,
                expected=f"sha256 {run.sha256[:16]}...",
                got=f"sha256 {now[:16]}...",
                do="measure the new one with `edgecnn bench`",
            )


def replay(
    saved: SavedReport, *, device: Remote | None, within: float, progress: Callable[[str], None] | None = None
) -> list[Again]:
    """Measures the artifacts of `saved` again with its settings, and sets the two beside each other.

    Args:
        saved: a report of `bench --save`.
        device: the folder on the device it was taken on; this machine if None.
        within: a difference up to this share counts as the same; machines are not the same from day to day.
        progress: called with a line now and then.

    Raises:
        InputError: an artifact is gone.
        CheckFailed: an artifact has changed.
        DeviceFailed: the device was lost.
    """
    check_files(saved)
    report = bench(
        [run.artifact for run in saved.runs],
        threads=saved.threads,
        min_seconds=saved.min_seconds,
        blocks=max(6, saved.blocks),
        processes=min(saved.processes, saved.blocks),
        seed=saved.seed,
        shapes={name: tuple(shape) for name, shape in saved.shapes.items()},
        device=device,
        extras=False,
        progress=progress,
    )
    now = SavedReport.model_validate(report.to_json(samples=True))
    return [_again((saved, a), (now, b), within) for a, b in zip(saved.runs, now.runs, strict=True)]


def _again(then: tuple[SavedReport, SavedRun], now: tuple[SavedReport, SavedRun], within: float) -> Again:
    a, b = then[1].blocks, now[1].blocks
    before, after = stats.pooled_median(a), stats.pooled_median(b)
    versions = [
        f"{name}: {version} then, {now[0].versions.get(name)} now"
        for name, version in then[0].versions.items()
        if now[0].versions.get(name) != version and name not in then[1].engine.values()
    ]
    because = [text.replace(" there, ", " then, ").replace(" here", " now") for text in unlike(then, now)]
    because += versions
    because += [f"then: {text}" for text in then[1].unstable] + [f"now: {text}" for text in now[1].unstable]
    return Again(
        artifact=then[1].artifact,
        then_ms=before / 1e6,
        now_ms=after / 1e6,
        ratio=after / before,
        ci95=stats.unpaired_ratio_interval(b, a, seed=then[0].seed),
        within=within,
        because=tuple(because),
    )
