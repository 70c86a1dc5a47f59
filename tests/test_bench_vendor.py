"""Devices without Python: LiteRT's `benchmark_model`, its output in recorded forms, and whole comparisons with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import vendor_binary
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.bench.profile import profile
from edgecnn.bench.run import bench
from edgecnn.bench.vendor import command
from edgecnn.device.benchmark_text import OpLine, parse_table, parse_timings
from edgecnn.device.place import Remote
from edgecnn.device.profile import load_device
from edgecnn.errors import DeviceFailed, EnvironmentFailure, UsageError
from edgecnn.pipeline.device_check import check_device

# google-research#802, TensorFlow 2.7 on a phone.
NEWER = """STARTING!
Log parameter values verbosely: [0]
Min num runs: [1000]
Graph: [/data/local/tmp/model.tflite]
Loaded model /data/local/tmp/model.tflite
The input model file size (MB): 1.41812
Initialized session in 17.851ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=478 first=2104 curr=1017 min=1012 max=2104 avg=1041.15 std=63

Running benchmark for at least 1000 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=1000 first=1040 curr=1018 min=1012 max=1190 avg=1039.66 std=22

Inference timings in us: Init: 17851, First inference: 2104, Warmup (avg): 1041.15, Inference (avg): 1039.66
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE
Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227
"""
# mozilla/DeepSpeech#2270, TensorFlow 1.14.
OLDER = """count=50 first=23111 curr=23305 min=22905 max=24502 avg=23313.5 std=301
Average inference timings in us: Warmup: 27917.4, Init: 21528106, no stats: 23313.5
============================== Run Order ==============================
          [node type]       [start]    [first]   [avg ms]       [%]     [cdf%]   [mem KB]   [times called] [Name]
             DELEGATE         0.000     21.227     21.287   91.329%    91.329%      0.000        1   [a/BiasAdd]
                SPLIT        21.287      0.015      0.013    0.056%    91.385%      0.000        1  [a/split, a/split:1]

============================== Top by Computation Time ==============================
          [node type]       [start]    [first]   [avg ms]       [%]     [cdf%]   [mem KB]   [times called] [Name]
             DELEGATE         0.000     21.227     21.287   91.329%    91.329%      0.000        1   [a/BiasAdd]
"""
CSV = """============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0.2, 0.25, 25.0%, 25.0%, 0, 1, [net/conv]:0
Softmax (NC, F32), 0.7, 0.75, 75.0%, 100.0%, 0, 2, Delegate/Softmax:1
"""


def test_timings_as_newer_and_older_binaries_print_them() -> None:
    found = parse_timings(NEWER)
    assert found is not None
    assert (found.count, found.avg_us, found.min_us, found.max_us) == (1000, 1039.66, 1012.0, 1190.0)
    assert (found.init_us, found.first_us, found.memory_mb) == (17851.0, 2104.0, 18.7227)
    assert found.median_us is None
    assert found.delegate is None
    old = parse_timings(OLDER)
    assert old is not None
    assert (old.avg_us, old.init_us, old.first_us, old.memory_mb) == (23313.5, 21528106.0, None, None)
    newest = parse_timings("INFO: count=5 first=9 curr=9 min=7 max=9 avg=8 std=1 p5=7 median=8.5 p95=9")
    assert newest is not None
    assert newest.median_us == 8.5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("and the model graph will be completely executed by the delegate.", "completely"),
        ("will be partially executed by the delegate w/ 3 delegate kernels.", "partially"),
        ("Though XNNPACK delegate is explicitly applied, the model graph will not be executed by the delegate.", None),
    ],
)
def test_what_the_delegate_took(line: str, expected: str | None) -> None:
    found = parse_timings(f"INFO: Explicitly applied XNNPACK delegate, {line}\n{NEWER}")
    assert found is not None
    assert found.delegate == (expected or "not at all")


def test_no_timings_after_a_failure() -> None:
    assert parse_timings("") is None
    assert parse_timings("ERROR: Failed to open graph\nBenchmarking failed.") is None
    assert parse_timings("count=0 avg=1") is None


def test_tables_of_the_profiler() -> None:
    assert parse_table(OLDER) == [
        OpLine("DELEGATE", "a/BiasAdd", 21.287, 1),
        OpLine("SPLIT", "a/split, a/split:1", 0.013, 1),
    ]
    assert parse_table(CSV) == [
        OpLine("CONV_2D", "net/conv", 0.25, 1),
        OpLine("Softmax (NC, F32)", "Delegate/Softmax:1", 0.75, 2),
    ]
    assert parse_table("no table") == []


LINE = st.text(max_size=30) | st.sampled_from([*NEWER.splitlines(), *OLDER.splitlines(), *CSV.splitlines()])


@given(st.lists(LINE, max_size=12), st.integers(0, 60))
def test_nothing_printed_can_break_the_parsers(lines: list[str], cut: int) -> None:
    text = "\n".join(line[: len(line) - cut % (len(line) + 1)] for line in lines)
    timings = parse_timings(text)
    assert timings is None or (timings.count > 0 and timings.avg_us >= 0)
    for row in parse_table(text):
        assert row.avg_ms >= 0


def place(folder: Path, *, new: bool = True, more: str = "") -> Remote:
    vendor_binary.write(folder / "benchmark model", new=new)
    file = folder / "phone.toml"
    file.write_text(f'transport = "local"\nbenchmark_model = "benchmark model"\nwork_folder = "{folder}"\n{more}')
    return Remote(*load_device(str(file)))


def test_a_comparison_by_the_binary(tmp_path: Path) -> None:
    small = tiny_models.tflite(tmp_path / "small.tflite")
    large = tiny_models.tflite(tmp_path / "large.tflite", size=56, channels=64)
    with place(tmp_path) as device:
        report = bench([small, large], blocks=6, min_seconds=0.06, device=device)
    a, b = report.runs
    assert b.ratio_ci95.low > 5
    assert (a.p90_ms, a.p99_ms, a.samples) == (None, None, 6)
    assert a.notes[0] == "outputs on phone are bit for bit those here, on 1 random inputs"
    assert "no single samples" in a.notes[1]
    assert "rounds hold the median" in a.notes[1]
    assert a.median_ms < 1000  # not the warm-up's line
    assert a.peak_mb == pytest.approx(18.7227)
    assert report.versions["benchmark_model"] == "not told"
    assert report.to_json()["runs"][0]["p90_ms"] is None
    assert not list(tmp_path.glob("edgecnn.*"))


def test_an_older_binary_says_less(tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with place(tmp_path, new=False, more="cores = [0]\n") as device:
        run = bench([path], blocks=6, min_seconds=0.06, device=device).runs[0]
        assert command("b", "g", threads=1, device=device)[:2] == ["taskset", "1"]
    assert run.notes[0] == "outputs were not compared: this benchmark_model writes none"
    assert "rounds hold the mean" in run.notes[1]


def test_what_the_binary_cannot_run_is_refused(tmp_path: Path) -> None:
    onnx = tiny_models.onnx_float(tmp_path / "net.onnx")
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with place(tmp_path) as device:
        with pytest.raises(UsageError, match=r"runs \.tflite files only"):
            bench([onnx], device=device)
        (tmp_path / "benchmark model").write_text("#!/bin/sh\necho cannot execute; exit 1\n")
        with pytest.raises(DeviceFailed, match="gave no timings"):
            bench([path], blocks=6, min_seconds=0.06, device=device)
        (tmp_path / "benchmark model").unlink()
        with pytest.raises(EnvironmentFailure, match="no such binary"):
            bench([path], device=device)


def test_its_profile_and_its_check(tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite")
    with place(tmp_path) as device:
        found = profile(str(path), device=device)
    assert [(row.name, row.op, row.kind, row.latency_us) for row in found.rows] == [
        ("Delegate/Conv:0", "Delegate", "Convolution (NHWC, QC8) IGEMM", 750.0),
        ("net/mul", "net", "MUL", 250.0),
    ]
    findings = {finding.what: finding for finding in check_device(*load_device(str(tmp_path / "phone.toml")))}
    assert findings["benchmark_model"].status == "ok"
    assert findings["memory"].status == "ok"
