"""The state of a device while something is measured: clocks, temperatures, throttling, battery, as Linux tells them.

What a system does not tell (Android's SELinux, containers, emulators) is listed under `unavailable` with the reason;
nothing here raises. A reading costs a few dozen microseconds and is taken between timed blocks, never inside one.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Dict, List, Optional, Tuple

THROTTLED_FILES = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc/soc@107c000000/soc@107c000000:firmware/get_throttled",
)
# Source: Raspberry Pi documentation, `vcgencmd get_throttled`; bits 16 to 19 say the same "since boot".
THROTTLED_BITS = (
    (0, "under-voltage"),
    (1, "clock capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
)
PLAUSIBLE_TEMP_C = (-40.0, 200.0)


class Telemetry:
    """Finds once what can be read below `root`, then reads it quickly, again and again."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self.unavailable: Dict[str, str] = {}
        self._clocks = self._find("clocks", "sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq", 1)
        if not self._clocks:
            self._clocks = self._find("clocks", "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", 2)
        self._temps = self._zones()
        self._throttled = [path for path in (os.path.join(root, f) for f in THROTTLED_FILES) if os.path.exists(path)]
        self._thermal_caps = glob.glob(os.path.join(root, "sys/class/thermal/cooling_device*/cur_state"))

    def read(self) -> Dict[str, Any]:
        """One reading: `clocks_mhz` by policy, `temps_c` by zone, `throttled` as words; absent what is unavailable."""
        reading: Dict[str, Any] = {}
        clocks = {name: value / 1000 for name, value in self._numbers(self._clocks)}
        if clocks:
            reading["clocks_mhz"] = clocks
        low, high = PLAUSIBLE_TEMP_C
        temps = {name: value / 1000 for name, value in self._numbers(self._temps) if low <= value / 1000 <= high}
        if temps:
            reading["temps_c"] = temps
        throttled = self._bits()
        if throttled is not None:
            reading["throttled"] = throttled
        return reading

    def settings(self) -> Dict[str, Any]:
        """What does not change during a run: governors, clock limits, battery, clusters of cores, memory."""
        return {
            "governors": self._governors(),
            "max_clocks_mhz": {
                name: value / 1000
                for name, value in self._numbers(
                    [(name, os.path.join(os.path.dirname(path), "scaling_max_freq")) for name, path in self._clocks]
                )
            },
            "clusters": self._clusters(),
            "battery": self._battery(),
            "memory_bytes": self._memory(),
            "unavailable": dict(self.unavailable),
        }

    def _find(self, what: str, pattern: str, up: int) -> List[Tuple[str, str]]:
        paths = sorted(glob.glob(os.path.join(self._root, pattern)))
        found = []
        for path in paths:
            if read_number(path) is not None:
                found.append((path.split(os.sep)[-1 - up], path))
        if found:
            self.unavailable.pop(what, None)
        else:
            self.unavailable[what] = "may not be read" if paths else "the system does not tell"
        return found

    def _zones(self) -> List[Tuple[str, str]]:
        zones = []
        paths = sorted(glob.glob(os.path.join(self._root, "sys/class/thermal/thermal_zone*/temp")))
        for path in paths:
            if read_number(path) is not None:
                folder = os.path.dirname(path)
                kind = read_text(os.path.join(folder, "type")) or "zone"
                zones.append((kind + "@" + os.path.basename(folder)[len("thermal_zone") :], path))
        if not zones:
            self.unavailable["temperature"] = "may not be read" if paths else "the system does not tell"
        return zones

    def _numbers(self, files: List[Tuple[str, str]]) -> List[Tuple[str, int]]:
        readings = [(name, read_number(path)) for name, path in files]
        return [(name, value) for name, value in readings if value is not None]

    def _bits(self) -> Optional[List[str]]:
        for path in self._throttled:
            text = read_text(path)
            if text and re.match(r"^(0x)?[0-9a-fA-F]{1,8}$", text):
                bits = int(text, 16)
                return [word for bit, word in THROTTLED_BITS if bits >> bit & 1]
        return None

    def _governors(self) -> List[str]:
        found = [read_text(os.path.join(os.path.dirname(path), "scaling_governor")) for _, path in self._clocks]
        return sorted({word for word in found if word})

    def _clusters(self) -> List[List[int]]:
        """Cores of one kind together, the fastest first: by the scheduler's capacity, else by the highest clock."""
        cores: Dict[int, List[int]] = {}
        for folder in glob.glob(os.path.join(self._root, "sys/devices/system/cpu/cpu[0-9]*")):
            number = os.path.basename(folder)[3:]
            if not number.isdigit():
                continue
            speed = read_number(os.path.join(folder, "cpu_capacity"))
            if speed is None:
                speed = read_number(os.path.join(folder, "cpufreq", "cpuinfo_max_freq"))
            cores.setdefault(speed or 0, []).append(int(number))
        return [sorted(cores[speed]) for speed in sorted(cores, reverse=True)]

    def _battery(self) -> Optional[Dict[str, Any]]:
        for folder in sorted(glob.glob(os.path.join(self._root, "sys/class/power_supply/*"))):
            if read_text(os.path.join(folder, "type")) == "Battery":
                return {
                    "percent": read_number(os.path.join(folder, "capacity")),
                    "status": read_text(os.path.join(folder, "status")),
                }
        return None

    def _memory(self) -> Optional[int]:
        found = re.search(
            r"^MemTotal:\s+(\d{1,15}) kB", read_text(os.path.join(self._root, "proc/meminfo")) or "", re.M
        )
        return int(found.group(1)) * 1024 if found else None


def read_text(path: str) -> Optional[str]:
    """The first 4 KiB of a file without blanks around it; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except OSError:
        return None


def read_number(path: str) -> Optional[int]:
    """The whole number that a file holds; None if it cannot be read or holds something else."""
    text = read_text(path)
    return int(text) if text is not None and re.match(r"^-?[0-9]{1,15}$", text) else None
