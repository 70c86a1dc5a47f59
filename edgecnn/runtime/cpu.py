"""What this machine's processor is, and the features of it that decide the speed of int8."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterable, List, Tuple

from .errors import BadRequest

X86_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
ARM_FEATURES = ("asimdhp", "asimddp", "i8mm", "sve", "sme")
"""As Linux names them: half precision, dot product, int8 matrix multiplication, scalable vectors and matrices."""

X86_MACHINES = frozenset({"x86_64", "amd64", "i686", "i386"})
ARM_MACHINES = frozenset({"aarch64", "arm64", "armv8l", "armv8b"})

# Source: Arm's "Main ID Register" part numbers, implementer 0x41.
ARM_CORES = {
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD40: "Neoverse-V1",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
}


@dataclass(frozen=True)
class CpuFacts:
    """The processor: its name, how many cores this process may use, and which features all of its cores have."""

    machine: str
    model: str
    cores: int
    features: Tuple[str, ...]


def cpu_facts() -> CpuFacts:
    """The facts of this machine's processor; a feature counts only if every core has it."""
    machine = platform.machine().lower()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if platform.system() == "Darwin":
        model, flags = _darwin()
    else:
        model, flags = parse_cpuinfo(_read("/proc/cpuinfo"))
    known = X86_FEATURES if machine in X86_MACHINES else ARM_FEATURES
    return CpuFacts(machine, model or platform.processor() or machine, cores, tuple(f for f in known if f in flags))


def parse_cpuinfo(text: str) -> Tuple[str, FrozenSet[str]]:
    """Model name and common features out of the text of Linux's /proc/cpuinfo.

    On ARM the cores of one chip may differ (big.LITTLE): all kinds are named, and only what all of them have counts.
    """
    records = [_record(block) for block in text.strip().split("\n\n")]
    names: List[str] = []
    flags: List[FrozenSet[str]] = []
    for record in records:
        if "flags" in record or "Features" in record:
            flags.append(frozenset((record.get("flags") or record.get("Features", "")).split()))
        if "model name" in record:
            names.append(record["model name"])
        elif "CPU part" in record:
            try:
                part = int(record["CPU part"], 16)
            except ValueError:
                continue
            arm = record.get("CPU implementer", "0x41") == "0x41"
            names.append(ARM_CORES.get(part, f"ARM part {part:#05x}") if arm else f"part {part:#05x}")
    common = frozenset.intersection(*flags) if flags else frozenset()
    return " + ".join(_distinct(names)), common


def _record(block: str) -> Dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _distinct(names: Iterable[str]) -> List[str]:
    return list(dict.fromkeys(names))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _darwin() -> Tuple[str, FrozenSet[str]]:
    model = _sysctl("machdep.cpu.brand_string")
    flags = {flag.lower() for flag in _sysctl("machdep.cpu.leaf7_features").split()}
    for key, feature in (("DotProd", "asimddp"), ("I8MM", "i8mm"), ("FP16", "asimdhp"), ("SME", "sme")):
        if _sysctl("hw.optional.arm.FEAT_" + key) == "1":
            flags.add(feature)
    return model, frozenset(flags)


def _sysctl(name: str) -> str:
    done = subprocess.run(["sysctl", "-n", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.decode(errors="replace").strip()


def local_cpu() -> str:
    """The kind of core a lowering is chosen by: `x86`, `x86-amx`, `armv8-a53`, `armv8`, `armv8-dot` or `armv8-i8mm`.

    Raises:
        BadRequest: the processor is neither x86 nor 64-bit ARM.
    """
    return kind_of(cpu_facts())


def kind_of(facts: CpuFacts) -> str:
    """The kind of core `facts` describe; see `local_cpu`."""
    if facts.machine in X86_MACHINES:
        return "x86-amx" if "amx_int8" in facts.features else "x86"
    if facts.machine in ARM_MACHINES:
        if "i8mm" in facts.features:
            return "armv8-i8mm"
        if "asimddp" in facts.features:
            return "armv8-dot"
        # Beside faster cores it is not the one that a net runs on.
        return "armv8-a53" if facts.model == "Cortex-A53" else "armv8"
    raise BadRequest(
        f"no lowering is known for a processor of kind `{facts.machine}`",
        do="name the kind of the device's core with --cpu x86, x86-amx, armv8-a53, armv8, armv8-dot or armv8-i8mm",
    )
