"""Claims about a comparison: what they mean, what a measurement says of them, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models

from edgecnn.__main__ import main
from edgecnn.bench.claim import Claim, parse_claim
from edgecnn.bench.records import BenchReport, Measured, summarize
from edgecnn.errors import UsageError

ABOUT = {"engine": {"name": "any", "version": "1"}, "facts": {}, "machine": {}}


def report(*medians: float, noise: float = 0.01) -> BenchReport:
    rng = np.random.default_rng(0)
    measured = [
        Measured(str(i), tuple(1e6 * m * rng.normal(1, noise, 50) for _ in range(20)), 1.0, (1,), (1,), 2, 1, ABOUT)
        for i, m in enumerate(medians)
    ]
    runs = tuple(summarize(m, measured[0], threads=1, seed=0) for m in measured)
    return BenchReport(runs, {}, {}, 1, 1.0, 2, 0)


@pytest.mark.parametrize(
    ("text", "claim"),
    [("B < A", Claim(1, 0, 0)), ("A<B by 2%", Claim(0, 1, 0.02)), (" C < A by 12.5 % ", Claim(2, 0, 0.125))],
)
def test_claims_are_read(text: str, claim: Claim) -> None:
    assert parse_claim(text, ["a", "b", "c"]) == claim
    assert parse_claim(str(claim), ["a", "b", "c"]) == claim


@pytest.mark.parametrize("text", ["", "B > A", "A < A", "C < A", "B < A by 2", "B < A by 100%", "B < A by -1%", "b<a"])
def test_what_is_no_claim_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_claim(text, ["a", "b"])


def test_a_claim_holds_only_if_the_whole_interval_does() -> None:
    measured = report(1.0, 0.9)
    outcomes = {by: Claim(1, 0, by).judge(measured).outcome for by in (0.0, 0.05, 0.1, 0.15)}
    assert outcomes == {0.0: "holds", 0.05: "holds", 0.1: "no significant difference", 0.15: "refuted"}
    assert Claim(0, 1, 0.0).judge(measured).outcome == "refuted"
    assert Claim(1, 0, 0.0).judge(report(1.0, 1.0)).outcome == "no significant difference"


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = tmp_path / "small.tflite", tmp_path / "large.onnx"
    tiny_models.tflite(small)
    command = ["bench", str(small), str(tiny_models.onnx_int8(large)), "--blocks", "6", "--min-seconds", "0.1"]
    assert main([*command, "--assert", "B < A by 99.9%"]) == 1
    assert "`B < A by 99.9%` was not shown" in capsys.readouterr().err
    assert main([*command, "--assert", "C < A"]) == 2
    (tmp_path / "far.toml").write_text('transport = "ssh"\nhost = "nowhere.invalid"\n')
    assert main([*command, "--device", str(tmp_path / "far.toml"), "--assert", "A < B"]) in (3, 5)  # 5: no ssh here
