"""What this machine has, what decides the speed of int8 on it, and what to do about each finding.

Whether a runtime has fast int8 kernels is not read off its version: a small net is emitted, the runtime is asked what
it made of it (`coverage`), and its int8 and float32 forms are timed against each other.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import platformdirs

from edgecnn import __version__
from edgecnn.coverage import coverage_of
from edgecnn.errors import EdgecnnError
from edgecnn.runtime.cpu import CpuFacts, cpu_facts, kind_of
from edgecnn.runtime.errors import BadRequest
from edgecnn.runtime.tensor import random_arrays
from edgecnn.targets import all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import Cpu, EmitOptions, IoType

Status = Literal["ok", "warn", "fail"]

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "safetensors", "scikit-learn", "pillow")
PYTHONS = ((3, 10), (3, 13))
LEAST_FREE_BYTES = 1_000_000_000

PROBE = """
graph probe(x: [N,32,28,28]) {
  expand = conv(x, w1[128,32,1,1], b1[128])
  act = hard_swish(expand)
  depthwise = conv(act, w2[128,1,3,3], b2[128]) pad=(1,1,1,1) groups=128 clip=(0.0,None)
  project = conv(depthwise, w3[64,128,1,1], b3[64])
  dense = conv(project, w4[64,64,3,3], b4[64]) pad=(1,1,1,1)
  return dense
}
"""
"""A block of a mobile net and a dense convolution: what they need to be fast, most nets need."""

TIMED_RUNS = 60


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: the thing.
        status: `warn` costs speed or comfort, `fail` keeps something from working.
        found: how it is.
        do: what to do about it, if anything.
    """

    what: str
    status: Status
    found: str
    do: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        return asdict(self)


def examine() -> list[Finding]:
    """All findings on this machine; takes a few seconds, most of them to load torch."""
    facts = cpu_facts()
    return [
        python_finding(sys.version_info[:2]),
        *(package_finding(name) for name in PACKAGES),
        cpu_finding(facts),
        *tflite_runtime_findings(_version("tflite-runtime"), _version("ai-edge-litert"), np.__version__),
        runtime_finding("LiteRT", "tflite", facts),
        runtime_finding("ONNX Runtime", "onnx", facts),
        load_finding(facts.cores),
        folder_finding("cache", platformdirs.user_cache_path("edgecnn")),
        folder_finding("current folder", Path.cwd()),
    ]


def python_finding(running: tuple[int, int]) -> Finding:
    """Whether the running Python is one this release is tested with."""
    text = f"{platform.python_version()}, edgecnn {__version__}"
    if PYTHONS[0] <= running <= PYTHONS[1]:
        return Finding("Python", "ok", text)
    known = " to ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    return Finding("Python", "warn", text, f"use Python {known}; others are not tested")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_finding(distribution: str) -> Finding:
    """Whether a package edgecnn needs is installed, and which version."""
    found = _version(distribution)
    if found is None:
        return Finding(distribution, "fail", "not installed", f"pip install {distribution}")
    return Finding(distribution, "ok", found)


def cpu_finding(facts: CpuFacts) -> Finding:
    """Which features the processor has that int8 kernels use."""
    features = ", ".join(facts.features) or "none of the features that speed up int8"
    try:
        kind = kind_of(facts)
    except BadRequest as problem:
        return Finding("processor", "warn", f"{facts.model}, {facts.machine}", problem.do)
    text = f"{facts.model}, {facts.cores} cores, --cpu {kind}: {features}"
    if kind.startswith("x86") and not {"avx512_vnni", "avx_vnni"} & set(facts.features):
        return Finding("processor", "warn", text, "int8 gains less without VNNI; compare with a float target by bench")
    if kind in ("armv8", "armv8-a53"):
        return Finding(
            "processor",
            "warn",
            text,
            "without the dot product int8 gains 7 to 28 % in LiteRT; compare with tflite-fp32 by bench",
        )
    return Finding("processor", "ok", text)


def tflite_runtime_findings(old: str | None, new: str | None, numpy: str) -> list[Finding]:
    """What the retired package `tflite-runtime` means beside, or instead of, `ai-edge-litert` (versions, or None)."""
    if old is None:
        return []
    if new is not None:
        return [Finding("tflite-runtime", "ok", f"{old}, not used: ai-edge-litert {new} comes first")]
    if int(numpy.split(".")[0]) >= 2:
        text = f"{old} does not load with NumPy {numpy}"
        return [Finding("tflite-runtime", "fail", text, "pip install ai-edge-litert")]
    text = f"{old}, retired; its wheels have no int8 kernels of XNNPACK"
    return [Finding("tflite-runtime", "warn", text, "pip install ai-edge-litert")]


def runtime_finding(title: str, family: str, facts: CpuFacts) -> Finding:
    """Whether the runtime of the targets `family`-int8 and `family`-fp32 is here and has fast int8 kernels."""
    what = f"int8 in {title}"
    try:
        cpu = cast(Cpu, kind_of(facts))
        with tempfile.TemporaryDirectory(prefix="edgecnn-doctor-") as folder:
            int8, fp32 = (emit_probe(f"{family}-{kind}", cpu, Path(folder)) for kind in ("int8", "fp32"))
            coverage = coverage_of(int8)
            gain = speed_ratio(int8, fp32)
    except (EdgecnnError, BadRequest) as problem:
        return Finding(what, "fail", problem.what, problem.do or "export a net to see where it fails")
    except ImportError as problem:
        return Finding(what, "fail", f"the probe needs a package: {problem}", "pip install edgecnn")
    return judge_runtime(what, coverage.execution.engine, coverage.macs_share, gain, [o.kind for o in coverage.outside])


def judge_runtime(what: str, engine: str, share: float, gain: float, outside: list[str]) -> Finding:
    """The finding for a runtime that takes `share` of the probe in int8 and runs it `gain` times as fast as float."""
    text = f"{engine} runs {share:.0%} of the probe's multiply-adds in int8, {gain:.1f} times as fast as float32"
    if share < 1 or outside:
        advice = "use ai-edge-litert; this build lacks the int8 kernels" if "tflite" in engine else "update the runtime"
        return Finding(what, "warn", f"{text}; outside: {', '.join(outside)}", advice)
    if gain < 1:
        return Finding(what, "warn", text, "int8 is no gain here; prefer a float target, or measure your net by bench")
    return Finding(what, "ok", text)


def emit_probe(target_name: str, cpu: Cpu, folder: Path) -> Path:
    """Emits the probe for a target as a file in `folder` and returns its path."""
    from edgecnn.ir.text import parse
    from edgecnn.passes.standard import run_passes
    from edgecnn.quant.assign import assign
    from edgecnn.quant.measure import measure

    target = all_targets()[target_name]
    graph, _ = run_passes(parse(PROBE), target.passes(cpu, {}))
    if target.scheme is not None:
        images = np.random.default_rng(0).standard_normal((2, 32, 28, 28)).astype(np.float32)
        graph, _ = assign(graph, measure(graph, [images]), target.scheme(cpu))
    path = folder / f"{target_name}{target.suffix}"
    # Codes in, codes out: a conversion of the input would weigh more in this small block than in a whole net.
    input_type = "float32" if target.scheme is None else target.scheme(cpu).act_dtype
    path.write_bytes(target.emit(graph, EmitOptions(cpu=cpu, input_type=cast(IoType, input_type))).data)
    return path


def speed_ratio(path: Path, reference: Path) -> float:
    """How many times as fast as `reference` the artifact at `path` is: a rough figure, from the best of a few runs."""
    with closing(open_session(path)) as one, closing(open_session(reference)) as other:
        sessions = (one, other)
        for session in sessions:
            session.run(random_arrays(session.inputs, seed=0))
        best = [float("inf")] * len(sessions)
        for _ in range(TIMED_RUNS):
            for i, session in enumerate(sessions):
                best[i] = min(best[i], _seconds(session.invoke))
        return best[1] / best[0]


def _seconds(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def load_finding(cores: int) -> Finding:
    """Whether other programs keep the cores busy, which makes timings worth little."""
    if not hasattr(os, "getloadavg"):
        return Finding("load", "ok", "not known on this system")
    load = os.getloadavg()[0]
    text = f"{load:.1f} busy programs on {cores} cores"
    if load > cores / 2:
        return Finding("load", "warn", text, "let other programs end before you trust a bench")
    return Finding("load", "ok", text)


def folder_finding(what: str, folder: Path) -> Finding:
    """Whether a folder can be written to and has room; one that is not there yet is judged by its parent."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(what, "fail", f"cannot write to {folder}", f"make {existing} a folder you may write to")
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 1e9:.1f} GB free"
    if free < LEAST_FREE_BYTES:
        return Finding(what, "warn", text, "free some space; weights and artifacts take up to 1 GB")
    return Finding(what, "ok", text)
