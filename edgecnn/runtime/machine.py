"""The state of this machine and this process: what a measurement must be read with."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Dict, Optional

from .cpu import cpu_facts
from .errors import RuntimeProblem
from .power import power_sensors, why_no_sensor
from .session import ENGINES, import_engine
from .telemetry import Telemetry


def machine_facts() -> Dict[str, Any]:
    """Processor, operating system, Python and load, as plain data."""
    import numpy

    facts = cpu_facts()
    settings = Telemetry().settings()
    found = power_sensors()
    if not found:
        settings["unavailable"]["power"] = why_no_sensor()
    return {
        "cpu": facts.model,
        "architecture": facts.machine,
        "cores": facts.cores,
        "features": list(facts.features),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "board": _board(),
        "power_sensors": found,
        **settings,
    }


def engines_found() -> Dict[str, Any]:
    """By name, the version of each engine that can be imported here, or under `missing` why it cannot."""
    found: Dict[str, Any] = {}
    for name in sorted(set(ENGINES.values())):
        try:
            found[name] = import_engine(name)
        except RuntimeProblem as problem:
            found[name] = {"missing": problem.what, "do": problem.do}
    return found


def _board() -> Optional[str]:
    """What the maker calls the machine: the device tree's model on boards, the product's name on PCs."""
    for path in ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name"):
        try:
            with open(path, "rb") as file:
                return file.read(256).decode("utf-8", "replace").strip("\0 \n") or None
        except OSError:
            continue
    return None


def peak_rss_bytes() -> int:
    """The most memory this process has held at once, in bytes; 0 where the system does not tell.

    Linux's VmHWM counts from this program's start; `ru_maxrss` would still count the memory of the parent that
    forked it.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
