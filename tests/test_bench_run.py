"""The comparison: order of the rounds, what is reported, doubts, and errors; with a scripted worker and real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_models

from edgecnn.artifact import sha256_of_file
from edgecnn.bench import run as run_module
from edgecnn.bench.run import bench
from edgecnn.errors import InputError, UsageError

Samples = Callable[[str, int], list[int]]


class ScriptedWorker:
    """Answers like a worker, with the samples that `samples(path, round)` gives, and keeps what it was asked."""

    log: ClassVar[list[str]]
    samples: ClassVar[Samples]
    cpu_share: ClassVar[float]
    facts: ClassVar[dict[str, Any]]

    def __init__(self, path: str, *, threads: int, shapes: dict[str, tuple[int, ...]], place: None) -> None:
        self.path, self.round = path, -1  # the first block is the warm-up
        machine = {"cpu": "any", "python": "3.12", "numpy": "2.0"}
        self.about = {"load_ns": 5_000_000, "machine": machine, "facts": self.facts, "engine": ENGINE}

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        if request == "block" and arguments.get("of", "kernel") != "kernel":
            return self.other(arguments["of"])
        if request == "block":
            self.round += 1
            if self.round == 0:
                return {}
            self.log.append(Path(self.path).stem)
            got = self.samples(self.path, self.log.count(Path(self.path).stem) - 1)
            return {"samples_ns": got, "wall_ns": 1000, "cpu_ns": int(1000 * self.cpu_share)}
        answers = {"feed": {}, "first": {"first_ns": 9_000_000}, "cold": {"cold_ns": [80_000_000]}}
        return {**answers, "memory": MEMORY, "energy": ENERGY}[request]

    def other(self, figure: str) -> dict[str, Any]:
        if figure == "whole":
            raise UsageError("this artifact does not say")
        return {"samples_ns": [3_000_000]}

    def __enter__(self) -> ScriptedWorker:
        return self

    def __exit__(self, *failure: object) -> None:
        return


ENGINE = {"name": "ai-edge-litert", "version": "2.3.0"}
ENERGY = {"unavailable": "no sensor"}
MEMORY = {"peak_rss_bytes": 50_000_000, "before_rss_bytes": 40_000_000}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedWorker]:
    class Script(ScriptedWorker):
        log: ClassVar[list[str]] = []
        samples = staticmethod(lambda path, turn: [1_000_000, 1_000_000, 1_000_000])
        cpu_share = 1.0
        facts: ClassVar[dict[str, Any]] = {"operators": 4, "delegated": 4, "partitions": 1}

    monkeypatch.setattr(run_module, "Worker", Script)
    return Script


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{name}.tflite" for name in "ABC"]
    for path in found:
        path.write_bytes(b"something")
    return found


def test_rounds_go_there_and_back_in_every_set_of_processes(scripted: type[ScriptedWorker], paths: list[Path]) -> None:
    bench(paths, blocks=6, processes=2)
    assert "".join(scripted.log) == "ABC" + "CBA" + "ABC" + "ABC" + "CBA" + "ABC"


def test_the_report_by_hand(scripted: type[ScriptedWorker], paths: list[Path]) -> None:
    times = {"A": 2_000_000, "B": 1_000_000, "C": 3_000_000}
    scripted.samples = staticmethod(lambda path, turn: [times[Path(path).stem]] * 10)
    report = bench(paths, blocks=6, min_seconds=1.0, threads=2, seed=7)
    assert [r.verdict for r in report.runs] == ["the reference", "2.00 times faster", "1.50 times slower"]
    content = json.loads(json.dumps(report.to_json()))
    assert set(content) == {
        *("runs", "machine", "versions", "threads", "min_seconds", "blocks", "processes", "seed"),
        *("device", "notes", "schema", "shapes"),
    }
    assert content["runs"][1] == {
        "artifact": str(paths[1]),
        "median_ms": 1.0,
        "ci95_ms": [1.0, 1.0],
        "min_ms": 1.0,
        "p90_ms": 1.0,
        "p99_ms": 1.0,
        "ratio": 0.5,
        "ratio_ci95": [0.5, 0.5],
        "verdict": "2.00 times faster",
        "first_ms": 9.0,
        "load_ms": 5.0,
        "copies_ms": 3.0,
        "whole_ms": None,
        "cold_ms": 80.0,
        "energy": ENERGY,
        "peak_mb": 50.0,
        "model_mb": 10.0,
        "cpu_share": 1.0,
        "samples": 60,
        "unstable": [],
        "notes": ["no `whole` figure: this artifact does not say"],
        "engine": ENGINE,
        "sha256": sha256_of_file(paths[1]),
        "inputs": [],
    }
    assert report.to_json(samples=True)["runs"][1]["blocks_ns"] == [[1_000_000] * 10] * 6


def test_no_difference_is_an_answer(scripted: type[ScriptedWorker], paths: list[Path]) -> None:
    rng = np.random.default_rng(0)
    scripted.samples = staticmethod(lambda path, turn: (1e6 * np.exp(rng.normal(0, 0.02, 9))).astype(int).tolist())
    report = bench(paths[:2], blocks=12)
    assert report.runs[1].verdict == "no significant difference"
    assert 1.0 in report.runs[1].ratio_ci95


def test_doubts_are_told(scripted: type[ScriptedWorker], paths: list[Path]) -> None:
    scripted.samples = staticmethod(lambda path, turn: [1_000_000 + 100_000 * turn])
    scripted.cpu_share = 0.5
    run = bench(paths[:1], blocks=6).runs[0]
    # Medians 1.0 to 1.5 ms in steps of 0.1: thirds 1.05 and 1.45; quartiles 1.125 and 1.375 around 1.25.
    assert run.unstable == (
        "the last third is 38% slower than the first",
        "the middle half of the blocks' medians spreads over 20%",
        "it got only 50% of a core; other programs were running",
    )


def test_operators_outside_of_the_delegate_are_told(scripted: type[ScriptedWorker], paths: list[Path]) -> None:
    scripted.facts = {"operators": 4, "delegated": 3, "partitions": 2}
    assert bench(paths[:1], blocks=6, extras=False).runs[0].notes == ("1 of 4 operators run outside of XNNPACK",)
    scripted.facts = {"operators": 4, "delegated": 0, "partitions": 0}
    assert bench(paths[:1], blocks=6, extras=False).runs[0].notes[0].startswith("XNNPACK took none of its operators")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threads": 0}, "UsageError: 0 threads\n  expected at least 1"),
        ({"blocks": 3}, "UsageError: 3 blocks\n  expected at least 6"),
        ({"processes": 0}, "UsageError: 0 processes\n  expected at least 1"),
        (
            {"processes": 9, "blocks": 8},
            "UsageError: 9 processes for 8 blocks\n  expected at most one process per block",
        ),
        ({"min_seconds": 0}, "UsageError: min-seconds of 0\n  expected more than 0, at most a day"),
    ],
)
def test_numbers_that_make_no_sense(paths: list[Path], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        bench(paths, **options)
    assert str(caught.value) == said


def test_no_artifacts_the_same_twice_and_files_that_are_none(tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(UsageError, match="no artifacts to measure"):
        bench([])
    with pytest.raises(UsageError, match="is given twice"):
        bench([paths[0], paths[0]])
    with pytest.raises(InputError, match=r"`none\.onnx` does not exist"):
        bench([tmp_path / "none.onnx"])
    with pytest.raises(InputError, match=r"no engine runs `net\.engine`"):
        bench([tmp_path / "net.engine"])
    with pytest.raises(InputError, match=r"`A\.tflite` is not a TFLite model"):
        bench(paths[:1])


def test_real_artifacts_of_both_engines(tmp_path: Path) -> None:
    """The large net does 600 times the multiply-adds of the small one: no load of the machine turns that round."""
    small = tiny_models.tflite(tmp_path / "small.tflite")
    large = tiny_models.tflite(tmp_path / "large.tflite", size=56, channels=64, activation="builtin")
    other = tiny_models.onnx_float(tmp_path / "two_inputs.onnx", inputs=2)
    lines: list[str] = []
    report = bench([small, large, other], min_seconds=0.12, blocks=6, processes=1, progress=lines.append)
    _, second, third = report.runs
    assert second.ratio_ci95.low > 5
    assert second.verdict.endswith("times slower")
    assert second.notes[-1] == "1 of 3 operators run outside of XNNPACK"
    assert report.versions.keys() >= {"edgecnn", "python", "numpy", "ai-edge-litert", "onnxruntime"}
    assert third.engine["name"] == "onnxruntime"
    for run in report.runs:
        # Means of neighbouring samples may differ in the last bit from the sample that both are.
        assert run.ci95.low * (1 - 1e-12) <= run.median_ms <= run.ci95.high * (1 + 1e-12)
        assert run.median_ms <= run.p90_ms <= run.p99_ms
        assert run.first_ms > 0
        assert run.load_ms > 0
        assert run.copies_ms > run.min_ms
        assert run.cold_ms > run.load_ms
        assert run.whole_ms is None  # these files do not say what a picture becomes
        assert run.peak_mb > run.model_mb > 0
        assert len(run.blocks) == 6
    assert len(lines) == 1
