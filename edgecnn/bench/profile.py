"""Where the time of an artifact goes, operator by operator, on this machine or on a device.

ONNX Runtime and `benchmark_model` have profilers of their own. LiteRT's Python package has none: there every operator
is cut out of the file and timed alone, in turn with the others, in the same runtime with the same delegate. Alone an
operator finds its inputs in the cache, so the sum may be below the time of the whole; shares and ranks are what these
figures are for.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecnn.bench import vendor
from edgecnn.bench.per_op import nothing
from edgecnn.bench.worker import Agent, Worker
from edgecnn.device.benchmark_text import parse_table
from edgecnn.device.place import Here, Remote
from edgecnn.errors import DeviceFailed
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions
from edgecnn.targets.tflite_cut import singles

RUNS = 30
ROUNDS = 15


@dataclass(frozen=True)
class Row:
    """One operator of an artifact.

    Args:
        name: as the runtime or the file has it.
        op: the graph's operation that it came from, which carries the path of its module (`op_of`); the last one of
            a .tflite file has the name of the output. For a file of another tool, the name itself.
        kind: what the runtime executes.
        latency_us: of one inference.
    """

    name: str
    op: str
    kind: str
    latency_us: float


@dataclass(frozen=True)
class Profile:
    """The operators of an artifact in the order of execution.

    Args:
        artifact: the path as it was given.
        by: what measured it.
        rows: its operators.
    """

    artifact: str
    by: str
    rows: tuple[Row, ...]

    @property
    def total_us(self) -> float:
        """The sum over the operators."""
        return sum(row.latency_us for row in self.rows)

    def by_op(self) -> list[tuple[str, str, float]]:
        """Operation, kinds and time of each operation of the graph, the slowest first."""
        times: dict[str, float] = {}
        kinds: dict[str, dict[str, None]] = {}
        for row in self.rows:
            times[row.op] = times.get(row.op, 0.0) + row.latency_us
            kinds.setdefault(row.op, {})[row.kind] = None
        return sorted(((op, " + ".join(kinds[op]), times[op]) for op in times), key=lambda entry: -entry[2])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "artifact": self.artifact,
            "by": self.by,
            "total_us": self.total_us,
            "operators": [dict(row.__dict__) for row in self.rows],
        }


def profile(
    path: str,
    *,
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    device: Remote | None = None,
) -> Profile:
    """The profile of one artifact.

    Args:
        path: a .tflite or .onnx file, from anywhere.
        threads: of one inference.
        shapes: input shapes by name, for ONNX files that leave more than the batch free.
        seed: of the random inputs.
        device: the folder on a device; this machine if None.

    Raises:
        InputError: the artifact is missing or damaged.
        EnvironmentFailure: an engine is missing.
        DeviceFailed: the device was lost, or gave no profile.
    """
    if device is not None and device.profile.benchmark_model is not None:
        return _by_vendor(path, threads, device)
    if Path(path).suffix.lower() == ".tflite":
        return _one_by_one(path, threads, device)
    with Worker(path, threads=threads, shapes=dict(shapes or {}), place=device) as worker:
        worker.ask("feed", seed=seed)
        answer = worker.ask("profile", runs=RUNS)
    rows = rows_of([(node["name"], node["kind"], node["median_ns"] / 1e3) for node in answer["nodes"]])
    return Profile(path, f"ONNX Runtime {answer['engine']['version']}'s profiler", rows)


def op_of(name: str, kind: str = "") -> str:
    """The graph's operation of a runtime's operator.

    Our emitters name what they add `OPERATION/what it is for`, and what prepares an input `INPUT/for/OPERATION`; ONNX
    Runtime appends `_nchwc` where it changes the layout, and names what it adds by the kind alone.
    """
    if name == kind:
        return f"(the runtime's own {kind})"
    if name.startswith("/"):  # as torch's exporter names nodes
        return name
    _, reads, reader = name.partition("/for/")
    own = reader if reads else name.split("/", 1)[0]
    return own.removesuffix("_nchwc")


def rows_of(nodes: Sequence[tuple[str, str, float]]) -> tuple[Row, ...]:
    """Rows of names, kinds and microseconds; an operation that reads an input twice has `_2` at the second."""
    ops = [op_of(name, kind) for name, kind, _ in nodes]
    known = {name for name, _, _ in nodes}
    rows = [Row(name, op, kind, us) for op, (name, kind, us) in zip(ops, nodes, strict=True)]
    again = [row for row in rows if "/for/" in row.name and row.op not in known]
    first = {row: re.sub(r"_\d+$", "", row.op) for row in again}
    return tuple(replace(row, op=first[row]) if row in first else row for row in rows)


def _one_by_one(path: str, threads: int, device: Remote | None) -> Profile:
    found = list(singles(Path(path)))
    with tempfile.TemporaryDirectory(prefix="edgecnn-profile-") as folder:
        # Equal operators give equal files, which are timed once.
        files: dict[bytes, Path] = {}
        for single in found:
            if single.data not in files:
                file = Path(folder) / f"op{len(files)}.tflite"
                file.write_bytes(single.data)
                files[single.data] = file
        floor = Path(folder) / "nothing.tflite"
        floor.write_bytes(all_targets()["tflite-fp32"].emit(nothing(), EmitOptions()).data)
        *times, start = _turns([*files.values(), floor], threads, device)
    ns = {data: max(0.0, time - start) for data, time in zip(files, times, strict=True)}
    rows = rows_of([(one.name, one.kind, ns[one.data] / 1e3) for one in found])
    return Profile(path, "each operator alone in LiteRT, in turn", rows)


def _turns(paths: Sequence[Path], threads: int, device: Remote | None) -> list[float]:
    place = device or Here()
    files = [{key: value for key, value in place.put(str(path)).items() if key != "cores"} for path in paths]
    cores = device.profile.cores if device is not None else None
    with Agent(place, subject=device.name if device is not None else "this machine") as agent:
        found: list[float] = agent.ask("turns", files=files, rounds=ROUNDS, threads=threads, cores=cores)["median_ns"]
    if len(found) != len(paths):
        raise DeviceFailed(f"{len(found)} of {len(paths)} operators were timed")
    return found


def _by_vendor(path: str, threads: int, device: Remote) -> Profile:
    binary = vendor.install(device)
    graph, _ = device.send(Path(path), suffix=".tflite")
    more = ["--num_runs=30", "--min_secs=0.5", "--warmup_min_secs=0.2", "--enable_op_profiling=true"]
    done = vendor.call(vendor.command(binary, graph, threads=threads, device=device, more=more), device, seconds=1)
    lines = parse_table(vendor.text_of(done))
    if not lines:
        raise DeviceFailed(
            f"`benchmark_model` gave no profile on `{device.name}` (exit code {done.code})",
            where=path,
            got=vendor.text_of(done).strip()[-400:] or None,
        )
    rows = rows_of([(line.name, line.kind, line.avg_ms * 1e3) for line in lines])
    return Profile(path, "benchmark_model's profiler", rows)
