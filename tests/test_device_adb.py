"""Devices over adb: the real client against scripts/arm64/adbd_mock.py, which runs its commands on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
import vendor_binary
from test_device_ssh import NASTY

from edgecnn.bench.profile import profile
from edgecnn.bench.run import bench
from edgecnn.device.adb import Adb
from edgecnn.device.place import Remote
from edgecnn.device.profile import load_device
from edgecnn.device.transport import connect, pull, refused, run
from edgecnn.errors import DeviceFailed

MOCK = Path(__file__).resolve().parents[1] / "scripts/arm64/adbd_mock.py"
pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed (Debian: adb)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The TOML lines that reach it. The client's server has a port and a home of its own: the user's is left alone."""
    port = free_port()
    mine = {"ANDROID_ADB_SERVER_PORT": str(free_port()), "HOME": str(tmp_path_factory.mktemp("adb"))}
    before = {key: os.environ.get(key) for key in mine}
    os.environ.update(mine)
    mock = subprocess.Popen([sys.executable, str(MOCK), str(port), "--", "sh", "-c"], stdout=subprocess.PIPE)
    assert mock.stdout is not None
    mock.stdout.readline()
    subprocess.run(["adb", "connect", f"127.0.0.1:{port}"], check=True, capture_output=True)
    yield f'transport = "adb"\nserial = "127.0.0.1:{port}"\npython = "{sys.executable}"\n'
    subprocess.run(["adb", "kill-server"], check=False, capture_output=True)
    mock.kill()
    mock.wait()
    mock.stdout.close()
    for key, value in before.items():
        os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def test_no_word_reaches_a_shell_unquoted(phone: str, tmp_path: Path) -> None:
    (tmp_path / "phone.toml").write_text(phone)
    transport = connect(*load_device(str(tmp_path / "phone.toml")))
    done = run(transport, ["printf", r"%s\0", *NASTY])
    assert done.out.decode().split("\0")[:-1] == NASTY
    assert run(transport, ["sh", "-c", "exit 7"]).code == 7


def test_files_arrive_as_they_are(phone: str, tmp_path: Path) -> None:
    (tmp_path / "phone.toml").write_text(phone)
    transport = connect(*load_device(str(tmp_path / "phone.toml")))
    content = bytes(range(256)) * 5000 + b"\r\n\n"
    (tmp_path / "a source").write_bytes(content)
    there = tmp_path / "it's $(there)"
    transport.push(tmp_path / "a source", str(there))
    assert there.read_bytes() == content
    assert pull(transport, str(there)) == content
    with pytest.raises(DeviceFailed, match="did not take a file"):
        transport.push(tmp_path / "a source", "/proc/none/file")


def test_bench_there_compares_outputs_and_leaves_nothing(phone: str, tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "phone.toml").write_text(phone + f'work_folder = "{work}"\n')
    with Remote(*load_device(str(tmp_path / "phone.toml"))) as device:
        report = bench([path], blocks=6, min_seconds=0.05, device=device)
    assert report.runs[0].notes[0] == "outputs on phone are bit for bit those here, on 4 random inputs"
    assert not list(work.iterdir())


def test_a_device_that_is_not_attached(phone: str, tmp_path: Path) -> None:
    (tmp_path / "gone.toml").write_text('transport = "adb"\nserial = "emulator-9999"\n')
    with (
        pytest.raises(DeviceFailed, match="no connection to `gone`") as caught,
        Remote(*load_device(str(tmp_path / "gone.toml"))),
    ):
        pass
    assert "adb devices" in (caught.value.do or "")


def test_a_phone_without_python_by_its_own_binary(phone: str, tmp_path: Path) -> None:
    """Bound to a core, as to a fast cluster; the stand-in runs on this machine, behind the real client."""
    path = tiny_models.tflite(tmp_path / "net.tflite")
    work = tmp_path / "work"
    work.mkdir()
    vendor_binary.write(tmp_path / "benchmark_model")
    lines = phone + f'work_folder = "{work}"\nbenchmark_model = "benchmark_model"\ncores = [0]\n'
    (tmp_path / "phone.toml").write_text(lines)
    with Remote(*load_device(str(tmp_path / "phone.toml"))) as device:
        run_ = bench([path], blocks=6, min_seconds=0.06, device=device).runs[0]
        found = profile(str(path), device=device)
    assert run_.notes[0] == "outputs on phone are bit for bit those here, on 1 random inputs"
    assert run_.p90_ms is None
    assert [row.kind for row in found.rows] == ["Convolution (NHWC, QC8) IGEMM", "MUL"]
    assert not list(work.iterdir())


# What adbd of Android 12 and 14 answers to a push that cannot be.
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            "adb: error: failed to copy 'a' to '/system/a': remote couldn't create file: Read-only file system",
            "user may",
        ),
        (
            "adb: error: failed to copy 'a' to '/data/a': remote couldn't create file: Permission denied",
            "user may write",
        ),
        ("adb: error: failed to copy 'a' to '/data/local/tmp/a': remote write failed: No space left on device", "room"),
    ],
)
def test_places_that_take_nothing_are_told(said: str, advice: str, tmp_path: Path) -> None:
    adb = Adb("phone", None)
    assert adb.lost(1, said) is None  # the device is there; it only refused
    failure = refused("phone", tmp_path / "a", "/data/a", said)
    assert advice in (failure.do or "")
