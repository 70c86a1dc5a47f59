"""The result of a comparison: one `ArtifactRun` per artifact, and the `BenchReport` that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecnn.bench import stats
from edgecnn.bench.stats import Array, Interval

SCHEMA = 1
"""Of a saved report; `bench/saved.py` reads it."""

REFERENCE = Interval(1.0, 1.0)
"""The ratio of the first artifact to itself: exact, as no interval of a measured ratio is."""

MAX_DRIFT = 0.05
MAX_TREND = 1.5 * MAX_DRIFT
"""The middles of the first and the last third lie two thirds of the run apart."""
MAX_SPREAD = 0.10
MIN_CPU_SHARE = 0.9
MAX_CLOCK_CHANGE = 0.05


@dataclass(frozen=True)
class ArtifactRun:
    """What was measured of one artifact. Times in milliseconds, memory in 10^6 bytes.

    Args:
        artifact: the path as it was given.
        blocks: the raw samples, nanoseconds, one array per round.
        median_ms: of all samples.
        ci95: 95 % interval of the median.
        min_ms: the fastest one, which other programs disturbed least.
        ratio: median over the first artifact's; below 1 is faster.
        ratio_ci95: 95 % interval of the ratio.
        p90_ms: of all samples, as MLPerf's single-stream scenario reports it; None where no single samples came.
        p99_ms: likewise.
        first_ms: the first inference after loading, median over processes.
        load_ms: opening the file until it can run, without importing the engine; median over processes.
        copies_ms: an inference with handing over inputs and fetching outputs; median; None if not measured.
        whole_ms: the same from a picture's pixels to the class of the highest score.
        cold_ms: from the start of a process to its first result, with the interpreter's start and imports.
        energy: of an inference, with the sensor's name, or why there is none (`runtime.power.energy`).
        peak_mb: the most memory the whole process held.
        model_mb: what of it came with the artifact.
        cpu_share: processor time over elapsed time of the timed blocks, summed over threads.
        unstable: reasons to distrust the numbers; empty if there are none.
        notes: what else the reader must know, such as operators outside of XNNPACK.
        engine: name and version.
        states: clocks, temperatures and throttling every 100 ms of each round, as far as the system tells.
        sha256: of the artifact's file.
        inputs: name, shape and element type of each.
    """

    artifact: str
    blocks: tuple[Array, ...]
    median_ms: float
    ci95: Interval
    min_ms: float
    p90_ms: float | None
    p99_ms: float | None
    ratio: float
    ratio_ci95: Interval
    first_ms: float
    load_ms: float
    peak_mb: float
    model_mb: float
    cpu_share: float
    unstable: tuple[str, ...]
    notes: tuple[str, ...]
    engine: Mapping[str, str]
    states: tuple[Mapping[str, Any], ...] = ()
    sha256: str = ""
    inputs: tuple[Mapping[str, Any], ...] = ()
    copies_ms: float | None = None
    whole_ms: float | None = None
    cold_ms: float | None = None
    energy: Mapping[str, Any] | None = None

    @property
    def samples(self) -> int:
        """How many inferences were timed."""
        return sum(len(block) for block in self.blocks)

    @property
    def verdict(self) -> str:
        """Faster or slower than the first artifact, if the interval of the ratio allows to say so."""
        if self.ratio_ci95 == REFERENCE:
            return "the reference"
        if 1.0 in self.ratio_ci95:
            return "no significant difference"
        return f"{1 / self.ratio:.2f} times faster" if self.ratio < 1 else f"{self.ratio:.2f} times slower"

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """The run as plain data; with the raw samples if `samples`."""
        record: dict[str, Any] = {
            "artifact": self.artifact,
            "median_ms": self.median_ms,
            "ci95_ms": [self.ci95.low, self.ci95.high],
            "min_ms": self.min_ms,
            "p90_ms": self.p90_ms,
            "p99_ms": self.p99_ms,
            "ratio": self.ratio,
            "ratio_ci95": [self.ratio_ci95.low, self.ratio_ci95.high],
            "verdict": self.verdict,
            "first_ms": self.first_ms,
            "load_ms": self.load_ms,
            "copies_ms": self.copies_ms,
            "whole_ms": self.whole_ms,
            "cold_ms": self.cold_ms,
            "energy": None if self.energy is None else dict(self.energy),
            "peak_mb": self.peak_mb,
            "model_mb": self.model_mb,
            "cpu_share": self.cpu_share,
            "samples": self.samples,
            "unstable": list(self.unstable),
            "notes": list(self.notes),
            "engine": dict(self.engine),
            "sha256": self.sha256,
            "inputs": [dict(spec) for spec in self.inputs],
        }
        if samples:
            record["blocks_ns"] = [block.tolist() for block in self.blocks]
            record["states"] = [dict(state) for state in self.states]
        return record


@dataclass(frozen=True)
class BenchReport:
    """An interleaved comparison of artifacts on one machine; the first run is what the ratios refer to.

    `device` is the name of its device file, None for this machine; `notes` say what its state leaves to be desired.
    """

    runs: tuple[ArtifactRun, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    threads: int
    min_seconds: float
    processes: int
    seed: int
    device: str | None = None
    notes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self, *, samples: bool = False) -> dict[str, Any]:
        """The report as plain data; with the raw samples if `samples`."""
        return {
            "schema": SCHEMA,
            "runs": [run.to_json(samples=samples) for run in self.runs],
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "threads": self.threads,
            "min_seconds": self.min_seconds,
            "blocks": len(self.runs[0].blocks),
            "processes": self.processes,
            "seed": self.seed,
            "device": self.device,
            "notes": list(self.notes),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }


@dataclass(frozen=True)
class Measured:
    """The raw answers of the processes that measured one artifact, before statistics.

    `raw` is False where each block is one figure about several inferences: `benchmark_model` gives no samples.
    """

    artifact: str
    blocks: tuple[Array, ...]
    cpu_share: float
    first_ns: tuple[int, ...]
    load_ns: tuple[int, ...]
    peak_bytes: int
    before_bytes: int
    about: Mapping[str, Any]
    states: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()
    sha256: str = ""
    others: Mapping[str, tuple[Array, ...]] = field(default_factory=dict)
    cold_ns: tuple[int, ...] = ()
    energy: Mapping[str, Any] | None = None
    raw: bool = True


def summarize(measured: Measured, reference: Measured, *, threads: int, seed: int) -> ArtifactRun:
    """The statistics of `measured`, with ratios to `reference` (which may be itself)."""
    pooled = np.concatenate(measured.blocks)
    p90, p99 = np.quantile(pooled, [0.9, 0.99])
    median = stats.pooled_median(measured.blocks)
    itself = measured is reference
    return ArtifactRun(
        artifact=measured.artifact,
        blocks=measured.blocks,
        median_ms=median / 1e6,
        ci95=stats.median_interval(measured.blocks, seed=seed).scaled(1e-6),
        min_ms=float(pooled.min()) / 1e6,
        p90_ms=float(p90) / 1e6 if measured.raw else None,
        p99_ms=float(p99) / 1e6 if measured.raw else None,
        ratio=1.0 if itself else median / stats.pooled_median(reference.blocks),
        ratio_ci95=REFERENCE if itself else stats.ratio_interval(measured.blocks, reference.blocks, seed=seed),
        first_ms=float(np.median(measured.first_ns)) / 1e6,
        load_ms=float(np.median(measured.load_ns)) / 1e6,
        peak_mb=measured.peak_bytes / 1e6,
        model_mb=max(0, measured.peak_bytes - measured.before_bytes) / 1e6,
        cpu_share=measured.cpu_share,
        unstable=tuple(_doubts(measured, threads)),
        notes=tuple(_remarks(measured)),
        engine=measured.about["engine"],
        states=measured.states,
        sha256=measured.sha256,
        inputs=tuple(measured.about.get("inputs", ())),
        copies_ms=_median_ms(measured.others.get("copies", ())),
        whole_ms=_median_ms(measured.others.get("whole", ())),
        cold_ms=float(np.median(measured.cold_ns)) / 1e6 if measured.cold_ns else None,
        energy=measured.energy,
    )


def _median_ms(blocks: Sequence[Array]) -> float | None:
    return stats.pooled_median(blocks) / 1e6 if blocks else None


def _doubts(measured: Measured, threads: int) -> list[str]:
    doubts = []
    change = stats.drift(measured.blocks)
    if abs(change) > MAX_DRIFT:
        word = "slower" if change > 0 else "faster"
        doubts.append(f"the last third is {abs(change):.0%} {word} than the first")
    elif abs(slope := stats.trend(measured.blocks)) > MAX_TREND:
        doubts.append(f"it became {abs(slope):.0%} {'slower' if slope > 0 else 'faster'} from start to end (Theil-Sen)")
    width = stats.spread(measured.blocks)
    if width > MAX_SPREAD:
        doubts.append(f"the middle half of the blocks' medians spreads over {width:.0%}")
    # With several threads the processor time of waiting ones hides what was missing.
    if threads == 1 and measured.cpu_share < MIN_CPU_SHARE:
        doubts.append(f"it got only {measured.cpu_share:.0%} of a core; other programs were running")
    if throttled := sorted({str(word) for state in measured.states for word in state.get("throttled", ())}):
        doubts.append("the device said: " + ", ".join(throttled))
    # Of several clusters the fastest counts: it is the one under load.
    clocks = [max(state["clocks_mhz"].values()) for state in measured.states if state.get("clocks_mhz")]
    if clocks and min(clocks) < (1 - MAX_CLOCK_CHANGE) * max(clocks):
        doubts.append(f"the clock was between {min(clocks):.0f} and {max(clocks):.0f} MHz")
    return doubts


def _remarks(measured: Measured) -> list[str]:
    return [*measured.remarks, *_outside(measured)]


def _outside(measured: Measured) -> list[str]:
    facts = measured.about["facts"]
    operators, delegated = facts.get("operators"), facts.get("delegated")
    if operators is None or operators == delegated:
        return []
    if delegated == 0:
        return ["XNNPACK took none of its operators; `edgecnn doctor` says whether this runtime can"]
    return [f"{operators - delegated} of {operators} operators run outside of XNNPACK"]
