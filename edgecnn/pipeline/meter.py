"""What nets and pieces of them cost somewhere: microseconds here or on a device, or instructions under emulation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

import platformdirs

from edgecnn.artifact import sha256_of
from edgecnn.bench.instructions import CORES, LABEL, Emulator, count
from edgecnn.bench.per_op import latencies_us, prices
from edgecnn.bench.run import bench
from edgecnn.bench.worker import Agent
from edgecnn.device.place import Remote
from edgecnn.device.profile import DeviceProfile, load_device
from edgecnn.errors import UnsupportedOp, unknown
from edgecnn.ir.graph import Graph
from edgecnn.pipeline.device_check import device_cpu
from edgecnn.pipeline.draft import lowered, write_drafts
from edgecnn.pipeline.pruned import Timing, Unit
from edgecnn.prune.latency import LatencyTable
from edgecnn.runtime.cpu import cpu_facts, local_cpu
from edgecnn.targets.target import Cpu, EmitOptions, Target, core_named

AT_ONCE = 48
"""Pieces that are open together while they are timed in turn."""
ROUNDS = 9
ENGINES = {"ort": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime")}
"""The distributions that an engine may come from."""


class Meter(Protocol):
    """One way to say what a graph costs as an artifact of a target."""

    @property
    def unit(self) -> Unit:
        """Of all it says."""

    @property
    def cpu(self) -> Cpu:
        """The core that graphs are lowered for."""

    def where(self) -> str:
        """Target, core, machine and versions, in words: what is measured elsewhere is another cost."""

    def price(self, graphs: Mapping[str, Graph]) -> dict[str, float]:
        """What small float graphs cost; those that cannot be lowered are left out."""

    def compare(self, whole: Graph, part: Graph, *, min_seconds: float) -> Timing:
        """Two nets as whole artifacts against each other."""


@dataclass(frozen=True)
class Clock:
    """Measured time.

    Args:
        target: whose emitter and runtime.
        cpu: the core that it lowers for.
        threads: of one inference.
        device: name and profile; None: this machine.
    """

    target: Target
    cpu: Cpu
    threads: int = 1
    device: tuple[str, DeviceProfile] | None = None

    @property
    def unit(self) -> Unit:
        """Microseconds."""
        return "us"

    def where(self) -> str:
        """The processor and the engine's version are asked for on the device."""
        if self.device is None:
            machine = f"{cpu_facts().model}, {_engine(self.target)}"
        else:
            name, profile = self.device
            with Remote(name, profile) as remote, Agent(remote, subject=name) as agent:
                answer = agent.ask("machine")
            engine = answer["engines"].get(self.target.runtime, {})
            machine = f"{name}: {answer['machine']['cpu']}, {engine.get('name')} {engine.get('version')}"
        return f"{self.target.name} for {self.cpu}, {self.threads} thread(s), {machine}"

    def price(self, graphs: Mapping[str, Graph]) -> dict[str, float]:
        """In microseconds."""
        found = dict[str, float]()
        ready = _lowered(graphs, self.target, self.cpu)
        names = list(ready)
        for at in range(0, len(names), AT_ONCE):
            chunk = {name: ready[name] for name in names[at : at + AT_ONCE]}
            if self.device is None:
                found |= self._timed(chunk, None)
            else:
                with Remote(*self.device) as remote:
                    found |= self._timed(chunk, remote)
        return found

    def _timed(self, chunk: Mapping[str, Graph], remote: Remote | None) -> dict[str, float]:
        options = EmitOptions(cpu=self.cpu)
        return latencies_us(self.target, chunk, options=options, rounds=ROUNDS, threads=self.threads, device=remote)

    def compare(self, whole: Graph, part: Graph, *, min_seconds: float) -> Timing:
        """By `bench`: interleaved, in fresh processes."""
        with tempfile.TemporaryDirectory(prefix="edgecnn-draft-") as folder:
            paths = write_drafts({"unpruned": whole, "pruned": part}, self.target, self.cpu, Path(folder))
            if self.device is None:
                report = bench(paths, threads=self.threads, min_seconds=min_seconds, extras=False)
            else:
                with Remote(*self.device) as remote:
                    report = bench(paths, threads=self.threads, min_seconds=min_seconds, device=remote, extras=False)
        a, b = report.runs
        return Timing(
            (a.median_ms * 1e3, b.median_ms * 1e3),
            (a.min_ms * 1e3, b.min_ms * 1e3),
            (b.ratio_ci95.low, b.ratio_ci95.high),
            tuple(dict.fromkeys((*a.unstable, *b.unstable))),
        )


@dataclass(frozen=True)
class Counter:
    """Executed instructions under emulation: the same graphs give the same counts.

    Args:
        target: whose emitter and runtime.
        core: of `bench.instructions.CORES`.
    """

    target: Target
    core: str

    @property
    def unit(self) -> Unit:
        """Instructions."""
        return "instructions"

    @property
    def cpu(self) -> Cpu:
        """What fits the core."""
        return CORES[self.core].cpu

    def where(self) -> str:
        """With the versions of the packages in the emulator."""
        packages = Emulator().sysroot(self.core) / "opt/py/edgecnn"
        engines = sorted(path.stem for name in ("ai_edge_litert", "onnxruntime") for path in packages.glob(f"{name}-*"))
        return f"{self.target.name} for {self.core} ({LABEL}), {', '.join(engines)}"

    def price(self, graphs: Mapping[str, Graph]) -> dict[str, float]:
        """In instructions."""
        ready = _lowered(graphs, self.target, self.cpu)
        return prices(self.target, ready, options=EmitOptions(cpu=self.cpu), price=self._counts)

    def _counts(self, paths: Sequence[Path]) -> list[float]:
        return [float(found.total) for found in count(paths, cores=[self.core])]

    def compare(self, whole: Graph, part: Graph, *, min_seconds: float) -> Timing:
        """One count of each; `min_seconds` does not matter."""
        with tempfile.TemporaryDirectory(prefix="edgecnn-draft-") as folder:
            a, b = self._counts(write_drafts({"unpruned": whole, "pruned": part}, self.target, self.cpu, Path(folder)))
        return Timing((a, b), (a, b), (b / a, b / a), unit="instructions")


def meter_for(target: Target, *, cpu: str | None, threads: int = 1, device: str | None = None) -> Meter | None:
    """What measures for a core or a device; None for a core that is not this machine's, without a device.

    Raises:
        UsageError: an unknown device or core.
        DeviceFailed: its core was asked for, and it cannot be reached.
    """
    if device is None:
        core = core_named(cpu)
        return Clock(target, core, threads) if core == local_cpu() else None
    name, profile = load_device(device)
    if profile.emulated:
        if cpu not in CORES:
            raise unknown("core", cpu or "none given", CORES, where="--cpu, with an emulated device")
        return Counter(target, cpu)
    return Clock(target, device_cpu(name, profile) if cpu is None else core_named(cpu), threads, (name, profile))


def table_of(meter: Meter, *, folder: Path | None = None) -> LatencyTable:
    """The table of what a meter measures, as far as it has been; the rest is measured when it is needed.

    Args:
        meter: what measures.
        folder: where tables are kept; None: the user's cache.
    """
    where = meter.where()
    path = (folder or platformdirs.user_cache_path("edgecnn") / "latency") / f"{sha256_of(where.encode())[:16]}.json"
    return LatencyTable(where, meter.price, path, unit=meter.unit)


def _lowered(graphs: Mapping[str, Graph], target: Target, cpu: Cpu) -> dict[str, Graph]:
    ready = {}
    for name, graph in graphs.items():
        try:
            ready[name] = lowered(graph, target, cpu)
        except UnsupportedOp:
            continue
    return ready


def _engine(target: Target) -> str:
    for name in ENGINES[target.runtime]:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "no engine"
