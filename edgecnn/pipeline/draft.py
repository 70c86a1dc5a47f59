"""A graph as an artifact for timing: lowered, coded in invented ranges, emitted; not proved, and not to be shipped.

How long a kernel takes does not depend on the numbers it works on, so no image is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import platformdirs

from edgecnn.artifact import sha256_of
from edgecnn.bench.per_op import latencies_us
from edgecnn.bench.records import BenchReport
from edgecnn.bench.run import bench
from edgecnn.errors import UnsupportedOp
from edgecnn.ir.graph import Graph
from edgecnn.ir.hash import graph_hash
from edgecnn.passes.standard import run_passes
from edgecnn.prune.latency import LatencyTable
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measured_values
from edgecnn.quant.ranges import Histogram, Ranges, Stats, exponent_for
from edgecnn.runtime.cpu import cpu_facts
from edgecnn.targets.target import Cpu, EmitOptions, Target

AT_ONCE = 48
"""Pieces that are open together while they are timed in turn."""
ROUNDS = 9
RANGE = 4.0
ENGINES = {"ort": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime")}
"""The distributions that an engine may come from."""


def lowered(graph: Graph, target: Target, cpu: Cpu) -> Graph:
    """The graph after the target's rewrites and, for an integer target, with codes for -4 to 4 everywhere.

    Raises:
        UnsupportedOp: the target has no form for it.
    """
    rewritten, _ = run_passes(graph, target.passes(cpu, {}))
    if target.scheme is None:
        return rewritten
    exponent = exponent_for(-RANGE, RANGE)
    bins = int(2 * RANGE / 2.0**exponent)
    even = Stats(1, -RANGE, RANGE, -RANGE, RANGE, Histogram(exponent, -bins // 2, np.ones(bins, np.int64)))
    ranges = Ranges(graph_hash(rewritten), "", dict.fromkeys(measured_values(rewritten), even))
    return assign(rewritten, ranges, target.scheme(cpu), estimator="minmax")[0]


def draft(graph: Graph, target: Target, cpu: Cpu) -> bytes:
    """The artifact's bytes; see `lowered` for what they are good for."""
    return target.emit(lowered(graph, target, cpu), EmitOptions(cpu=cpu, input_type=target.input_types[0])).data


def compare(
    graphs: Mapping[str, Graph], target: Target, cpu: Cpu, *, threads: int = 1, min_seconds: float = 2.0
) -> BenchReport:
    """The latency of the graphs on this machine in one interleaved run; ratios are to the first."""
    with tempfile.TemporaryDirectory(prefix="edgecnn-draft-") as folder:
        paths = []
        for name, graph in graphs.items():
            paths.append(Path(folder) / f"{name}{target.suffix}")
            paths[-1].write_bytes(draft(graph, target, cpu))
        return bench(paths, threads=threads, min_seconds=min_seconds)


def latency_table(target: Target, cpu: Cpu, *, threads: int = 1, folder: Path | None = None) -> LatencyTable:
    """The table of this machine for a target, as far as it has been measured; the rest is measured when it is needed.

    Args:
        target: whose emitter and runtime.
        cpu: the core that it lowers for.
        threads: of one inference.
        folder: where tables are kept; None: the user's cache.
    """
    where = f"{target.name} for {cpu}, {threads} thread(s), {cpu_facts().model}, {_engine(target)}"
    path = (folder or platformdirs.user_cache_path("edgecnn") / "latency") / f"{sha256_of(where.encode())[:16]}.json"
    return LatencyTable(where, lambda graphs: time_here(graphs, target, cpu, threads=threads), path)


def time_here(graphs: Mapping[str, Graph], target: Target, cpu: Cpu, *, threads: int = 1) -> dict[str, float]:
    """The latency of small float graphs on this machine, in microseconds; those that cannot be lowered are left out."""
    options, found = EmitOptions(cpu=cpu), dict[str, float]()
    names = list(graphs)
    for chunk in (names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)):
        ready = {}
        for name in chunk:
            try:
                ready[name] = lowered(graphs[name], target, cpu)
            except UnsupportedOp:
                continue
        found |= latencies_us(target, ready, options=options, rounds=ROUNDS, threads=threads)
    return found


def _engine(target: Target) -> str:
    for name in ENGINES[target.runtime]:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "no engine"
