"""Minutes of uninterrupted inference: the curve of latency over time, and when throttling set in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecnn.bench.preflight import preflight
from edgecnn.bench.worker import Worker
from edgecnn.device.place import Remote
from edgecnn.errors import EdgecnnError, UsageError
from edgecnn.targets.engine import check_artifact

SCHEMA = 1
BLOCK_S = 1.0
WINDOW = 5
"""Points in the running median that must stay above."""
SLOWER = 0.05
CLOCK_DROP = 0.05
DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|h)")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
SHORTEST_S = 10.0


@dataclass(frozen=True)
class Point:
    """One block of the curve.

    Args:
        at_s: its end, since the artifact's first inference.
        median_ms: of its inferences.
        runs: how many.
        clock_mhz: the highest clock right after it; None if the system does not tell.
        temp_c: the hottest zone's temperature; likewise.
        throttled: what the device said of throttling.
    """

    at_s: float
    median_ms: float
    runs: int
    clock_mhz: float | None
    temp_c: float | None
    throttled: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """One artifact under load; `broken` is why it ended early, if it did."""

    artifact: str
    points: tuple[Point, ...]
    broken: str | None = None

    @property
    def start_ms(self) -> float:
        """The latency at the start: the median of the first tenth, but of no less than three points."""
        return float(np.median([p.median_ms for p in self.points[: max(3, len(self.points) // 10)]]))

    @property
    def throttling(self) -> tuple[float, str] | None:
        """When it set in, in seconds, and how that shows; None if it did not.

        The device's own word counts first, then a fallen clock, then latency: the first moment from which the running
        median is above the start's and the rest of the curve's median too.
        """
        found = [(p.at_s, "the device said: " + ", ".join(p.throttled)) for p in self.points if p.throttled][:1]
        clocks = [(p.at_s, p.clock_mhz) for p in self.points if p.clock_mhz is not None]
        if clocks:
            highest = max(clock for _, clock in clocks[: max(3, len(clocks) // 10)])
            fallen = [(at, clock) for at, clock in clocks if clock < (1 - CLOCK_DROP) * highest]
            found += [(at, f"the clock fell from {highest:.0f} to {clock:.0f} MHz") for at, clock in fallen[:1]]
        if (slow := self._slower()) is not None:
            found.append(slow)
        return min(found) if found else None

    def _slower(self) -> tuple[float, str] | None:
        ms = np.array([p.median_ms for p in self.points])
        limit = (1 + SLOWER) * self.start_ms
        for i in range(len(ms) - WINDOW + 1):
            rest = float(np.median(ms[i:]))
            if np.median(ms[i : i + WINDOW]) > limit and ms[i] > limit and rest > limit:
                return self.points[i].at_s, f"{rest / self.start_ms - 1:.0%} slower from then on"
        return None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        throttling = self.throttling if self.points else None
        return {
            "artifact": self.artifact,
            "points": [dict(p.__dict__) for p in self.points],
            "start_ms": self.start_ms if self.points else None,
            "throttling": None if throttling is None else {"at_s": throttling[0], "how": throttling[1]},
            "broken": self.broken,
        }


@dataclass(frozen=True)
class Sustained:
    """The curves of several artifacts, one after the other on one machine."""

    curves: tuple[Curve, ...]
    machine: Mapping[str, Any]
    seconds: float
    threads: int
    device: str | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": SCHEMA,
            "kind": "sustained",
            "curves": [curve.to_json() for curve in self.curves],
            "machine": dict(self.machine),
            "seconds": self.seconds,
            "threads": self.threads,
            "device": self.device,
            "notes": list(self.notes),
        }


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `5m` or `1h`.

    Raises:
        UsageError: it is none, or too short to see anything.
    """
    found = DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if seconds < SHORTEST_S or seconds > 86400:
        raise UsageError(f"`{text}` is no duration", where="--sustained", expected="10s to 24h, such as 90s or 5m")
    return seconds


def sustained(
    paths: Sequence[str | os.PathLike[str]],
    *,
    seconds: float,
    threads: int = 1,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    device: Remote | None = None,
    progress: Callable[[str], None] | None = None,
) -> Sustained:
    """Runs each artifact without a pause for `seconds`, one after the other; a device first cools down each time.

    A failure on the way ends it; what was measured so far is kept, and the curve says why it ends.

    Args:
        paths: .tflite and .onnx files.
        seconds: for each artifact.
        threads: of one inference.
        seed: of the random inputs.
        shapes: input shapes by name, for files that leave more than the batch free.
        device: the folder on a device; this machine if None.
        progress: called with a line now and then.

    Raises:
        UsageError: no artifacts, or the device has no Python.
        InputError: an artifact is missing or damaged.
        DeviceFailed: the device cannot be reached.
    """
    report = progress or (lambda line: None)
    if not paths:
        raise UsageError("no artifacts to measure", do="give one or more .tflite or .onnx files")
    if device is not None and device.profile.benchmark_model is not None:
        raise UsageError(
            "`benchmark_model` tells nothing while it runs", where="--sustained", do="it needs Python there"
        )
    for path in paths:
        check_artifact(os.fspath(path))
    curves: list[Curve] = []
    notes: list[str] = []
    machine: Mapping[str, Any] = {}
    for path in [os.fspath(path) for path in paths]:
        if device is not None:
            notes += [note for note in preflight(device, progress=report) if note not in notes]
        report(f"{path}: {seconds:.0f} s without a pause")
        points: list[Point] = []
        broken = None
        try:
            with Worker(path, threads=threads, shapes=dict(shapes or {}), place=device) as worker:
                machine = worker.about["machine"]
                worker.ask("feed", seed=seed)
                while not points or points[-1].at_s < seconds:
                    answer = worker.ask("block", seconds=BLOCK_S, max_runs=1_000_000, warm=0)
                    points.append(_point(points[-1].at_s if points else 0.0, answer))
        except EdgecnnError as failure:
            if not points:
                raise
            broken = failure.what
        curves.append(Curve(path, tuple(points), broken))
        if broken is not None:
            break
    name = device.name if device is not None else None
    return Sustained(tuple(curves), machine, seconds, threads, name, tuple(notes))


def _point(before_s: float, answer: Mapping[str, Any]) -> Point:
    state = answer["states"][-1]
    clocks, temps = state.get("clocks_mhz") or {}, state.get("temps_c") or {}
    words = {str(word) for one in answer["states"] for word in one.get("throttled", ())}
    return Point(
        at_s=before_s + answer["wall_ns"] * 1e-9,
        median_ms=float(np.median(answer["samples_ns"])) / 1e6,
        runs=len(answer["samples_ns"]),
        clock_mhz=max(clocks.values()) if clocks else None,
        temp_c=max(temps.values()) if temps else None,
        throttled=tuple(sorted(words)),
    )
