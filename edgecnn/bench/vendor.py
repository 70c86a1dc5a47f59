"""Devices without Python: LiteRT's own `benchmark_model`, with the same rounds and the same report as the agent.

Every round starts a fresh process per artifact. The binary gives no single samples: a round's figure is the median of
its process where it prints one, else its mean, and p90 and p99 are absent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import __version__
from edgecnn.artifact import sha256_of_file
from edgecnn.bench.preflight import look_at, preflight
from edgecnn.bench.records import BenchReport, Measured, summarize
from edgecnn.bench.same_there import SameThere, judge
from edgecnn.device.benchmark_text import Timings, parse_timings
from edgecnn.device.place import Remote
from edgecnn.device.transport import Completed, run
from edgecnn.errors import DeviceFailed, EnvironmentFailure, InputError, UsageError
from edgecnn.runtime.tensor import TensorSpec, random_arrays
from edgecnn.targets.engine import open_session

ENGINE = {"name": "benchmark_model", "version": "not told"}
NO_SAMPLES = "benchmark_model gives no single samples: each round is one figure, p90 and p99 are absent"
WARM_S, LONGEST_S = 0.2, 600.0


@dataclass
class _Collected:
    path: str
    there: str
    about: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    found: list[Timings] = field(default_factory=list)

    def finish(self, machine: Mapping[str, Any]) -> Measured:
        kinds = {"median" if one.median_us is not None else "mean" for one in self.found}
        ns = [(one.median_us or one.avg_us) * 1e3 for one in self.found]
        delegates = {one.delegate for one in self.found} - {None, "completely"}
        outside = [f"XNNPACK took the net {word}" for word in sorted(map(str, delegates))]
        peak = max((one.memory_mb or 0.0) for one in self.found)
        return Measured(
            artifact=self.path,
            blocks=tuple(np.asarray([round(value)], np.int64) for value in ns),
            cpu_share=1.0,
            first_ns=tuple(round((one.first_us or 0) * 1e3) for one in self.found),
            load_ns=tuple(round((one.init_us or 0) * 1e3) for one in self.found),
            peak_bytes=round(peak * 1e6),
            before_bytes=0,
            about={**self.about, "machine": dict(machine)},
            remarks=(*self.remarks, f"{NO_SAMPLES}; rounds hold the {' or '.join(sorted(kinds))}", *outside),
            sha256=sha256_of_file(self.path),
            raw=False,
        )


def bench_vendor(
    paths: Sequence[Any], *, asked: Mapping[str, Any], device: Remote, progress: Callable[[str], None]
) -> BenchReport:
    """The comparison of `bench.run.bench` by the binary that the device's file names.

    Args:
        paths: .tflite files.
        asked: `threads`, `min_seconds`, `blocks`, `processes` and `seed`, as `bench` takes them.
        device: where.
        progress: called with a line now and then.

    Raises:
        UsageError: an artifact is no .tflite file, or free input sizes were to be chosen.
        EnvironmentFailure: the binary is not where the device's file says.
        DeviceFailed: the device was lost, or the binary does not run there.
        CheckFailed: the device computes other outputs than this machine.
    """
    if wrong := [str(path) for path in paths if Path(path).suffix.lower() != ".tflite"]:
        raise UsageError("`benchmark_model` runs .tflite files only", where=wrong[0])
    if asked["shapes"]:
        raise UsageError("input sizes cannot be chosen with `benchmark_model`", do="export with fixed sizes")
    notes = preflight(device, progress=progress)
    binary = install(device)
    collected = [_prepared(str(path), binary, asked, device) for path in paths]
    blocks, threads = asked["blocks"], asked["threads"]
    progress(f"{device.name}: {blocks} rounds of {len(collected)} artifacts by benchmark_model, a process each")
    for turn in range(blocks):
        for item in collected if turn % 2 == 0 else collected[::-1]:
            seconds = asked["min_seconds"] / blocks
            item.found.append(_timed(binary, item.there, seconds=seconds, threads=threads, device=device))
    machine = look_at(device)["machine"]
    measured = [item.finish(machine) for item in collected]
    return BenchReport(
        runs=tuple(summarize(m, measured[0], threads=threads, seed=asked["seed"]) for m in measured),
        machine=machine,
        versions={"edgecnn": __version__, ENGINE["name"]: ENGINE["version"]},
        threads=threads,
        min_seconds=asked["min_seconds"],
        processes=blocks,
        seed=asked["seed"],
        device=device.name,
        notes=tuple(notes),
    )


def install(device: Remote) -> str:
    """Brings the binary there, and gives its path.

    Raises:
        EnvironmentFailure: it is not where the device's file says.
        DeviceFailed: the device did not take it.
    """
    source = Path(device.profile.benchmark_model or "")
    if not source.is_file():
        raise EnvironmentFailure(
            "there is no such binary",
            where=str(source),
            do="set `benchmark_model` in the device's file to LiteRT's benchmark_model for that device",
        )
    there, _ = device.send(source, suffix="")
    done = run(device.transport, ["chmod", "755", there])
    if done.code != 0:
        raise DeviceFailed(f"`{device.name}` did not make the binary executable", where=there, got=done.said[-300:])
    return there


def command(binary: str, graph: str, *, threads: int, device: Remote, more: Sequence[str] = ()) -> list[str]:
    """The call of the binary, bound to the device's cores."""
    cores = device.profile.cores
    # Android's toybox takes the mask as hexadecimal digits without a prefix, and util-linux takes that too.
    bound = ["taskset", f"{sum(1 << core for core in cores):x}"] if cores else []
    return [*bound, binary, f"--graph={graph}", f"--num_threads={threads}", "--use_xnnpack=true", *more]


def call(argv: Sequence[str], device: Remote, *, seconds: float) -> Completed:
    """Runs the binary to its end.

    Raises:
        DeviceFailed: the device was lost.
    """
    return run(device.transport, argv, timeout_s=seconds + LONGEST_S)


def text_of(done: Completed) -> str:
    """What it printed; older ones print on stderr."""
    return done.out.decode(errors="replace") + "\n" + done.said


def _timed(binary: str, graph: str, *, seconds: float, threads: int, device: Remote) -> Timings:
    more = [
        *("--num_runs=1", f"--min_secs={seconds:g}", f"--max_secs={LONGEST_S:g}"),
        *("--warmup_runs=1", f"--warmup_min_secs={WARM_S:g}", "--report_peak_memory_footprint=true"),
    ]
    done = call(command(binary, graph, threads=threads, device=device, more=more), device, seconds=seconds)
    found = parse_timings(text_of(done)) if done.code == 0 else None
    if found is None:
        raise DeviceFailed(
            f"`benchmark_model` gave no timings on `{device.name}` (exit code {done.code})",
            where=graph,
            got=text_of(done).strip()[-400:] or None,
            do="try `edgecnn devices check` on it: the binary may be for another processor or system",
        )
    return found


def _prepared(path: str, binary: str, asked: Mapping[str, Any], device: Remote) -> _Collected:
    """The artifact brought there, with its outputs compared."""
    there, _ = device.send(Path(path), suffix=".tflite")
    try:
        session = open_session(path)
    except EnvironmentFailure:
        about: dict[str, Any] = {"engine": ENGINE, "facts": {}, "inputs": []}
        return _Collected(path, there, about, ["outputs were not compared: this machine lacks the engine"])
    with closing(session):
        about = {"engine": ENGINE, "facts": {}, "inputs": [spec.to_json() for spec in session.inputs]}
        arrays = random_arrays(session.inputs, seed=asked["seed"])
        here = session.run(arrays)
        inputs, outputs = session.inputs, session.outputs
    said = _same(path, there, binary, inputs, outputs, arrays, here, device)
    return _Collected(path, there, about, [said])


def _same(
    path: str,
    graph: str,
    binary: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    arrays: Sequence[Any],
    here: list[Any],
    device: Remote,
) -> str:
    """One inference there on the inputs used here, its outputs read from the file that newer binaries write."""
    # The binary takes `name:file` pairs; a colon within a name is doubled.
    names = [spec.name.replace(":", "::") for spec in inputs]
    if any("," in name for name in names):
        return "outputs were not compared: an input's name holds a comma"
    files: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgecnn-parity-") as folder:
        for array in arrays:
            file = Path(folder) / "x"
            file.write_bytes(array.tobytes())
            files.append(device.send(file, suffix=".raw")[0])
    shapes = ":".join(",".join(map(str, spec.shape)) for spec in inputs)
    more: list[str] = [
        *("--num_runs=1", "--min_secs=0", "--warmup_runs=0", "--warmup_min_secs=0"),
        f"--input_layer={','.join(spec.name for spec in inputs)}",
        f"--input_layer_shape={shapes}",
        f"--input_layer_value_files={','.join(f'{n}:{f}' for n, f in zip(names, files, strict=True))}",
        f"--output_filepath={device.folder}/y.raw",
    ]
    call(command(binary, graph, threads=1, device=device, more=more), device, seconds=0)
    try:
        content = device.fetch("y.raw")
    except DeviceFailed as failure:
        if not failure.what.startswith("cannot read a file"):
            raise
        return "outputs were not compared: this benchmark_model writes none"
    sizes = [int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in outputs]
    if len(content) != sum(sizes):
        raise InputError(
            f"`{device.name}` wrote {len(content)} bytes of outputs", where=path, expected=f"{sum(sizes)} bytes"
        )
    there, at = [], 0
    for spec, size in zip(outputs, sizes, strict=True):
        there.append(np.frombuffer(content[at : at + size], spec.dtype).reshape(spec.shape))
        at += size
    found: SameThere = judge(here, there, inputs=1, path=path, device=device.name)
    return found.sentence
