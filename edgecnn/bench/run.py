"""Compares the latency of artifacts, here or on a device: fresh processes, interleaved in blocks, raw samples kept."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import __version__
from edgecnn.artifact import sha256_of_file
from edgecnn.bench.checkpoint import Checkpoint, advise
from edgecnn.bench.collect import COLD_STARTS, Collected
from edgecnn.bench.preflight import preflight
from edgecnn.bench.records import BenchReport, Measured, summarize
from edgecnn.bench.same_there import compare_there
from edgecnn.bench.vendor import bench_vendor
from edgecnn.bench.worker import Worker
from edgecnn.device.place import Remote
from edgecnn.errors import EdgecnnError, UsageError
from edgecnn.targets.engine import check_artifact

MIN_BLOCKS = 6
OTHERS_EVERY = 4
"""Rounds from one with the other figures to the next: they are worth less time than the inference itself."""


@dataclass(frozen=True)
class Asked:
    """The settings of a measurement; see `bench`."""

    threads: int
    min_seconds: float
    blocks: int
    processes: int
    seed: int
    shapes: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.__dict__, "shapes": {name: list(shape) for name, shape in self.shapes.items()}}


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
    extras: bool = True,
    checkpoint: Path | None = None,
    resume: bool = False,
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
        extras: also measure cold starts, energy, and inferences with copies and from the pixels on.
        checkpoint: a file that the finished rounds are put down in, and which is removed at the end.
        resume: go on after the rounds in `checkpoint`.
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
    asked = Asked(threads, min_seconds, blocks, processes, seed, dict(shapes or {}))
    collected = [Collected(os.fspath(path)) for path in paths]
    for item in collected:
        check_artifact(item.path)
    if device is not None and device.profile.benchmark_model is not None:
        return bench_vendor(paths, asked=asked.to_json(), device=device, progress=report)
    notes = preflight(device, progress=report) if device is not None else []
    kept = _checkpoint(checkpoint, collected, asked, device) if checkpoint is not None else None
    if resume and kept is not None:
        collected = kept.load()
        notes.append(f"resumed after {len(collected[0].blocks)} of {blocks} rounds")
    try:
        _measure(collected, asked, device=device, extras=extras, kept=kept, report=report)
    except EdgecnnError as failure:
        raise advise(failure, kept, len(collected[0].blocks)) from failure.__cause__
    measured = [item.finish() for item in collected]
    if kept is not None:
        kept.remove()
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
        shapes=asked.shapes,
    )


def _measure(
    collected: Sequence[Collected],
    asked: Asked,
    *,
    device: Remote | None,
    extras: bool,
    kept: Checkpoint | None,
    report: Callable[[str], None],
) -> None:
    """All rounds that are not done yet, one set of fresh processes after the other."""
    shares = _shares(asked.blocks, asked.processes)
    seconds = asked.min_seconds / asked.blocks
    for number, rounds in enumerate(shares):
        done = len(collected[0].blocks) - sum(shares[:number])
        if done >= rounds:
            continue
        report(
            f"process {number + 1} of {asked.processes}: load, warm up, {rounds - max(0, done)} rounds "
            f"of {len(collected)} artifacts"
        )
        with ExitStack() as stack:
            workers = []
            for item in collected:
                worker = Worker(item.path, threads=asked.threads, shapes=dict(asked.shapes), place=device)
                workers.append(stack.enter_context(worker))
                if device is not None and not item.remarks:
                    same = compare_there(item.path, worker, device, shapes=asked.shapes, seed=asked.seed)
                    item.remarks.append(same.sentence)
                item.start(worker, asked.seed)
            pairs = list(zip(collected, workers, strict=True))
            for turn in range(max(0, done), rounds):
                order = pairs if turn % 2 == 0 else pairs[::-1]
                answers = [(item, item.block(worker, seconds)) for item, worker in order]
                for item, answer in answers:
                    item.add(answer)
                if extras and turn % OTHERS_EVERY == 0:
                    for item, worker in order:
                        item.add_others(worker, seconds / 2)
                if kept is not None:
                    kept.save(collected)
            if extras and number == len(shares) - 1:
                _extras(pairs, asked, device)
            for item, worker in pairs:
                item.end(worker)


def _extras(pairs: Sequence[tuple[Collected, Worker]], asked: Asked, device: Remote | None) -> None:
    """Cold starts, interleaved too, and energy."""
    for turn in range(COLD_STARTS):
        for item, worker in pairs if turn % 2 == 0 else pairs[::-1]:
            item.add_cold(worker)
    sensor = device.profile.power_sensor if device is not None else None
    for item, worker in pairs:
        item.take_energy(worker, asked.min_seconds, sensor)


def _checkpoint(path: Path, collected: Sequence[Collected], asked: Asked, device: Remote | None) -> Checkpoint:
    files = [[item.path, sha256_of_file(item.path)] for item in collected]
    where = device.name if device is not None else None
    return Checkpoint(path, {**asked.to_json(), "artifacts": files, "device": where, "edgecnn": __version__})


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
