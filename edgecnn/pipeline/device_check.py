"""`edgecnn devices check`: what a device is, what it lacks, and whether int8 is fast there, measured with a probe."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from edgecnn.bench.preflight import hottest, look_at, remarks
from edgecnn.bench.vendor import install
from edgecnn.bench.worker import Agent, Worker
from edgecnn.device.place import Remote
from edgecnn.device.printable import printable
from edgecnn.device.profile import DeviceProfile
from edgecnn.device.transport import run
from edgecnn.doctor import Finding, cpu_finding, emit_probe
from edgecnn.errors import EdgecnnError
from edgecnn.runtime.cpu import CpuFacts, kind_of
from edgecnn.runtime.errors import BadRequest
from edgecnn.targets.engine import explained
from edgecnn.targets.target import Cpu

PACKAGES = {"litert": ("LiteRT", "ai-edge-litert", "tflite"), "ort": ("ONNX Runtime", "onnxruntime", "onnx")}
"""By engine: its title, what pip calls it, the family of its targets."""

PROBE_S = 0.5
GAIN = 1.1
"""Below this, int8 is taken for no gain: a rough probe is off by several percent."""


def check_device(
    name: str, profile: DeviceProfile, *, probe: bool = True, progress: Callable[[str], None] | None = None
) -> list[Finding]:
    """What there is to say about a device; nothing is installed or changed there.

    Args:
        name: of the device.
        profile: how to reach it.
        probe: also time a small net in int8 and float32 with each engine found.
        progress: called with a line now and then.

    Raises:
        DeviceFailed: it cannot be reached, or its Python does not start the agent.
        EnvironmentFailure: ssh or adb is not installed here.
    """
    report = progress or (lambda line: None)
    report(f"{name}: connecting by {profile.transport}")
    with Remote(name, profile) as device:
        answer = look_at(device)
        facts = facts_of(answer["machine"])
        findings = [*state_findings(answer, profile), cpu_finding(facts)]
        if profile.benchmark_model is not None:
            return [*findings, vendor_finding(profile.benchmark_model, device)]
        findings += engine_findings(answer["engines"], profile)
        if probe:
            cpu = profile.cpu or _kind(facts)
            for engine, found in answer["engines"].items():
                if "missing" not in found and engine in PACKAGES and cpu is not None:
                    report(f"{name}: timing a probe with {found['name']} {found['version']}")
                    findings.append(probe_finding(engine, cpu, device))
    return findings


def facts_of(machine: Mapping[str, Any]) -> CpuFacts:
    """The processor in an answer of the agent."""
    return CpuFacts(machine["architecture"], machine["cpu"], machine["cores"], tuple(machine["features"]))


def device_cpu(name: str, profile: DeviceProfile) -> Cpu:
    """The kind of core lowerings are chosen for: as the device's file says, else as the device says.

    Raises:
        DeviceFailed: it cannot be reached.
        UsageError: no lowering is known for its processor.
    """
    if profile.cpu is not None:
        return profile.cpu
    with Remote(name, profile) as device, Agent(device, subject=name) as agent, explained():
        return cast(Cpu, kind_of(facts_of(agent.ask("machine")["machine"])))


def _kind(facts: CpuFacts) -> Cpu | None:
    try:
        return cast(Cpu, kind_of(facts))
    except BadRequest:
        return None


def state_findings(answer: Mapping[str, Any], profile: DeviceProfile) -> list[Finding]:
    """The machine itself: model, memory, clusters, clocks, temperature, and what would spoil a measurement now."""
    machine, state = answer["machine"], answer["state"]
    missing = machine["unavailable"]
    found = [
        Finding("device", "ok", f"{machine['board'] or 'no model told'}, {machine['system']}"),
        Finding("Python", "ok", f"{machine['python']}, NumPy {machine['numpy']}"),
    ]
    if machine["memory_bytes"] is not None:
        found.append(Finding("memory", "ok", f"{machine['memory_bytes'] / 1e9:.1f} GB"))
    if machine["clusters"]:
        found.append(Finding("cores", "ok", "fastest first: " + "; ".join(map(_cores, machine["clusters"]))))
    if clocks := state.get("clocks_mhz"):
        text = ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in sorted(clocks.items()))
        governors = ", ".join(machine["governors"]) or "no governor told"
        found.append(Finding("clocks", "ok", f"{text}; {governors}"))
    else:
        found.append(
            Finding("clocks", "warn", f"unavailable: {missing.get('clocks', 'nothing came')}", _blind("clocks"))
        )
    if hot := hottest(state):
        above = profile.max_temp_c is not None and hot[1] > profile.max_temp_c
        do = f"let it cool below {profile.max_temp_c:.0f}, or cool it better" if above else None
        found.append(Finding("temperature", "warn" if above else "ok", f"{hot[1]:.0f} degrees C ({hot[0]})", do))
    else:
        reason = missing.get("temperature", "nothing came")
        found.append(Finding("temperature", "warn", f"unavailable: {reason}", _blind("temperature")))
    if sensors := machine.get("power_sensors"):
        found.append(Finding("power", "ok", f"sensors: {', '.join(sensors)}"))
    else:
        found.append(Finding("power", "ok", f"no energy figures: {missing.get('power', 'nothing tells')}"))
    return found + [
        Finding("state", "warn", text, "mend it before you measure") for text in remarks(dict(answer), profile)
    ]


def _cores(cores: list[int]) -> str:
    return ",".join(map(str, cores)) if len(cores) <= 8 else f"{cores[0]}-{cores[-1]} ({len(cores)})"


def _blind(what: str) -> str:
    return f"runs will be kept without {what}; look for drift in the samples instead"


def engine_findings(engines: Mapping[str, Mapping[str, Any]], profile: DeviceProfile) -> list[Finding]:
    """Each engine the device's file asks for: its version, or how to install it."""
    found = []
    for engine in profile.engines:
        title, package, _ = PACKAGES[engine]
        known = engines.get(engine, {"missing": "the agent does not know it"})
        if "missing" not in known:
            found.append(Finding(title, "ok", f"{known.get('name')} {known.get('version')}"))
            continue
        where = {"ssh": f"ssh {profile.host} ", "adb": "adb shell ", "local": ""}[profile.transport]
        do = f"{where}{profile.python} -m pip install --user {package}"
        found.append(Finding(title, "fail", str(known["missing"]), do))
    return found


def vendor_finding(binary: str, device: Remote) -> Finding:
    """Whether LiteRT's `benchmark_model` starts there."""
    what = "benchmark_model"
    try:
        done = run(device.transport, [install(device), "--help"])
    except EdgecnnError as problem:
        return Finding(what, "fail", problem.what, problem.do)
    said = done.out.decode(errors="replace") + done.said
    if "--graph" in said:
        return Finding(what, "ok", f"{Path(binary).name} starts there; no Python is needed")
    do = "give the binary for the device's processor and system (`uname -m` there) as `benchmark_model` in its file"
    return Finding(what, "fail", f"it ended with {done.code}: {printable(said)[-200:].strip() or 'no word'}", do)


def probe_finding(engine: str, cpu: Cpu, device: Remote) -> Finding:
    """Whether int8 takes the engine's fast kernels there: a small net in int8 against float32."""
    title, _, family = PACKAGES[engine]
    what = f"int8 in {title}"
    try:
        with tempfile.TemporaryDirectory(prefix="edgecnn-probe-") as folder:
            paths = [emit_probe(f"{family}-{kind}", cpu, Path(folder)) for kind in ("int8", "fp32")]
            facts, times = _race(paths, device)
    except EdgecnnError as problem:
        return Finding(what, "fail", f"{problem.what}: {problem.got or ''}".rstrip(": "), problem.do)
    gain = times[1] / times[0]
    operators, delegated = facts.get("operators"), facts.get("delegated")
    text = f"a probe runs {gain:.1f} times as fast as float32 (--cpu {cpu})"
    if delegated is not None:
        text += f"; XNNPACK took {delegated} of {operators} operators"
    if device.profile.emulated:
        return Finding(what, "ok", f"EMULATED, its speed says nothing about hardware: {text}")
    if operators != delegated:
        return Finding(what, "warn", text, "use a runtime with XNNPACK's int8 kernels: ai-edge-litert has them")
    if gain < GAIN:
        return Finding(what, "warn", text, "int8 is no gain with this runtime there; compare with a float target")
    return Finding(what, "ok", text)


def _race(paths: list[Path], device: Remote) -> tuple[dict[str, Any], list[float]]:
    """What the engine made of the first, and the median of each one's samples, alternating."""
    samples: list[list[int]] = [[] for _ in paths]
    with Worker(str(paths[0]), threads=1, place=device) as a, Worker(str(paths[1]), threads=1, place=device) as b:
        for worker in (a, b):
            worker.ask("feed", seed=0)
            worker.ask("warm", runs=3)
        for turn in range(4):
            for i, worker in [(0, a), (1, b)] if turn % 2 == 0 else [(1, b), (0, a)]:
                samples[i] += worker.ask("block", seconds=PROBE_S / 4)["samples_ns"]
        return a.about["facts"], [statistics.median(s) for s in samples]
