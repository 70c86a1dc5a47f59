"""Saved measurements: read strictly, compared only under like conditions, told apart where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.__main__ import main
from edgecnn.bench.saved import SavedReport, compare, load_saved
from edgecnn.errors import InputError


def saved(*medians: float, seed: int = 0, **other: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    runs = [
        {
            "artifact": f"net{i}.tflite",
            "sha256": "0" * 64,
            "engine": {"name": "ai-edge-litert", "version": "2.3.0"},
            "inputs": [{"name": "x", "shape": [1, 8], "dtype": "int8"}],
            "unstable": [],
            "blocks_ns": [[int(1e6 * m * rng.normal(1, 0.01)) for _ in range(40)] for _ in range(20)],
        }
        for i, m in enumerate(medians)
    ]
    report = {"schema": 1, "runs": runs, "machine": {"cpu": "any"}, "versions": {}, "threads": 1, "min_seconds": 1.0}
    return {**report, "blocks": 20, "processes": 2, "seed": 0, "device": None, **other}


def test_ratios_refer_to_the_first_artifact_of_the_first_file() -> None:
    one, two = (SavedReport.model_validate(r) for r in (saved(1.0, 0.5), saved(2.0, seed=1)))
    rows = compare([("one", one), ("two", two)])
    assert rows[0].verdict == "the reference"
    assert [round(row.ratio or 1, 1) for row in rows] == [1.0, 0.5, 2.0]
    assert all(row.ci95.low < row.ratio < row.ci95.high for row in rows[1:] if row.ci95 and row.ratio)
    assert not any(row.unlike for row in rows)


def test_the_same_thing_measured_twice_is_no_difference() -> None:
    one, two = (SavedReport.model_validate(saved(1.0, seed=seed)) for seed in (0, 1))
    assert compare([("one", one), ("two", two)])[1].verdict == "no significant difference"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 2}, "threads: 1 there, 2 here"),
        ({"device": "pi5"}, "device: this machine there, pi5 here"),
        ({"machine": {"cpu": "other"}}, "processor: any there, other here"),
        ({"machine": {"cpu": "any", "governors": ["ondemand"]}}, "governors: None there, ['ondemand'] here"),
    ],
)
def test_unlike_measurements_are_refused_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(saved(1.0)))
    (tmp_path / "b.json").write_text(json.dumps(saved(1.0, **change)))
    command = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(command) == 1
    assert said in capsys.readouterr().err
    assert main([*command, "--anyway", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][1]["unlike"] == [said]


def test_what_bench_saves_is_what_compare_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = tiny_models.tflite(tmp_path / "net.tflite"), tmp_path / "run.json"
    assert main(["bench", str(path), "--min-seconds", "0.05", "--blocks", "6", "--save", str(file)]) == 0
    assert len(load_saved(file).runs[0].sha256) == 64
    capsys.readouterr()
    assert main(["compare", str(file), str(file), "--json"]) == 0
    assert [row["ratio"] for row in json.loads(capsys.readouterr().out)["rows"]] == [None, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"schema": 2}',
        json.dumps({**saved(1.0), "schema": 2}),
        json.dumps(saved()),
        "[" * 100_000,
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError):
        load_saved(tmp_path / "x.json")


@given(st.data())
def test_a_report_with_one_field_missing_is_refused(data: st.DataObject) -> None:
    import tempfile

    content = saved(1.0)
    part = data.draw(st.sampled_from([content, content["runs"][0]]))
    del part[data.draw(st.sampled_from(sorted(part)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InputError):
            load_saved(path)
