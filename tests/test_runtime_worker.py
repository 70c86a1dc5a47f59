"""Driving a measurement from outside: requests on a pipe, and job files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from edgecnn.bench.worker import Worker
from edgecnn.errors import InputError, UsageError
from edgecnn.runtime.worker import main, run_job
from edgecnn.targets.engine import open_session


def test_a_worker_loads_times_and_computes(tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 16)).astype(np.int8)
    np.save(tmp_path / "x.npy", x)
    with Worker(str(path), threads=1) as worker:
        assert worker.about["facts"]["partitions"] == 1
        assert worker.about["load_ns"] > 0
        assert worker.ask("first")["first_ns"] > 0
        assert worker.ask("warm", runs=2) == {}
        block = worker.ask("block", seconds=60, max_runs=7)
        assert len(block["samples_ns"]) == 7
        assert sum(block["samples_ns"]) <= block["wall_ns"]
        worker.ask("run", files=[str(tmp_path / "x.npy")], out=[str(tmp_path / "y.npy")])
        memory = worker.ask("memory")
        assert memory["peak_rss_bytes"] > memory["before_rss_bytes"]
        with pytest.raises(UsageError, match=r"cannot be read as \.npy"):
            worker.ask("feed", files=[str(path)])
        with pytest.raises(UsageError, match="wrong arguments"):
            worker.ask("block", minutes=1)
        with pytest.raises(UsageError, match="unknown request 'fly'"):
            worker.ask("fly")
    session = open_session(path)
    assert np.array_equal(np.load(tmp_path / "y.npy"), session.run([x])[0])
    session.close()


def test_what_the_engine_prints_cannot_be_taken_for_an_answer(tmp_path: Path) -> None:
    """The worker's own stdout is the protocol: a print to descriptor 1 from native code lands on stderr."""
    path = tiny_models.tflite(tmp_path / "net.tflite")
    code = (
        "import os, edgecnn.runtime.measure as m\n"
        "warm = m.Measurement.warm\n"
        "m.Measurement.warm = lambda self, *, runs: (os.write(1, b'native noise\\n'), warm(self, runs=runs))[1]\n"
        "from edgecnn.runtime.worker import main\n"
        "main(['--worker'])\n"
    )
    requests = [{"do": "load", "path": str(path)}, {"do": "warm", "runs": 1}, {"do": "quit"}]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="".join(json.dumps(r) + "\n" for r in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True, True]
    assert "native noise" in done.stderr


def test_requests_before_load_and_lines_that_are_no_requests() -> None:
    lines = ['{"do": "first"}', "not json", "[1]", '{"do": "quit"}', '{"do": "first"}']
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn.runtime", "--worker"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["error"]["what"].split(":")[0] for a in answers] == [
        "`first` before `load`",
        "a request is no JSON",
        "unknown request None",
    ]


def test_a_worker_that_dies_is_reported_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")  # something that speaks when the process is aborted
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with Worker(str(path), threads=1) as worker:
        worker._process.send_signal(signal.SIGABRT)
        worker._process.wait()
        with pytest.raises(InputError) as caught:
            worker.ask("first")
    assert caught.value.what == "the process that measures `net.tflite` died on `first` (signal 6)"
    assert "Extension modules" in (caught.value.got or "")  # the end of what the fault handler prints


def test_a_worker_that_is_killed_has_no_last_words(tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with Worker(str(path), threads=1) as worker:
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(InputError) as caught:
            worker.ask("first")
    assert caught.value.what == "the process that measures `net.tflite` died on `first` (signal 9)"
    assert caught.value.got is None


def test_a_module_in_the_current_folder_does_not_shadow_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with Worker(str(path), threads=1) as worker:
        assert worker.ask("first")["first_ns"] > 0


def job(folder: Path, **content: Any) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"artifact": "none.onnx"}, "`none.onnx` does not exist"),
        ({"artifact": "net.tflite", "threads": 0}, "`threads` of the job is 0"),
        ({"artifact": "net.tflite", "speed": 1}, "unknown keys ['speed'] in the job"),
        ({}, "a job is an object with at least `artifact`, a path"),
    ],
)
def test_bad_jobs_are_told_in_the_run(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    tiny_models.tflite(tmp_path / "net.tflite")
    path = job(tmp_path, **content)
    assert main([str(path), str(tmp_path / "out.json")]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["error"]["what"] == said


def test_a_job_feeds_arrays_from_files(tmp_path: Path) -> None:
    tiny_models.onnx_float(tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 16, 8, 8), np.float32))
    run = run_job(str(job(tmp_path, artifact="net.onnx", inputs=["x.npy"], blocks=1, block_seconds=0.001)))
    assert len(run["blocks"]) == 1
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), np.float32))
    run = run_job(str(job(tmp_path, artifact="net.onnx", inputs=["x.npy"])))
    assert run["error"]["what"].startswith("input `x0` takes float32 of shape [1, 16, 8, 8]")


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 2
    assert "usage: runtime JOB.json" in capsys.readouterr().err
