"""How long each op of a net takes in its runtime: every op cut out, emitted alone, and timed in turn with the others.

The runtimes' own profilers do not name the net's ops, and LiteRT's Python package has none. Timed alone an op finds
its weights and inputs in the cache, so the sum over a net is usually a little below the time of the whole; shares and
comparisons are what these figures are for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgecnn.errors import UnsupportedOp
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Graph, Op, QParams, Value
from edgecnn.ir.ops import macs_of
from edgecnn.runtime.session import Session
from edgecnn.runtime.tensor import random_arrays
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions, Target

K = TypeVar("K", bound=Hashable)

ROUND_SECONDS = 0.002
"""How long one op is timed before the next one's turn; an op that takes longer runs once."""

FLOOR_SHAPE = (-1, 1, 1, 1)
"""Of the op that has nothing to compute: what it takes is what starting any artifact costs."""


@dataclass(frozen=True)
class OpLatency:
    """The time of one op alone.

    Args:
        op: its name in the graph.
        kind: its kind.
        source: the module it came from.
        latency_us: median over the rounds, in microseconds, without what starting an artifact costs.
        macs: multiply-adds for one image.
    """

    op: str
    kind: str
    source: str
    latency_us: float
    macs: int

    @property
    def macs_per_s(self) -> float:
        """Multiply-adds per second; 0 for an op without any."""
        return self.macs / (self.latency_us * 1e-6) if self.latency_us > 0 else 0.0


def op_latencies(
    target: Target,
    graph: Graph,
    *,
    options: EmitOptions,
    rounds: int = 15,
    threads: int = 1,
    only: Callable[[Op], bool] | None = None,
) -> list[OpLatency]:
    """The latency of each op of `graph` on this machine, in the order of the graph.

    Ops of the same kind, shape and attributes are timed once. An op that the target cannot emit by itself is left out.

    Args:
        target: whose emitter and runtime.
        graph: after the target's passes and, for int8, after `assign`.
        options: as for the whole artifact; the batch is 1.
        rounds: how often every op has its turn.
        threads: that one inference may use.
        only: which ops; None: all.
    """
    wanted = [op for op in graph.ops if only is None or only(op)]
    singles: dict[Any, Graph] = {}
    for op in wanted:
        singles.setdefault(signature(graph, op), cut(graph, op))
    found_us = latencies_us(target, singles, options=options, rounds=rounds, threads=threads)
    return [
        OpLatency(op.name, op.kind, op.source.module, found_us[key], macs_of(graph, op))
        for op in wanted
        if (key := signature(graph, op)) in found_us
    ]


def latencies_us(
    target: Target,
    graphs: Mapping[K, Graph],
    *,
    options: EmitOptions,
    rounds: int = 15,
    threads: int = 1,
) -> dict[K, float]:
    """The latency of small graphs in microseconds, timed in turn, without what starting any artifact costs.

    Graphs that the target cannot emit are left out.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecnn-per-op-")))
        sessions: dict[K | None, Session] = {}
        for key, graph in graphs.items():
            session = _session_of(graph, target, options, folder, threads)
            if session is not None:
                sessions[key] = stack.enter_context(closing(session))
        if not sessions:
            return {}
        floor = _session_of(_nothing(next(iter(graphs.values()))), target, options, folder, threads)
        assert floor is not None  # an addition of one number is emitted by every target
        sessions[None] = stack.enter_context(closing(floor))
        medians_us = _timed(sessions, rounds)
    start_us = medians_us.pop(None)
    return {key: max(0.0, taken - start_us) for key, taken in medians_us.items() if key is not None}


def signature(graph: Graph, op: Op) -> tuple[Any, ...]:
    """What an op's time depends on: kind, attributes, shapes, which inputs are constants, and its element types."""
    inputs = tuple(
        (graph.shape(i), graph.value(i).is_const, graph.value(i).q is not None, _same(op, k))
        for k, i in enumerate(op.inputs)
    )
    return (op.kind, tuple(sorted(op.attrs.items())), inputs, graph.value(op.output).q is not None)


def _same(op: Op, at: int) -> int:
    """The first place at which the op reads the same value: x * x is not x * y."""
    return op.inputs.index(op.inputs[at])


def _nothing(graph: Graph) -> Graph:
    """An addition of single numbers, in the precision of `graph`."""
    q = graph.value(graph.inputs[0]).q
    values = [_number("a", q), _number("b", q), _number("c", q)]
    return Graph.build("nothing", [Op("add", ("a", "b"), "c")], values, ("a", "b"), ("c",))


def _number(name: str, q: QParams | None) -> Value:
    return Value(name, FLOOR_SHAPE, q=q)


def _session_of(single: Graph, target: Target, options: EmitOptions, folder: Path, threads: int) -> Session | None:
    q = single.value(single.inputs[0]).q if single.inputs else None
    own = replace(options, batch=1, input_type="float32" if q is None else q.dtype, metadata={})  # type: ignore[arg-type]
    try:
        emitted = target.emit(single, own)
    except UnsupportedOp:
        return None
    # LiteRT maps the file as long as the session lives, so each has its own.
    path = folder / f"op{len(list(folder.iterdir()))}{target.suffix}"
    path.write_bytes(emitted.data)
    session = open_session(path, threads=threads)
    session.set_inputs(random_arrays(session.inputs, seed=0))
    return session


def _timed(sessions: dict[Any, Session], rounds: int) -> dict[Any, float]:
    """The median time of each session in microseconds; the sessions take turns, so that a slow moment hits all."""
    clock = time.perf_counter_ns
    runs: dict[Any, int] = {}
    for key, session in sessions.items():
        session.invoke()
        before = clock()
        session.invoke()
        runs[key] = min(100, max(1, ceil(ROUND_SECONDS * 1e9 / max(1, clock() - before))))
    samples: dict[Any, list[float]] = {key: [] for key in sessions}
    for _ in range(rounds):
        for key, session in sessions.items():
            session.invoke()  # fills the caches again
            turn = []
            for _ in range(runs[key]):
                before = clock()
                session.invoke()
                turn.append(clock() - before)
            samples[key].append(float(np.median(turn)))
    return {key: float(np.median(found)) / 1e3 for key, found in samples.items()}
