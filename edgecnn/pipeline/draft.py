"""A graph as an artifact for timing: lowered, coded in invented ranges, emitted; not proved, and not to be shipped.

How long a kernel takes does not depend on the numbers it works on, so no image is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecnn.bench.records import BenchReport
from edgecnn.bench.run import bench
from edgecnn.ir.graph import Graph
from edgecnn.ir.hash import graph_hash
from edgecnn.passes.standard import run_passes
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measured_values
from edgecnn.quant.ranges import Histogram, Ranges, Stats, exponent_for
from edgecnn.targets.target import Cpu, EmitOptions, Target

RANGE = 4.0


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


def write_drafts(graphs: Mapping[str, Graph], target: Target, cpu: Cpu, folder: Path) -> list[Path]:
    """The drafts of the graphs as files of their names in `folder`."""
    paths = []
    for name, graph in graphs.items():
        paths.append(folder / f"{name}{target.suffix}")
        paths[-1].write_bytes(draft(graph, target, cpu))
    return paths


def compare(
    graphs: Mapping[str, Graph], target: Target, cpu: Cpu, *, threads: int = 1, min_seconds: float = 2.0
) -> BenchReport:
    """The latency of the graphs on this machine in one interleaved run; ratios are to the first."""
    with tempfile.TemporaryDirectory(prefix="edgecnn-draft-") as folder:
        paths = write_drafts(graphs, target, cpu, Path(folder))
        return bench(paths, threads=threads, min_seconds=min_seconds, extras=False)
