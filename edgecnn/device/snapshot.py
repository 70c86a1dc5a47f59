"""The state of a device without Python: a few files of /proc and /sys, read by its shell and looked at here.

The files are laid out below a temporary folder on this machine in the same places, and `runtime.telemetry` reads them
there as it would on the device. A path counts only if it is one that was asked for.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from edgecnn.device.printable import printable
from edgecnn.device.transport import Transport, run
from edgecnn.runtime.cpu import ARM_FEATURES, ARM_MACHINES, X86_FEATURES, parse_cpuinfo
from edgecnn.runtime.telemetry import Telemetry

CPUFREQ = ("scaling_cur_freq", "scaling_max_freq", "scaling_governor")
GLOBS = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/device-tree/model",
    *(f"/sys/devices/system/cpu/cpufreq/policy*/{name}" for name in CPUFREQ),
    *(f"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}" for name in (*CPUFREQ, "cpuinfo_max_freq")),
    "/sys/devices/system/cpu/cpu[0-9]*/cpu_capacity",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    *(f"/sys/class/power_supply/*/{name}" for name in ("type", "capacity", "status")),
    "/sys/devices/platform/soc/soc:firmware/get_throttled",
)
ALLOWED = re.compile(r"/(?:proc|sys)(?:/[A-Za-z0-9_:@+-][A-Za-z0-9_.:@+-]*)+")
MOST_FILES, MOST_BYTES = 2000, 64 * 1024
MARK = "edgecnn-file "
SCRIPT = (
    'for f in {globs}; do if [ -r "$f" ]; then echo "{mark}$f"; head -c 65536 "$f" 2>/dev/null; echo; fi; done; '
    'echo "{mark}/proc/uname"; uname -mrs'
)


def snapshot(transport: Transport) -> dict[str, Any]:
    """The answer an agent would give to `machine`, as far as files tell; no engines.

    Raises:
        DeviceFailed: the device was lost.
    """
    script = SCRIPT.format(globs=" ".join(GLOBS), mark=MARK)
    done = run(transport, ["sh", "-c", script])
    files = split_files(done.out.decode(errors="replace"))
    with tempfile.TemporaryDirectory(prefix="edgecnn-snapshot-") as name:
        root = Path(name)
        for path, content in files.items():
            place = root / path.lstrip("/")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(content)
            except OSError:  # a file where another's folder should be: nothing a kernel has
                continue
        telemetry = Telemetry(str(root))
        answer = {"machine": {**_machine(files), **telemetry.settings()}, "state": telemetry.read(), "engines": {}}
    checked: dict[str, Any] = printable(answer)
    return checked


def split_files(text: str) -> dict[str, str]:
    """The files in the output of `SCRIPT`, by path; anything with another path is left out."""
    files: dict[str, str] = {}
    path: str | None = None
    for line in text.splitlines(keepends=True):
        if line.startswith(MARK):
            named = line[len(MARK) :].rstrip("\n")
            path = named if ALLOWED.fullmatch(named) and len(files) < MOST_FILES else None
            if path is not None:
                files[path] = ""
        elif path is not None and len(files[path]) < MOST_BYTES:
            files[path] += line[:MOST_BYTES]
    return files


def _machine(files: dict[str, str]) -> dict[str, Any]:
    """What `runtime.machine.machine_facts` would say."""
    cpuinfo = files.get("/proc/cpuinfo", "")
    words = files.get("/proc/uname", "").split()
    architecture = words[-1].lower() if words else ""
    try:
        model, flags = parse_cpuinfo(cpuinfo)
    except ValueError:
        model, flags = "", frozenset()
    known = ARM_FEATURES if architecture in ARM_MACHINES else X86_FEATURES
    load = re.match(r"\s*(\d{1,5}\.\d{1,3})\b", files.get("/proc/loadavg", ""))
    return {
        "cpu": model or architecture or "unknown",
        "architecture": architecture,
        "cores": max(1, len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))),
        "features": [flag for flag in known if flag in flags],
        "system": " ".join(words[:2]),
        "python": "none",
        "numpy": "none",
        "load": float(load[1]) if load else None,
        "board": files.get("/proc/device-tree/model", "").strip("\0 \n") or None,
    }
