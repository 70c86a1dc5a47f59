"""Compares the latency of artifacts, here or on a device: fresh processes, interleaved in blocks, raw samples kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import __version__
from edgecnn.artifact import sha256_of_file
from edgecnn.bench.preflight import preflight
from edgecnn.bench.records import BenchReport, Measured, summarize
from edgecnn.bench.same_there import compare_there
from edgecnn.bench.stats import Array
from edgecnn.bench.worker import Worker
from edgecnn.device.place import Remote
from edgecnn.errors import UsageError
from edgecnn.targets.engine import check_artifact

MIN_BLOCKS = 6
WARM_SECONDS = 0.2
MAX_RUNS = 2000
"""Of one block: tiny artifacts need no more samples, only more rounds."""


@dataclass
class _Collected:
    """What the processes of one artifact have answered so far."""

    path: str
    blocks: list[Array] = field(default_factory=list)
    cpu_ns: int = 0
    wall_ns: int = 0
    first_ns: list[int] = field(default_factory=list)
    load_ns: list[int] = field(default_factory=list)
    peak_bytes: int = 0
    before_bytes: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def start(self, worker: Worker, seed: int) -> None:
        """Takes the load time and the first inference of a fresh process, and warms it up."""
        self.about = worker.about
        self.load_ns.append(worker.about["load_ns"])
        worker.ask("feed", seed=seed)
        self.first_ns.append(worker.ask("first")["first_ns"])
        worker.ask("block", seconds=WARM_SECONDS, warm=0)

    def measure(self, worker: Worker, seconds: float) -> None:
        """Adds one block."""
        answer = worker.ask("block", seconds=seconds, max_runs=MAX_RUNS)
        self.blocks.append(np.asarray(answer["samples_ns"], np.int64))
        self.cpu_ns += answer["cpu_ns"]
        self.wall_ns += answer["wall_ns"]
        self.states.append(answer.get("state", {}))

    def end(self, worker: Worker) -> None:
        """Takes the peak memory; the largest of the processes counts."""
        answer = worker.ask("memory")
        if answer["peak_rss_bytes"] > self.peak_bytes:
            self.peak_bytes, self.before_bytes = answer["peak_rss_bytes"], answer["before_rss_bytes"]

    def finish(self) -> Measured:
        """The whole of it."""
        return Measured(
            self.path,
            tuple(self.blocks),
            self.cpu_ns / self.wall_ns,
            tuple(self.first_ns),
            tuple(self.load_ns),
            self.peak_bytes,
            self.before_bytes,
            self.about,
            tuple(self.states),
            tuple(self.remarks),
            sha256_of_file(Path(self.path)),
        )


def bench(
    paths: Sequence[str | os.PathLike[str]],
    *,
    threads: int = 1,
    min_seconds: float = 2.0,
    blocks: int = 20,
    processes: int = 2,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    device: Remote | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Latency of each artifact, and its ratio to the first one.

    On a device the outputs are first compared with those computed here, and the device's state is looked at.

    Every artifact runs in processes of its own. In each round each artifact is timed for one block, in the order
    A B C, then C B A, and so on, so that slow changes of the machine meet all of them alike; half of the rounds run
    in a second set of fresh processes, because where a process happens to lie in memory also changes its speed.

    Args:
        paths: .tflite and .onnx files, from anywhere; the first is what ratios refer to.
        threads: of one inference.
        min_seconds: how long each artifact is timed in all.
        blocks: how many rounds.
        processes: how many fresh processes each artifact gets, one after the other.
        seed: of the random inputs and of the bootstrap.
        shapes: input shapes by name, for files that leave more than the batch free.
        device: the folder on a device to measure in; this machine if None.
        progress: called with a line now and then.

    Raises:
        UsageError: no artifacts, or numbers that make no sense.
        InputError: an artifact is missing, damaged, or of an unknown kind.
        EnvironmentFailure: an engine is missing.
        DeviceFailed: the device cannot be reached or was lost.
        CheckFailed: the device computes other outputs than this machine.
    """
    _check(paths, threads, min_seconds, blocks, processes)
    report = progress or (lambda line: None)
    collected = [_Collected(os.fspath(path)) for path in paths]
    for item in collected:
        check_artifact(item.path)
    notes = preflight(device, progress=report) if device is not None else []
    for number, rounds in enumerate(_shares(blocks, processes)):
        report(f"process {number + 1} of {processes}: load, warm up, {rounds} rounds of {len(collected)} artifacts")
        with ExitStack() as stack:
            workers = []
            for item in collected:
                worker = Worker(item.path, threads=threads, shapes=dict(shapes or {}), place=device)
                workers.append(stack.enter_context(worker))
                if device is not None and number == 0:
                    item.remarks.append(compare_there(item.path, worker, device, shapes=shapes, seed=seed).sentence)
                item.start(worker, seed)
            pairs = list(zip(collected, workers, strict=True))
            for turn in range(rounds):
                for item, worker in pairs if turn % 2 == 0 else reversed(pairs):
                    item.measure(worker, min_seconds / blocks)
            for item, worker in pairs:
                item.end(worker)
    measured = [item.finish() for item in collected]
    return BenchReport(
        runs=tuple(summarize(m, measured[0], threads=threads, seed=seed) for m in measured),
        machine=measured[0].about["machine"],
        versions=_versions(measured),
        threads=threads,
        min_seconds=min_seconds,
        processes=processes,
        seed=seed,
        device=device.name if device is not None else None,
        notes=tuple(notes),
    )


def _shares(blocks: int, processes: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(blocks), processes)]


def _versions(measured: Sequence[Measured]) -> dict[str, str]:
    engines = {m.about["engine"]["name"]: m.about["engine"]["version"] for m in measured}
    machine = measured[0].about["machine"]
    return {"edgecnn": __version__, "python": machine["python"], "numpy": machine["numpy"], **engines}


def _check(paths: Sequence[Any], threads: int, min_seconds: float, blocks: int, processes: int) -> None:
    if not paths:
        raise UsageError("no artifacts to measure", do="give one or more .tflite or .onnx files")
    if twice := [os.fspath(p) for p, n in Counter(paths).items() if n > 1]:
        raise UsageError(f"`{twice[0]}` is given twice", do="copy it to compare a file with itself")
    for name, value, least in (
        ("threads", threads, 1),
        ("blocks", blocks, MIN_BLOCKS),
        ("processes", processes, 1),
    ):
        if value < least:
            raise UsageError(f"{value} {name}", expected=f"at least {least}")
    if not 0 < min_seconds < 86400:
        raise UsageError(f"min-seconds of {min_seconds}", expected="more than 0, at most a day")
    if processes > blocks:
        raise UsageError(f"{processes} processes for {blocks} blocks", expected="at most one process per block")
