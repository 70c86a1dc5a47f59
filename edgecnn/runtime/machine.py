"""The state of this machine and this process: what a measurement must be read with."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any, Dict

from .cpu import cpu_facts


def machine_facts() -> Dict[str, Any]:
    """Processor, operating system, Python and load, as plain data."""
    import numpy

    facts = cpu_facts()
    return {
        "cpu": facts.model,
        "architecture": facts.machine,
        "cores": facts.cores,
        "features": list(facts.features),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": _governor(),
    }


def _governor() -> Any:
    try:
        with open("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
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
