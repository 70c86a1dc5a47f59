"""Energy from sensors as Linux shows them: RAPL with its overflow, a Jetson's rails, batteries, and none at all."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_runtime_telemetry import tree

from edgecnn.runtime.errors import BadRequest
from edgecnn.runtime.power import Sensor, energy, find_sensor, sensors
from edgecnn.runtime.tegrastats import Tegrastats, parse_tegrastats

RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
}
HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
ORIN = {
    f"{HWMON}/in1_label": "VDD_CPU_CV\n",
    f"{HWMON}/in1_input": "5000\n",
    f"{HWMON}/curr1_input": "200\n",
    f"{HWMON}/in2_label": "VDD_IN\n",
    f"{HWMON}/in2_input": "5000\n",
    f"{HWMON}/curr2_input": "1000\n",
}
IIO = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
NANO = {
    f"{IIO}/rail_name_0": "POM_5V_IN\n",
    f"{IIO}/in_voltage0_input": "5000\n",
    f"{IIO}/in_current0_input": "400\n",
}
PHONE = {
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/voltage_now": "4000000\n",
    "sys/class/power_supply/battery/current_now": "-500000\n",
}


def spent(root: str, seconds: float = 0.25) -> dict[str, float]:
    sensor = find_sensor(root=root)
    found = sensor.spent(lambda: time.sleep(0.01), seconds)
    return {**found, "watts": found["joules"] / (found["ns"] * 1e-9)}


def test_rails_of_a_jetson_the_whole_module_first(tmp_path: Path) -> None:
    root = tree(tmp_path, ORIN)
    assert [sensor.name for sensor in sensors(root)] == ["VDD_IN", "VDD_CPU_CV"]
    found = spent(root)
    assert found["watts"] == pytest.approx(5.0)
    assert found["readings"] >= 3
    assert 10 <= found["steps"] <= 26
    assert find_sensor("VDD_CPU_CV", root).covers == "rail VDD_CPU_CV of the module (INA3221)"
    with pytest.raises(BadRequest, match="no power sensor `VIN`") as caught:
        find_sensor("VIN", root)
    assert caught.value.do == "sensors found: VDD_IN, VDD_CPU_CV"


def test_an_old_jetson_and_a_phone(tmp_path: Path) -> None:
    assert spent(tree(tmp_path / "nano", NANO))["watts"] == pytest.approx(2.0)
    assert spent(tree(tmp_path / "phone", PHONE))["watts"] == pytest.approx(2.0)
    charging = {**PHONE, "sys/class/power_supply/battery/status": "Charging\n"}
    said = energy(lambda: None, seconds=0.1, idle_seconds=0.1, root=tree(tmp_path / "charging", charging))
    assert said == {"unavailable": "the battery is not discharging, so its current is not what the device draws"}


def test_a_counter_that_overflows() -> None:
    counts = iter([9.0, 9.5, 1.0])
    sensor = Sensor("package-0", "the processor", joules=lambda: next(counts), wraps=10.0)
    assert sensor.spent(lambda: time.sleep(0.12), 0.15)["joules"] == pytest.approx(0.5 + 1.5)


def test_rapl_of_a_machine_and_inferences_above_idle(tmp_path: Path) -> None:
    root = tree(tmp_path, RAPL)
    file = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    started = time.perf_counter()

    def working() -> None:
        time.sleep(0.01)
        file.write_text(str(int(1e6 * (1 + 10 * (time.perf_counter() - started)))))

    found = energy(working, seconds=0.4, idle_seconds=0.1, root=root)
    assert found["sensor"] == "package-0"
    assert found["idle_watts"] == 0
    # The file counts the idle time too, at its first write: 10 W over 0.5 s, in 0.4 s.
    assert found["busy_watts"] == pytest.approx(12.5, rel=0.2)
    assert found["joules_per_run"] == pytest.approx(found["busy_watts"] * 0.4 / found["runs"], rel=0.1)
    assert found["above_idle_joules_per_run"] == found["joules_per_run"]


def test_no_sensor_is_said(tmp_path: Path) -> None:
    said = energy(lambda: None, seconds=0.1, idle_seconds=0.1, root=str(tmp_path))
    assert said == {"unavailable": "no power sensor that can be read"}
    tree(tmp_path, {"sys/class/powercap/intel-rapl:0/energy_uj": "nothing"})
    said = energy(lambda: None, seconds=0.1, idle_seconds=0.1, root=str(tmp_path))
    assert said["unavailable"].startswith("RAPL may not be read")
    dying = Sensor("rail", "rail", watts=lambda: None)
    with pytest.raises(BadRequest, match="gives nothing"):
        dying.spent(lambda: None, 0.1)


# facts/devices.md 3.5: lines collected from boards of four generations.
LINES = {
    "nano": "RAM 331/3964MB (lfb 758x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [3%@102,off,0%@102,"
    "1%@102] EMC_FREQ 3%@204 GR3D_FREQ 0%@76 APE 25 PLL@20.5C CPU@23.5C PMIC@100C GPU@22.5C AO@27.5C thermal@23C "
    "POM_5V_IN 933/933 POM_5V_GPU 0/0 POM_5V_CPU 84/105",
    "xavier": "RAM 1/2MB CPU [1%@1190] EMC_FREQ 0% GR3D_FREQ 12%@1377 APE 150 MTS fg 0% bg 0% AO@26.5C GPU@28C "
    "Tdiode@31.25C GPU 1155/1155 CPU 385/385 SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692",
    "orin": "01-03-2023 16:07:54 RAM 2/3MB CPU [0%@729] EMC_FREQ 0%@204 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 NVJPG1 729 "
    "VIC_FREQ 115 APE 233 CV0@-256C CPU@41.437C tj@41.656C VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 796mW/796mW "
    "VIN_SYS_5V0 3522mW/3522mW",
    "orin7": "07-25-2026 09:08:28 RAM 5/6MB EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off APE 174 "
    "cpu@52.968C/52.968C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW",
    "thor": "RAM 5/6MB GR3D_FREQ @[1000,1000,1000] cpu@40C",
}


def test_lines_of_four_generations_of_jetsons() -> None:
    nano = parse_tegrastats(LINES["nano"])
    assert nano["power_mw"] == {"POM_5V_IN": 933, "POM_5V_GPU": 0, "POM_5V_CPU": 84}
    assert nano["temps_c"] == {"PLL": 20.5, "CPU": 23.5, "PMIC": 100, "GPU": 22.5, "AO": 27.5, "thermal": 23}
    assert (nano["ram_mb"], nano["cpu_mhz"]) == ([331, 3964], [102, None, 102, 102])
    assert (nano["gpu_percent"], nano["gpu_mhz"]) == (0, 76)
    xavier = parse_tegrastats(LINES["xavier"])
    assert xavier["power_mw"] == {"GPU": 1155, "CPU": 385, "SOC": 2502, "CV": 0, "VDDRQ": 192, "SYS5V": 2692}
    orin = parse_tegrastats(LINES["orin"])
    assert orin["power_mw"] == {"VDD_GPU_SOC": 2390, "VDD_CPU_CV": 796, "VIN_SYS_5V0": 3522}
    assert orin["temps_c"] == {"CPU": 41.437, "tj": 41.656}  # CV0 is off
    newest = parse_tegrastats(LINES["orin7"])
    assert newest["power_mw"] == {"VDD_GPU_SOC": 5139}
    assert newest["temps_c"] == {"cpu": 52.968, "gpu": 47.625}
    assert newest["gpu_mhz"] == 1300
    thor = parse_tegrastats(LINES["thor"])
    assert thor["gpu_mhz"] == 1000
    assert "gpu_percent" not in thor


@given(st.text(max_size=60) | st.sampled_from(sorted(LINES.values())), st.integers(0, 300), st.text(max_size=3))
def test_no_line_can_break_the_parser(line: str, at: int, noise: str) -> None:
    found = parse_tegrastats(line[:at] + noise + line[at:])
    assert all(value >= 0 for value in found.get("power_mw", {}).values())


def test_a_running_tegrastats_is_read_and_ended(tmp_path: Path) -> None:
    script = tmp_path / "tegrastats"
    script.write_text(
        f"#!{sys.executable}\nimport time\nfor i in range(1000):\n"
        "    print(f'VDD_IN {1000 + i}mW/1000mW', flush=True)\n    time.sleep(0.05)\n"
    )
    script.chmod(0o755)
    reader = Tegrastats.start([str(script)])
    assert reader is not None
    first = reader.watts("VDD_IN")
    time.sleep(0.3)
    assert first is not None
    assert 1.0 <= first < (reader.watts("VDD_IN") or 0)
    assert reader.watts("VDD_GPU") is None
    reader.close()
    assert Tegrastats.start(["/no/such/tegrastats"]) is None
    script.write_text("#!/bin/sh\nexit 0\n")
    assert Tegrastats.start([str(script)]) is None
