"""Sensors of power and energy, as Linux shows them, and the energy of inferences above that of an idle machine.

Three kinds: Intel's and AMD's RAPL counts the processor's energy; the INA3221 of a Jetson board measures the power of
its rails (sysfs, or `tegrastats` where that may not be read); a phone's battery tells its current and voltage. What
each covers differs (a processor, a module, a whole phone), so figures of different sensors are not comparable.
"""

from __future__ import annotations

import glob
import os
import time
from typing import Any, Callable, Dict, List, Optional

from .errors import BadRequest
from .tegrastats import Tegrastats
from .telemetry import read_number, read_text

READ_EVERY_S = 0.1
# The rail of a whole module first: TX2, Orin NX and Nano; AGX; Nano (2019).
WHOLE_MODULE = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN")


class Sensor:
    """A sensor by its name.

    Args:
        name: such as `package-0`, `VDD_IN` or `battery`.
        covers: what it measures, in words.
        watts: its power now; None where it may not be read just now.
        joules: for a counter, the energy it has counted; then `watts` is not used.
        wraps: the counter's range in joules.
    """

    def __init__(
        self,
        name: str,
        covers: str,
        *,
        watts: Optional[Callable[[], Optional[float]]] = None,
        joules: Optional[Callable[[], Optional[float]]] = None,
        wraps: float = 0.0,
        close: Optional[Callable[[], None]] = None,
    ) -> None:
        self.name, self.covers = name, covers
        self._watts, self._joules, self._wraps = watts, joules, wraps
        self.close = close or (lambda: None)

    def spent(self, step: Callable[[], Any], seconds: float) -> Dict[str, Any]:
        """Repeats `step` for `seconds` and says what was spent: `joules`, `ns`, `steps`, `readings`.

        A counter is read at both ends; power is read every 100 ms, between two steps, and integrated (trapezoids).

        Raises:
            BadRequest: the sensor gave nothing.
        """
        clock = time.perf_counter
        started = clock()
        last_at, last = started, self._read()
        steps, readings, total, now = 0, 1, 0.0, started
        while now - started < seconds:
            step()
            steps += 1
            now = clock()
            if now - last_at >= READ_EVERY_S or now - started >= seconds:
                value = self._read()
                total += self._between(last, value, now - last_at)
                last_at, last, readings = now, value, readings + 1
        return {"joules": total, "ns": int((last_at - started) * 1e9), "steps": steps, "readings": readings}

    def _between(self, last: float, value: float, seconds: float) -> float:
        if self._joules is None:
            return (last + value) / 2 * seconds
        return value - last + (self._wraps if value < last else 0.0)

    def _read(self) -> float:
        value = self._joules() if self._joules is not None else self._watts() if self._watts is not None else None
        if value is None:
            raise BadRequest(f"the power sensor `{self.name}` gives nothing")
        return value


def find_sensor(wanted: Optional[str] = None, root: str = "/") -> Sensor:
    """The sensor named `wanted`, else the most precise one.

    Raises:
        BadRequest: there is none, or none of that name; the names there are, are given.
    """
    found = sensors(root)
    chosen = [sensor for sensor in found if sensor.name == wanted] if wanted is not None else found[:1]
    for sensor in found:
        if sensor not in chosen:
            sensor.close()
    if chosen:
        return chosen[0]
    if wanted is None:
        raise BadRequest(why_no_sensor(root))
    names = ", ".join(sensor.name for sensor in found) or "none"
    raise BadRequest(f"no power sensor `{wanted}` here", do="sensors found: " + names)


def sensors(root: str = "/") -> List[Sensor]:
    """The sensors that can be read below `root`, the most precise first."""
    found = [*_rapl(root), *_ina3221(root)]
    if not any(sensor.covers.startswith("rail") for sensor in found) and root == "/":
        found += _tegrastats()
    return found + _battery(root)


def power_sensors() -> List[str]:
    """The names of the sensors of this machine, the most precise first."""
    found = sensors()
    for sensor in found:
        sensor.close()
    return [sensor.name for sensor in found]


def energy(
    step: Callable[[], Any], *, seconds: float, idle_seconds: float, wanted: Optional[str] = None, root: str = "/"
) -> Dict[str, Any]:
    """What inferences spend, and what the idle machine spends in the same time, just before.

    Returns:
        `sensor`, `covers`, `idle_watts`, `busy_watts`, `runs`, `joules_per_run` (everything the sensor saw) and
        `above_idle_joules_per_run`; or `unavailable`, the reason.
    """
    try:
        sensor = find_sensor(wanted, root)
    except BadRequest as problem:
        return {"unavailable": problem.what}
    try:
        idle = sensor.spent(lambda: time.sleep(0.02), idle_seconds)
        busy = sensor.spent(step, seconds)
    except BadRequest as problem:
        return {"unavailable": problem.what}
    finally:
        sensor.close()
    idle_watts, busy_watts = (part["joules"] / (part["ns"] * 1e-9) for part in (idle, busy))
    per_run = busy["joules"] / busy["steps"]
    return {
        "sensor": sensor.name,
        "covers": sensor.covers,
        "idle_watts": idle_watts,
        "busy_watts": busy_watts,
        "runs": busy["steps"],
        "readings": busy["readings"],
        "joules_per_run": per_run,
        "above_idle_joules_per_run": per_run - idle_watts * busy["ns"] * 1e-9 / busy["steps"],
    }


def _rapl(root: str) -> List[Sensor]:
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:[0-9]"))):
        path = os.path.join(folder, "energy_uj")
        if read_number(path) is None:
            continue
        name = read_text(os.path.join(folder, "name")) or os.path.basename(folder)
        wraps = (read_number(os.path.join(folder, "max_energy_range_uj")) or 0) / 1e6
        found.append(Sensor(name, "the processor (RAPL)", joules=_scaled(path, 1e-6), wraps=wraps))
    return found


def _ina3221(root: str) -> List[Sensor]:
    rails: Dict[str, Callable[[], Optional[float]]] = {}
    for pattern, label, volts, amps in (
        ("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*", "in{}_label", "in{}_input", "curr{}_input"),
        ("sys/bus/i2c/drivers/ina3221*/*/iio:device*", "rail_name_{}", "in_voltage{}_input", "in_current{}_input"),
    ):
        for folder in sorted(glob.glob(os.path.join(root, pattern))):
            for number in range(4):
                name = read_text(os.path.join(folder, label.format(number)))
                mv, ma = (os.path.join(folder, file.format(number)) for file in (volts, amps))
                if name and read_number(mv) is not None and read_number(ma) is not None:
                    rails[name] = _product(mv, ma, 1e-6)
    order = sorted(rails, key=lambda name: (WHOLE_MODULE.index(name) if name in WHOLE_MODULE else 9, name))
    return [Sensor(name, "rail " + name + " of the module (INA3221)", watts=rails[name]) for name in order]


def _battery(root: str) -> List[Sensor]:
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/power_supply/*"))):
        uv, ua = (os.path.join(folder, file) for file in ("voltage_now", "current_now"))
        battery = read_text(os.path.join(folder, "type")) == "Battery"
        # While it charges, its current says nothing about what the device draws.
        if (
            battery
            and read_text(os.path.join(folder, "status")) == "Discharging"
            and read_number(uv)
            and read_number(ua)
        ):
            return [Sensor("battery", "the whole device (battery)", watts=_product(uv, ua, 1e-12))]
    return []


def _tegrastats() -> List[Sensor]:
    reader = Tegrastats.start()
    if reader is None:
        return []
    names = sorted(reader.rails(), key=lambda name: (WHOLE_MODULE.index(name) if name in WHOLE_MODULE else 9, name))
    if not names:
        reader.close()
        return []
    name = names[0]
    watts = lambda: reader.watts(name)  # noqa: E731 - a closure over two names
    return [Sensor(name, "rail " + name + " of the module (tegrastats)", watts=watts, close=reader.close)]


def _scaled(path: str, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        value = read_number(path)
        return None if value is None else value * factor

    return read


def _product(one: str, other: str, factor: float) -> Callable[[], Optional[float]]:
    def read() -> Optional[float]:
        a, b = read_number(one), read_number(other)
        return None if a is None or b is None else abs(a * b) * factor

    return read


def why_no_sensor(root: str = "/") -> str:
    """Why no sensor was found below `root`."""
    if glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:[0-9]/energy_uj")):
        return "RAPL may not be read by this user (root may; or `chmod a+r` its energy_uj files)"
    if glob.glob(os.path.join(root, "sys/class/power_supply/*/current_now")):
        return "the battery is not discharging, so its current is not what the device draws"
    return "no power sensor that can be read"
