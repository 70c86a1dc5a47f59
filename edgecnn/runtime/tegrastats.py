"""NVIDIA's `tegrastats` on Jetson boards: one line of text per tick, in a form that changes with every release.

Source: the lines of Nano, Xavier, Orin and Thor boards collected in jetson_stats' tests, and JetPack 4 to 7.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from typing import Any, Dict, List, Optional

# "VDD_IN 4123mW/4000mW", "POM_5V_IN 933/933", "VDD_GPU_SOC 5139mW/5139mW/5139mW": now, mean, since JetPack 7 a peak.
RAIL = re.compile(r"(?<![\w@/])([A-Za-z]\w{0,31}) (\d{1,7})(?:mW)?/\d{1,7}(?:mW)?(?:/\d{1,7}(?:mW)?)?(?![\w/%])")
# "CPU@41.437C", "cpu@52.968C/52.968C", "CV0@-256C" where a sensor is switched off.
TEMP = re.compile(r"(?<![\w@])([A-Za-z]\w{0,31})@(-?\d{1,4}(?:\.\d{1,6})?)C(?![A-Za-z0-9])")
# "RAM 331/3964MB (lfb 758x4MB)"
RAM = re.compile(r"(?<!\w)RAM (\d{1,7})/(\d{1,7})MB")
# "GR3D_FREQ 12%@1377", "12%@[1300,1300]", "@[1000,1000,1000]", and without root "12%"
GPU = re.compile(r"(?<!\w)GR3D_FREQ (?:(\d{1,3})%)?(?:@\[?(\d{1,5}))?")
# "CPU [3%@102,off,0%@102]"
CPU = re.compile(r"(?<!\w)CPU \[([^\]]{0,400})\]")
ABSENT_C = -256.0
FIRST_LINE_S = 2.0


def parse_tegrastats(line: str) -> Dict[str, Any]:
    """What one line tells; what it lacks is absent, and a line of anything else gives nothing.

    Returns:
        any of `power_mw` by rail, `temps_c` by sensor (those switched off left out), `ram_mb` [used, total],
        `gpu_percent`, `gpu_mhz`, `cpu_mhz` (a list, None for a core that is off).
    """
    found: Dict[str, Any] = {}
    words = {"RAM", "SWAP", "IRAM"}
    power = {name: int(now) for name, now in RAIL.findall(line) if name not in words}
    if power:
        found["power_mw"] = power
    temps = {name: float(value) for name, value in TEMP.findall(line) if float(value) > ABSENT_C}
    if temps:
        found["temps_c"] = temps
    ram = RAM.search(line)
    if ram:
        found["ram_mb"] = [int(ram.group(1)), int(ram.group(2))]
    gpu = GPU.search(line)
    if gpu:
        for number, key in enumerate(("gpu_percent", "gpu_mhz"), 1):
            if gpu.group(number) is not None:
                found[key] = int(gpu.group(number))
    cores = CPU.search(line)
    if cores:
        found["cpu_mhz"] = [_core_mhz(core) for core in cores.group(1).split(",")]
    return found


def _core_mhz(text: str) -> Optional[int]:
    match = re.match(r"^\s*\d{1,3}%@(\d{1,5})\s*$", text)
    return int(match.group(1)) if match else None


class Tegrastats:
    """A running `tegrastats`, whose newest line can be asked for."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process, self._newest = process, ""  # type: subprocess.Popen[str], str
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, command: Optional[List[str]] = None) -> "Optional[Tegrastats]":
        """Starts it, if there is one; None if not, or if it says nothing."""
        command = command or ["tegrastats", "--interval", "100"]
        if shutil.which(command[0]) is None:
            return None
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return None
        reader = cls(process)
        until = time.monotonic() + FIRST_LINE_S
        while not reader._newest and time.monotonic() < until:
            time.sleep(0.02)
        if reader._newest:
            return reader
        reader.close()
        return None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._newest = line

    def rails(self) -> Dict[str, int]:
        """The power of each rail in mW, as the newest line has it."""
        return dict(parse_tegrastats(self._newest).get("power_mw", {}))

    def watts(self, rail: str) -> Optional[float]:
        """The power of a rail now."""
        value = self.rails().get(rail)
        return None if value is None else value / 1000

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=1)
        if self._process.stdout is not None:
            self._process.stdout.close()
