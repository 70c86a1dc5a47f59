"""How long each op of a net takes in its runtime: every op cut out, emitted alone, and timed in turn with the others.

The runtimes' own profilers do not name the net's ops, and LiteRT's Python package has none. Timed alone an op finds
its weights and inputs in the cache, so the sum over a net is usually a little below the time of the whole; shares and
comparisons are what these figures are for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgecnn.bench.worker import Agent
from edgecnn.device.place import Remote
from edgecnn.errors import DeviceFailed, UnsupportedOp
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Graph, Op, QParams, Value
from edgecnn.ir.ops import macs_of
from edgecnn.runtime.tensor import random_arrays
from edgecnn.runtime.turns import in_turn
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions, Target

K = TypeVar("K", bound=Hashable)

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
    device: Remote | None = None,
) -> dict[K, float]:
    """The latency of small graphs in microseconds, timed in turn, without what starting any artifact costs.

    Graphs that the target cannot emit are left out. Timed in this process, or in one on `device`.

    Raises:
        DeviceFailed: the device was lost.
    """

    def price(paths: Sequence[Path]) -> list[float]:
        ns = _here(paths, rounds, threads) if device is None else _there(paths, rounds, threads, device)
        return [each / 1e3 for each in ns]

    return prices(target, graphs, options=options, price=price)


def prices(
    target: Target,
    graphs: Mapping[K, Graph],
    *,
    options: EmitOptions,
    price: Callable[[Sequence[Path]], Sequence[float]],
) -> dict[K, float]:
    """What small graphs cost as artifacts, less what starting any artifact costs; those not emitted are left out.

    Args:
        target: whose emitter.
        graphs: by key.
        options: of the emitter.
        price: the cost of each artifact, in a unit of its own.
    """
    with tempfile.TemporaryDirectory(prefix="edgecnn-per-op-") as name:
        folder, paths = Path(name), dict[K, Path]()
        for key, graph in graphs.items():
            path = _emitted(graph, target, options, folder)
            if path is not None:
                paths[key] = path
        if not paths:
            return {}
        first = next(iter(graphs.values()))
        floor = _emitted(nothing(first.value(first.inputs[0]).q), target, options, folder)
        assert floor is not None  # an addition of one number is emitted by every target
        *costs, start = price([*paths.values(), floor])
    return {key: max(0.0, cost - start) for key, cost in zip(paths, costs, strict=True)}


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


def nothing(q: QParams | None = None) -> Graph:
    """An addition of single numbers, coded by `q`: what it takes is what starting any artifact costs."""
    values = [_number("a", q), _number("b", q), _number("c", q)]
    return Graph.build("nothing", [Op("add", ("a", "b"), "c")], values, ("a", "b"), ("c",))


def _number(name: str, q: QParams | None) -> Value:
    return Value(name, FLOOR_SHAPE, q=q)


def _emitted(single: Graph, target: Target, options: EmitOptions, folder: Path) -> Path | None:
    q = single.value(single.inputs[0]).q if single.inputs else None
    own = replace(options, batch=1, input_type="float32" if q is None else q.dtype, metadata={})  # type: ignore[arg-type]
    try:
        emitted = target.emit(single, own)
    except UnsupportedOp:
        return None
    # LiteRT maps the file as long as the session lives, so each has its own.
    path = folder / f"op{len(list(folder.iterdir()))}{target.suffix}"
    path.write_bytes(emitted.data)
    return path


def _here(paths: Sequence[Path], rounds: int, threads: int) -> list[float]:
    with ExitStack() as stack:
        sessions = []
        for path in paths:
            session = stack.enter_context(closing(open_session(path, threads=threads)))
            session.set_inputs(random_arrays(session.inputs, seed=0))
            sessions.append(session)
        return in_turn(sessions, rounds)


def _there(paths: Sequence[Path], rounds: int, threads: int, device: Remote) -> list[float]:
    files = [device.put(str(path)) for path in paths]
    cores = device.profile.cores
    asked = [{key: file[key] for key in ("path", "sha256")} for file in files]
    with Agent(device, subject=device.name) as agent:
        found: list[float] = agent.ask("turns", files=asked, rounds=rounds, threads=threads, cores=cores)["median_ns"]
    if len(found) != len(paths):
        raise DeviceFailed(f"`{device.name}` timed {len(found)} of {len(paths)} artifacts")
    return found
