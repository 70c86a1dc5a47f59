"""Devices over ssh, against a real sshd on loopback: quoting, host keys, lost connections, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import loopback
import numpy as np
import pytest
import tiny_models

from edgecnn.bench.run import bench
from edgecnn.bench.worker import Agent, Worker
from edgecnn.device.place import Remote
from edgecnn.device.profile import load_device
from edgecnn.device.transport import connect, pull, run
from edgecnn.errors import DeviceFailed

pytestmark = pytest.mark.skipif(loopback.missing() is not None, reason=str(loopback.missing()))

NASTY = ["a b", "it's", '"q"', "$(touch /tmp/never)", "`id`", "a\nb", "*", "~", "-rf", "\\", ";false", "ü", ""]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    server = loopback.Loopback(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


def place(board: loopback.Loopback, folder: Path, **more: str) -> Remote:
    return Remote(*load_device(str(board.device(work_folder=f'"{folder}"', **more))))


def test_no_word_reaches_a_shell_unquoted(board: loopback.Loopback) -> None:
    transport = connect(*load_device(str(board.device())))
    done = run(transport, ["printf", r"%s\0", *NASTY])
    assert done.out.decode().split("\0")[:-1] == NASTY


def test_files_arrive_as_they_are_under_any_name(board: loopback.Loopback, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "source").write_bytes(content)
    there = tmp_path / "it's a $(folder)\nof two lines"
    there.mkdir()
    transport = connect(*load_device(str(board.device())))
    transport.push(tmp_path / "source", str(there / "a `b`"))
    assert (there / "a `b`").read_bytes() == content
    assert pull(transport, str(there / "a `b`")) == content
    with pytest.raises(DeviceFailed, match="cannot read a file"):
        pull(transport, str(there / "a `b`"), limit_bytes=len(content) - 1)


def test_bench_there_compares_outputs_and_leaves_nothing(board: loopback.Loopback, tmp_path: Path) -> None:
    odd = tmp_path / "net $(x) 'y'.tflite"
    tiny_models.tflite(odd)
    with place(board, tmp_path, env='{ ODD = "a b; $(exit 1)" }') as device:
        report = bench([odd], blocks=6, min_seconds=0.05, device=device)
        assert sorted(p.suffix for p in Path(device.folder).iterdir()) == [*[".npy"] * 5, ".pyz", ".tflite"]
    assert report.device == "board"
    assert report.runs[0].notes[0] == "outputs on board are bit for bit those here, on 4 random inputs"
    assert {state["round"] for state in report.runs[0].states} == set(range(6))
    assert not list(tmp_path.glob("edgecnn.*"))


def test_keep_leaves_the_folder(board: loopback.Loopback, tmp_path: Path) -> None:
    name, profile = load_device(str(board.device(work_folder=f'"{tmp_path}"')))
    with Remote(name, profile, keep=True) as device:
        pass
    assert Path(device.folder).is_dir()


def test_an_unknown_host_key_is_refused_whatever_the_configuration_says(board: loopback.Loopback) -> None:
    (board.folder / "empty").write_text("")
    board.write_config(known="empty")
    try:
        with pytest.raises(DeviceFailed, match="by hand and compare the key"):
            run(connect(*load_device(str(board.device()))), ["true"])
        assert (board.folder / "empty").read_text() == ""
    finally:
        board.write_config()


def test_a_cut_connection_is_told_as_such_and_ends_the_agent(board: loopback.Loopback, tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with place(board, tmp_path) as device:
        with Worker(str(path), threads=1, place=device) as worker:
            worker.ask("first")
            board.cut()
            with pytest.raises(DeviceFailed) as caught:
                worker.ask("block", seconds=1)
        assert caught.value.what == "no connection to `board`"
        assert caught.value.exit_code == 3
    assert not list(tmp_path.glob("edgecnn.*"))  # a new connection could still be made


def test_a_device_lost_for_good_says_what_is_left_there(board: loopback.Loopback, tmp_path: Path) -> None:
    try:
        with (
            pytest.raises(DeviceFailed, match="was lost before its folder could be removed") as caught,
            place(board, tmp_path),
        ):
            board.stop()
        assert "edgecnn." in (caught.value.do or "")
    finally:
        board.start()


def test_a_damaged_copy_is_not_opened(board: loopback.Loopback, tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with place(board, tmp_path) as device:
        there = Path(device.put(str(path))["path"])
        content = bytearray(there.read_bytes())
        content[100] ^= 1
        there.write_bytes(content)
        with pytest.raises(Exception, match="arrived damaged"):
            Worker(str(path), threads=1, place=device)


def test_no_python_and_no_folder_are_explained(board: loopback.Loopback, tmp_path: Path) -> None:
    with place(board, tmp_path, python='"/no/such/python3"') as device:
        agent = Agent(device, subject="board")
        with agent, pytest.raises(DeviceFailed, match="has no `/no/such/python3`"):
            agent.ask("machine")
    with pytest.raises(DeviceFailed, match="cannot make a folder on `board`"), place(board, tmp_path / "none"):
        pass


def test_a_full_disk_is_told(board: loopback.Loopback, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with pytest.raises(DeviceFailed, match="`board` has no space left") as caught:
        connect(*load_device(str(board.device()))).push(path, "/dev/full")
    assert "make room" in (caught.value.do or "")


def test_cores_bind_the_agent(board: loopback.Loopback, tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    first = min(os.sched_getaffinity(0))
    with place(board, tmp_path, cores=f"[{first}]") as device, Worker(str(path), threads=1, place=device) as worker:
        assert worker.about["machine"]["cores"] == 1
    with place(board, tmp_path, cores="[4095]") as device, pytest.raises(Exception, match="cannot bind to the cores"):
        Worker(str(path), threads=1, place=device)


def test_cycles_leave_no_process_file_or_descriptor(board: loopback.Loopback, tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    cycles = int(os.environ.get("EDGECNN_TEST_CYCLES", "4"))
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(cycles):
        with place(board, tmp_path) as device, Worker(str(path), threads=1, place=device) as worker:
            worker.ask("block", seconds=0.001)
    assert not list(tmp_path.glob("edgecnn.*"))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in running.splitlines() if str(tmp_path) in line and "--worker" in line]


def test_what_the_device_computes_otherwise_is_found(board: loopback.Loopback, tmp_path: Path) -> None:
    from edgecnn.bench.same_there import judge
    from edgecnn.errors import CheckFailed

    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, 1000).astype(np.int8)
    near = np.clip(codes + rng.integers(-1, 2, 1000), -128, 127).astype(np.int8)
    found = judge([codes], [near], inputs=1, path="a", device="board")
    assert (found.largest, found.values) == (1.0, 1000)
    assert found.equal == int(np.sum(codes == near))
    for other in (np.roll(codes, 1), np.zeros_like(codes), codes[::-1].copy()):
        with pytest.raises(CheckFailed, match="does not compute what this machine computes"):
            judge([codes], [other], inputs=1, path="a", device="board")
    floats = rng.standard_normal(1000).astype(np.float32)
    broken = floats.copy()
    broken[3] = np.nan
    for wrong in (broken, floats.astype(np.float64), floats[:-1]):
        with pytest.raises(CheckFailed):
            judge([floats], [wrong], inputs=1, path="a", device="board")
