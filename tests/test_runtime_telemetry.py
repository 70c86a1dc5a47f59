"""The state of a device, read from trees of files as Linux has them: whole, locked down, and full of nonsense."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecnn.runtime.telemetry import Telemetry


def tree(root: Path, files: dict[str, str | bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(root)


CPU = "sys/devices/system/cpu/"
PI5 = {
    **{f"{CPU}cpu{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4)},
    f"{CPU}cpufreq/policy0/scaling_cur_freq": "1500000\n",
    f"{CPU}cpufreq/policy0/scaling_max_freq": "2400000\n",
    f"{CPU}cpufreq/policy0/scaling_governor": "ondemand\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "58400\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "proc/meminfo": "MemTotal:        8245744 kB\nMemFree: 1 kB\n",
}


def test_a_raspberry_pi(tmp_path: Path) -> None:
    telemetry = Telemetry(tree(tmp_path, PI5))
    assert telemetry.read() == {
        "clocks_mhz": {"policy0": 1500.0},
        "temps_c": {"cpu-thermal@0": 58.4},
        "throttled": ["under-voltage", "throttled"],
    }
    said = telemetry.settings()
    assert said["governors"] == ["ondemand"]
    assert said["max_clocks_mhz"] == {"policy0": 2400.0}
    assert said["clusters"] == [[0, 1, 2, 3]]
    assert said["memory_bytes"] == 8245744 * 1024
    assert said["unavailable"] == {}


def test_a_phone_with_two_clusters_and_a_battery(tmp_path: Path) -> None:
    files = {f"{CPU}cpu{i}/cpu_capacity": "1024" if i > 5 else "325" for i in range(8)}
    files |= {
        "sys/class/power_supply/usb/type": "USB\n",
        "sys/class/power_supply/battery/type": "Battery\n",
        "sys/class/power_supply/battery/capacity": "15\n",
        "sys/class/power_supply/battery/status": "Discharging\n",
    }
    telemetry = Telemetry(tree(tmp_path, files))
    said = telemetry.settings()
    assert said["clusters"] == [[6, 7], [0, 1, 2, 3, 4, 5]]
    assert said["battery"] == {"percent": 15, "status": "Discharging"}
    assert set(said["unavailable"]) == {"clocks", "temperature"}
    assert telemetry.read() == {}


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    telemetry = Telemetry(str(tmp_path))
    assert telemetry.read() == {}
    assert telemetry.settings()["unavailable"] == {
        "clocks": "the system does not tell",
        "temperature": "the system does not tell",
    }


def test_a_file_that_vanishes_while_measuring_leaves_its_value_out(tmp_path: Path) -> None:
    telemetry = Telemetry(tree(tmp_path, PI5))
    (tmp_path / f"{CPU}cpufreq/policy0/scaling_cur_freq").unlink()
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("-2147483648")
    assert telemetry.read() == {"throttled": ["under-voltage", "throttled"]}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.dictionaries(st.sampled_from(sorted(PI5)), st.binary(max_size=40)))
def test_nonsense_never_raises(tmp_path: Path, nonsense: dict[str, bytes]) -> None:
    root = tree(tmp_path, {**PI5, **nonsense})
    telemetry = Telemetry(root)
    assert isinstance(telemetry.read(), dict)
    assert isinstance(telemetry.settings(), dict)
