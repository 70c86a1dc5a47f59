"""What a phone tells: recorded answers of `dumpsys`, a locked-down /sys, and files read by its shell alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.bench.preflight import hottest, remarks
from edgecnn.device import android, snapshot
from edgecnn.device.android import complete, parse_battery, parse_thermalservice
from edgecnn.device.profile import DeviceProfile
from edgecnn.device.snapshot import MARK, split_files
from edgecnn.device.transport import Completed, Local

# pytorch/executorch#11301, a Galaxy S22.
THERMAL = """IsStatusOverride: false
ThermalStatusListeners:
\tcallbacks: 3
Thermal Status: 2
Cached temperatures:
\tTemperature{mValue=27.0, mType=5, mName=PA1THM, mStatus=0}
\tTemperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=39.6, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=36.3, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
Current cooling devices from HAL:
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  health: 2
  present: true
  level: 12
  scale: 100
  voltage: 3862
  temperature: 301
  technology: Li-ion
"""


def test_the_thermal_service() -> None:
    assert parse_thermalservice(THERMAL) == {
        "temps_c": {"AP": 39.6, "BAT": 36.3},
        "throttled": ["thermal status moderate"],
    }
    cached = THERMAL.partition("Current temp")[0].replace("Status: 2", "Status: 0")
    assert parse_thermalservice(cached) == {"temps_c": {"PA1THM": 27.0}, "throttled": []}
    assert parse_thermalservice("Can't find service: thermalservice") == {}


def test_the_battery() -> None:
    assert parse_battery(BATTERY) == {"percent": 12, "status": "Charging", "temp_c": 30.1}
    assert parse_battery("Can't find service: battery") is None


@given(st.text(max_size=200) | st.sampled_from([THERMAL, BATTERY]), st.integers(0, 800))
def test_no_answer_can_break_the_parsers(text: str, cut: int) -> None:
    parse_thermalservice(text[cut:])
    parse_battery(text[:cut])
    split_files(text[cut:])


class Phone(Local):
    """Answers every command by the first word that it knows."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__("phone")
        self.answers = answers

    def run(self, transport: Any, command: list[str], **options: Any) -> Completed:
        for word, text in self.answers.items():
            if word in command:
                return Completed(0, text.encode(), "")
        return Completed(127, b"", "not found")


@pytest.fixture
def phone(monkeypatch: pytest.MonkeyPatch) -> Phone:
    phone = Phone({"thermalservice": THERMAL, "battery": BATTERY})
    monkeypatch.setattr(android, "run", phone.run)
    monkeypatch.setattr(snapshot, "run", phone.run)
    return phone


def test_a_locked_down_phone_still_tells_its_heat(phone: Phone) -> None:
    missing = {"temperature": "may not be read", "clocks": "may not be read"}
    answer = {"machine": {"battery": None, "unavailable": missing, "cores": 8}, "state": {}, "engines": {}}
    found = complete(answer, phone)
    assert hottest(found["state"]) == ("AP", 39.6)
    assert found["machine"]["unavailable"] == {"clocks": "may not be read"}
    said = remarks(found, DeviceProfile(transport="adb"))
    assert said == [
        "before the first run the device said: thermal status moderate",
        "the battery is at 12 %; phones slow down then",
    ]
    phone.answers = {}
    assert complete(answer, phone) == answer


CPUINFO = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd41\n\n"
FILES = {
    "/proc/cpuinfo": CPUINFO + CPUINFO.replace("0xd41", "0xd05"),
    "/proc/meminfo": "MemTotal:        7643392 kB\n",
    "/proc/loadavg": "12.50 3.00 1.00 1/999 1\n",
    "/sys/devices/system/cpu/cpufreq/policy6/scaling_cur_freq": "2400000\n",
    "/sys/devices/system/cpu/cpu0/cpu_capacity": "325\n",
    "/sys/devices/system/cpu/cpu7/cpu_capacity": "1024\n",
    "/proc/uname": "Linux 5.10.149-android13 aarch64\n",
}


def shell(files: dict[str, str]) -> str:
    return "".join(f"{MARK}{path}\n{content}\n" for path, content in files.items())


def test_a_phone_without_python_is_read_by_its_shell(phone: Phone) -> None:
    phone.answers["sh"] = shell(FILES)
    found = snapshot.snapshot(phone)
    machine = found["machine"]
    assert machine["cpu"] == "Cortex-A78 + Cortex-A55"
    assert (machine["architecture"], machine["features"], machine["load"]) == ("aarch64", ["asimddp"], 12.5)
    assert machine["clusters"] == [[7], [0]]
    assert machine["memory_bytes"] == 7643392 * 1024
    assert found["state"]["clocks_mhz"] == {"policy6": 2400.0}
    assert machine["unavailable"] == {"temperature": "the system does not tell"}


def test_a_malicious_phone_writes_nowhere(phone: Phone, tmp_path: Path) -> None:
    evil = [
        f"{tmp_path}/x",
        "/sys/../etc/x",
        "/proc/../../x",
        "/sys/a b",
        "/sys//x",
        "relative",
        "/proc/$(id)",
        "/sys/..",
    ]
    assert split_files(shell(dict.fromkeys(evil, "1"))) == {}
    # A file where another's folder should be, and far too much of everything.
    phone.answers["sh"] = shell({"/sys/class": "1", **FILES, "/sys/class/thermal/thermal_zone0/temp": "9" * 200_000})
    assert snapshot.snapshot(phone)["machine"]["load"] == 12.5
    assert not list(tmp_path.iterdir())
    phone.answers["sh"] = "\x1b[2J garbage"
    assert snapshot.snapshot(phone)["machine"]["cpu"] == "unknown"


def test_the_real_shell_reads_this_machine() -> None:
    found = snapshot.snapshot(Local("here"))
    assert found["machine"]["memory_bytes"] > 1e8
    assert found["machine"]["architecture"]
