"""What Android's `dumpsys` tells an ordinary user: temperatures, the thermal status, and the battery.

Since Android 10 SELinux hides most of sysfs from `adb shell`; these two services answer all the same.

Source: recorded output of a Galaxy S22 (pytorch/executorch#11301) and of a Shield TV (shield_optimizer#6).
"""

from __future__ import annotations

import re
from typing import Any

from edgecnn.device.transport import Transport, run
from edgecnn.errors import DeviceFailed

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
TEMPERATURE = re.compile(
    r"Temperature\{mValue=(-?\d{1,4}(?:\.\d{1,6})?), mType=(-?\d{1,3}), mName=([^,}\n]{1,64}), mStatus=(\d)\}"
)
STATUS = re.compile(r"^Thermal Status: (\d)\s*$", re.MULTILINE)
FIELD = re.compile(r"^\s*([A-Za-z ]{1,40}): (-?\w{1,20})\s*$", re.MULTILINE)
BATTERY_STATUS = {"2": "Charging", "3": "Discharging", "4": "Not charging", "5": "Full"}
PLAUSIBLE_C = (0.5, 200.0)
"""Sensors that are not there report 0."""


def parse_thermalservice(text: str) -> dict[str, Any]:
    """`temps_c` by sensor (the HAL's own, else the cached ones), and `throttled` as words.

    What is not told is absent.
    """
    found: dict[str, Any] = {}
    cached, _, current = text.partition("Current temperatures from HAL:")
    low, high = PLAUSIBLE_C
    for part in (current, cached):
        temps = {name: float(value) for value, _, name, _ in TEMPERATURE.findall(part)}
        temps = {name: value for name, value in temps.items() if low <= value <= high}
        if temps:
            found["temps_c"] = temps
            break
    if (status := STATUS.search(text)) is not None:
        level = int(status[1])
        words = THERMAL_STATUS[level] if level < len(THERMAL_STATUS) else str(level)
        found["throttled"] = [f"thermal status {words}"] if level else []
    return found


def parse_battery(text: str) -> dict[str, Any] | None:
    """`percent` and `status` as `runtime.telemetry` gives them, and `temp_c`; None if it is no battery report."""
    fields = {name.strip().lower(): value for name, value in FIELD.findall(text)}
    if "level" not in fields:
        return None
    level, temp = (fields.get(key, "") for key in ("level", "temperature"))
    return {
        "percent": int(level) if re.fullmatch(r"\d{1,3}", level) else None,
        "status": BATTERY_STATUS.get(fields.get("status", "")),
        "temp_c": int(temp) / 10 if re.fullmatch(r"-?\d{1,4}", temp) else None,
    }


def complete(answer: dict[str, Any], transport: Transport) -> dict[str, Any]:
    """An agent's answer to `machine`, with what only `dumpsys` tells put in where it has nothing itself.

    Raises:
        DeviceFailed: the device was lost.
    """
    thermal = parse_thermalservice(_dumpsys(transport, "thermalservice"))
    battery = parse_battery(_dumpsys(transport, "battery"))
    machine, state = dict(answer["machine"]), dict(answer["state"])
    if battery is not None:
        machine["battery"] = machine.get("battery") or {key: battery[key] for key in ("percent", "status")}
        if battery["temp_c"] is not None and not thermal.get("temps_c"):
            thermal["temps_c"] = {"battery": battery["temp_c"]}
    for key, value in thermal.items():
        state.setdefault(key, value)
    if "temps_c" in state:
        missing = machine.get("unavailable", {})
        machine["unavailable"] = {key: why for key, why in missing.items() if key != "temperature"}
    return {**answer, "machine": machine, "state": state}


def _dumpsys(transport: Transport, service: str) -> str:
    """A service's report; empty where there is no `dumpsys` or it refuses."""
    try:
        done = run(transport, ["dumpsys", service], timeout_s=20)
    except DeviceFailed as failure:
        if "did not answer" in failure.what:
            return ""
        raise
    return done.out.decode(errors="replace") if done.code == 0 else ""
