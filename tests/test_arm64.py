"""The emulated ARM64 device: counts that repeat, the whole way over ssh, int8 there against int8 here.

It is built into a folder that is kept between runs (about a minute, 330 MB), where root, mmdebstrap and QEMU are there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgecnn.bench.instructions import CORES, Emulator, count
from edgecnn.bench.profile import profile
from edgecnn.bench.run import bench
from edgecnn.bench.worker import Worker
from edgecnn.device.place import Remote
from edgecnn.device.profile import load_device
from edgecnn.device.transport import connect, run
from edgecnn.doctor import emit_probe
from edgecnn.errors import DeviceFailed
from edgecnn.pipeline.device_check import check_device, device_cpu

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/arm64/device.sh"
PROGRAMS = ("mmdebstrap", "qemu-aarch64", "qemu-aarch64-static", "setarch", "gcc", "ssh-keygen", "flock")


@pytest.fixture(scope="module")
def kit() -> Path:
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (see scripts/arm64/device.sh)")
    if os.geteuid() != 0:
        pytest.skip("the emulated device is built as root")
    folder = Path(os.environ.get("ARM64_DEVICE_DIR") or Path(tempfile.gettempdir()) / "edgecnn-test-arm64")
    done = device_sh("kit", folder)
    if done.returncode:
        pytest.skip(f"the emulated device cannot be built here: {done.stderr.strip()[-200:]}")
    return folder


def device_sh(verb: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ARM64_DEVICE_DIR": str(folder), "ARM64_PORT": "20399"}
    # Its output goes to a file: the daemon it starts would keep a pipe open.
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.run(
            [str(SCRIPT), verb], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=900
        )
        said.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, "", said.read())


@pytest.fixture(scope="module")
def board(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    done = device_sh("start", kit)
    if done.returncode:
        pytest.skip(f"the emulated device does not start here: {done.stderr.strip()[-200:]}")
    path = tmp_path_factory.mktemp("arm") / "arm.toml"
    path.write_text(
        f'transport = "ssh"\nhost = "arm64dev"\nssh_config = "{kit}/ssh_config"\nemulated = true\n'
        'env = { PYTHONPATH = "/opt/py/edgecnn" }\n'
    )
    yield path
    device_sh("stop", kit)


def test_counts_repeat_and_follow_the_core(kit: Path, tmp_path: Path) -> None:
    int8 = tiny_models.tflite(tmp_path / "int8.tflite", size=16, channels=64)
    fp32 = tiny_models.tflite(tmp_path / "fp32.tflite", size=16, channels=64, int8=False)
    cores = ("cortex-a53", "cortex-a76", "i8mm")
    first, again = (count([int8, fp32], cores=cores, emulator=Emulator(kit)) for _ in range(2))
    assert [c.classes for c in first] == [c.classes for c in again]
    found = {(c.core, Path(c.artifact).stem): c for c in first}
    for core in cores:
        assert found[core, "int8"].total < found[core, "fp32"].total
    assert found["cortex-a53", "int8"].groups["dot"] == found["cortex-a53", "int8"].groups["i8mm"] == 0
    assert found["cortex-a76", "int8"].groups["dot"] > 0
    assert found["i8mm", "int8"].groups["i8mm"] > 0
    assert found["cortex-a76", "int8"].total < found["cortex-a53", "int8"].total


def test_the_lowering_for_a_core_executes_the_fewest_instructions_on_it(kit: Path, tmp_path: Path) -> None:
    probes = {}
    for cpu in ("x86", *sorted({core.cpu for core in CORES.values()})):
        (tmp_path / cpu).mkdir()
        probes[cpu] = str(emit_probe("tflite-int8", cpu, tmp_path / cpu))
    for name in ("cortex-a72", "cortex-a76"):
        totals = {
            Path(c.artifact).parent.name: c.total
            for c in count([*probes.values()], cores=[name], emulator=Emulator(kit))
        }
        # Where two lowerings are the same file, so is their count, to the last instruction but those of the allocator.
        assert totals[CORES[name].cpu] <= 1.0001 * min(totals.values()), totals


def test_the_whole_way_over_ssh(board: Path, tmp_path: Path) -> None:
    name, profile = load_device(str(board))
    assert device_cpu(name, profile) == "armv8-dot"
    findings = {f.what: f for f in check_device(name, profile)}
    assert "Cortex-A76" in findings["processor"].found
    assert findings["LiteRT"].status == findings["ONNX Runtime"].status == "ok"
    assert "EMULATED" in findings["int8 in LiteRT"].found
    assert "XNNPACK took 7 of 7" in findings["int8 in LiteRT"].found


def test_onnx_runtime_computes_the_same_codes_on_arm_but_for_ties(board: Path, tmp_path: Path) -> None:
    from edgecnn.bench.same_there import compare_there

    path = emit_probe("onnx-int8", "armv8-dot", tmp_path)
    with Remote(*load_device(str(board))) as device, Worker(str(path), threads=1, place=device) as worker:
        found = compare_there(str(path), worker, device)
    # Requantisation multiplies in float32; where that lands on a tie, the last bit decides: one code, rarely.
    assert found.largest <= 1
    assert found.equal > 0.999 * found.values


def test_only_the_product_is_computed_otherwise_on_arm(kit: Path) -> None:
    script = SCRIPT.parent / "differences.py"
    ops = ["mul", "add", "conv 1x1", "depthwise conv", "hard_swish", "softmax"]
    done = subprocess.run(
        [sys.executable, str(script), "--ops", *ops, "--cores", "cortex-a76"],
        env={**os.environ, "ARM64_DEVICE_DIR": str(kit)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| mul | cortex-a76 | 65536 |" in done.stdout
    assert "to the last bit: add, conv 1x1, depthwise conv, hard_swish, softmax." in done.stdout


def test_a_measurement_survives_a_restart_of_the_device(
    board: Path, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Push, parity, measure, the device goes down, --resume, profile, clean-up; its times say nothing."""
    file = tmp_path / "real.toml"  # as a real board: an emulated one would only count
    file.write_text(board.read_text().replace("emulated = true\n", ""))
    nets = [
        tiny_models.tflite(tmp_path / "a.tflite"),
        tiny_models.onnx_int8(tmp_path / "b.onnx"),
    ]
    blocks: list[int] = []
    ask = Worker.ask

    def restart(self: Worker, request: str, **arguments: Any) -> dict[str, Any]:
        if request == "block" and "max_runs" in arguments and "of" not in arguments:
            blocks.append(1)
            if len(blocks) == 9:  # the first artifact of the fifth round
                device_sh("stop", kit)
        return ask(self, request, **arguments)

    kept, short = tmp_path / "partial", {"blocks": 6, "min_seconds": 0.3}
    with monkeypatch.context() as down:
        down.setattr(Worker, "ask", restart)
        with (
            pytest.raises(DeviceFailed, match="4 rounds are kept"),
            Remote(*load_device(str(file))) as device,
        ):
            bench(nets, **short, device=device, checkpoint=kept)
    assert device_sh("start", kit).returncode == 0
    with Remote(*load_device(str(file))) as device:
        report = bench(nets, **short, device=device, checkpoint=kept, resume=True)
        profiles = [profile(str(net), device=device) for net in nets]
        folder = device.folder
    assert [len(run.blocks) for run in report.runs] == [6, 6]
    assert report.notes[-1] == "resumed after 4 of 6 rounds"
    assert report.runs[0].notes[0].startswith("outputs on real are bit for bit those here")
    assert report.machine["architecture"] == "aarch64"
    assert all(run.cold_ms and run.copies_ms for run in report.runs)
    assert {row.kind for row in profiles[0].rows} == {"CONV_2D"}
    assert "QLinearConv" in {row.kind for row in profiles[1].rows}
    transport = connect(*load_device(str(file)))
    assert run(transport, ["ls", folder]).code != 0
    assert folder.encode() not in run(transport, ["ps", "-eo", "args"]).out


def test_pruning_by_counted_instructions(kit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgecnn.pipeline.prune import prune
    from edgecnn.pipeline.pruned import PruneOptions

    monkeypatch.setenv("ARM64_DEVICE_DIR", str(kit))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    how = PruneOptions("latency", 0.6, device="arm64-emulated", cpu="cortex-a76")
    found = prune("resnet20", how=how, weights="random", input_shape=(3, 32, 32))
    assert found.unit == "instructions"
    assert found.timing is not None
    assert found.timing.to_json() == {"instructions": list(found.timing.median), "emulated": True}
    # Counts repeat: what is off is what the table does not know, how ops hand over to each other.
    assert found.timing.ratio == pytest.approx(0.6, abs=0.03)
