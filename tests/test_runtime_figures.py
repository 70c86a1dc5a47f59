"""What is measured beside the inference: copies, pixels, cold starts, readings every 100 ms, ONNX Runtime's profile."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.bench.worker import Worker
from edgecnn.runtime.cpu import parse_cpuinfo
from edgecnn.runtime.errors import BadRequest
from edgecnn.runtime.measure import Measurement
from edgecnn.runtime.ort_profile import summarize
from edgecnn.runtime.prepare import preparation
from edgecnn.runtime.tensor import TensorSpec
from edgecnn.runtime.timed import timed_block
from edgecnn.runtime.worker import run_job


def test_readings_come_every_100_ms_and_at_the_end() -> None:
    readings = iter(range(1000))

    def read() -> dict[str, Any]:
        return {"temps_c": {"cpu": float(next(readings))}}

    found = timed_block(lambda: time.sleep(0.02), read=read, seconds=0.45, min_runs=3, max_runs=1000)
    at = [state["at_ns"] / 1e9 for state in found["states"]]
    assert 4 <= len(at) <= 5
    assert all(0.1 <= b - a <= 0.2 for a, b in itertools.pairwise(at[:-1]))
    assert at[-1] == found["wall_ns"] / 1e9
    assert sum(found["samples_ns"]) < found["wall_ns"]
    short = timed_block(lambda: None, read=read, seconds=10, min_runs=1, max_runs=5)
    assert (len(short["samples_ns"]), len(short["states"])) == (5, 1)


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def metadata(layout: str, *, embedded: bool = False, litert: bool = False) -> dict[str, str]:
    known = {
        "edgecnn.preprocessing": json.dumps({"mean": MEAN, "std": STD, "embedded": embedded}),
        "edgecnn.input": json.dumps({"layout": layout}),
    }
    return {"edgecnn": json.dumps(known)} if litert else known


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("litert", [False, True])
def test_pixels_become_what_the_net_expects(layout: str, dtype: str, litert: bool) -> None:
    shape = (2, 4, 5, 3) if layout == "NHWC" else (2, 3, 4, 5)
    spec = TensorSpec("x", shape, dtype, 0.02, 3) if dtype != "float32" else TensorSpec("x", shape, dtype)
    (made,) = preparation([spec], metadata(layout, litert=litert), seed=4)()
    pixels = np.random.default_rng(4).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    values = (pixels / 255 - MEAN) / STD
    if dtype != "float32":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values / 0.02) + 3, info.min, info.max)
    expected = values if layout == "NHWC" else values.transpose(0, 3, 1, 2)
    assert made.dtype == dtype
    np.testing.assert_allclose(made, expected.astype(dtype), rtol=1e-6)


def test_embedded_normalisation_takes_pixels_as_they_are() -> None:
    spec = TensorSpec("x", (1, 2, 2, 3), "uint8", 1.0, 0)
    (made,) = preparation([spec], metadata("NHWC", embedded=True), seed=1)()
    assert np.array_equal(made, np.random.default_rng(1).integers(0, 256, (1, 2, 2, 3), dtype=np.uint8))


@given(st.dictionaries(st.sampled_from(["edgecnn", "edgecnn.input", "edgecnn.preprocessing"]), st.text(max_size=20)))
def test_metadata_that_says_nothing_is_told(known: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="does not say"):
        preparation([TensorSpec("x", (1, 2, 2, 3), "float32")], known)
    for spec in (TensorSpec("x", (1, 8), "float32"), TensorSpec("x", (1, 2, 2, 4), "float32")):
        with pytest.raises(BadRequest, match="does not say"):
            preparation([spec], metadata("NHWC"))


def test_copies_cost_something_and_cold_starts_more_than_warm_ones(tmp_path: Path) -> None:
    path = tiny_models.tflite(tmp_path / "it's a $(net).tflite", size=64, channels=64)
    with Worker(str(path), threads=1) as worker:
        kernel, copies = (
            np.median(worker.ask("block", seconds=0.2, of=figure)["samples_ns"]) for figure in ("kernel", "copies")
        )
        assert copies > kernel
        with pytest.raises(Exception, match="does not say how a picture"):
            worker.ask("block", seconds=0.1, of="whole")
        with pytest.raises(Exception, match="unknown figure `tea`"):
            worker.ask("block", seconds=0.1, of="tea")
        cold = worker.ask("cold", starts=2)["cold_ns"]
        assert len(cold) == 2
        assert min(cold) > 20e6  # no interpreter with numpy and an engine starts in 20 ms
        path.write_bytes(b"")
        with pytest.raises(Exception, match="no result"):
            worker.ask("cold", starts=1)


def test_the_profile_of_onnx_runtime_names_the_nodes(tmp_path: Path) -> None:
    path = tiny_models.onnx_float(tmp_path / "net.onnx")
    with Worker(str(path), threads=1) as worker:
        nodes = worker.ask("profile", runs=3)["nodes"]
    assert {node["kind"] for node in nodes} >= {"Conv"}
    assert all(node["median_ns"] >= 0 for node in nodes)
    assert not list(tmp_path.glob("*.json"))
    lite = tiny_models.tflite(tmp_path / "net.tflite")
    with Worker(str(lite), threads=1) as worker, pytest.raises(Exception, match="has no profiler"):
        worker.ask("profile", runs=3)


def test_events_of_the_profiler_by_hand() -> None:
    def event(name: str, dur: int, kind: str = "Conv", cat: str = "Node") -> dict[str, Any]:
        return {"name": name, "cat": cat, "dur": dur, "args": {"op_name": kind, "node_index": "1"}}

    events = [event("a/b_token_12_kernel_time", dur) for dur in (100, 1, 2, 9)]
    events += [event("a/b_fence_before", 5), event("model_run", 9, cat="Session"), {"name": 3}]
    assert summarize(events, runs=3) == [{"name": "a/b", "kind": "Conv", "median_ns": 2000.0}]


VALUES = st.none() | st.integers(-3, 3) | st.text(max_size=4) | st.lists(st.integers(-1, 9), max_size=3) | st.floats()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(["threads", "engine", "shapes", "inputs", "seed", "blocks", "x"]), VALUES))
def test_no_job_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, job: dict[str, Any]) -> None:
    folder = tmp_path_factory.getbasetemp() / "jobs"
    folder.mkdir(exist_ok=True)
    tiny_models.tflite(folder / "net.tflite")
    short = {"artifact": "net.tflite", "blocks": 1, "block_seconds": 0.001, "warm_runs": 0, "max_runs": 3}
    (folder / "job.json").write_text(json.dumps({**short, **job}))
    record = run_job(str(folder / "job.json"))
    assert ("error" in record) != ("blocks" in record)


@given(st.binary(max_size=80))
def test_no_bytes_as_a_job_end_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "job.json"
    path.write_bytes(content)
    assert "error" in run_job(str(path))


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from(["CPU part", "Features", "flags", "model name"])).map(
        lambda keys: "\n".join(f"{key}\t: {key[0]}" for key in keys)
    )
)
def test_no_cpuinfo_can_break_its_parser(text: str) -> None:
    model, flags = parse_cpuinfo(text)
    assert isinstance(model, str)
    assert isinstance(flags, frozenset)


def test_a_measurement_needs_no_feeding(tmp_path: Path) -> None:
    measurement = Measurement(str(tiny_models.tflite(tmp_path / "net.tflite")))
    assert measurement.block(seconds=0.01, of="copies")["samples_ns"]
    measurement.close()
