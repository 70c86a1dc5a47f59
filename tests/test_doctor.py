"""The doctor's findings: judged by rules on given facts, and run whole on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecnn import doctor
from edgecnn.doctor import Finding
from edgecnn.errors import EnvironmentFailure
from edgecnn.runtime.cpu import CpuFacts


def test_this_machine() -> None:
    findings = doctor.examine()
    found = {finding.what: finding for finding in findings}
    assert len(found) == len(findings)
    assert found["torch"].status == "ok"
    for what, engine in {"int8 in LiteRT": "ai-edge-litert", "int8 in ONNX Runtime": "onnxruntime"}.items():
        assert found[what].found.startswith(f"{engine} {found[engine].found} runs 100% of the probe's multiply-adds")
    json.dumps([finding.to_json() for finding in findings], allow_nan=False)
    assert all(finding.do for finding in findings if finding.status != "ok")


def test_python() -> None:
    assert doctor.python_finding((3, 11)).status == "ok"
    assert doctor.python_finding((3, 14)).do == "use Python 3.10 to 3.13; others are not tested"
    assert doctor.python_finding((3, 9)).status == "warn"


def test_a_package_that_is_missing() -> None:
    assert doctor.package_finding("no-such-package") == Finding(
        "no-such-package", "fail", "not installed", "pip install no-such-package"
    )


@pytest.mark.parametrize(
    ("machine", "features", "status", "advice"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), "ok", None),
        ("x86_64", ("avx2", "avx_vnni"), "ok", None),
        ("x86_64", ("avx2",), "warn", "without VNNI"),
        ("aarch64", ("asimddp",), "ok", None),
        ("aarch64", (), "warn", "without the dot product"),
        ("riscv64", (), "warn", "--cpu"),
    ],
)
def test_processors(machine: str, features: tuple[str, ...], status: str, advice: str | None) -> None:
    finding = doctor.cpu_finding(CpuFacts(machine, "any", 4, features))
    assert finding.status == status
    assert finding.do is None if advice is None else advice in (finding.do or "")


def test_tflite_runtime() -> None:
    assert doctor.tflite_runtime_findings(None, "2.3.0", "2.4.6") == []
    assert doctor.tflite_runtime_findings("2.14.0", "2.3.0", "1.26.0")[0].status == "ok"
    (broken,) = doctor.tflite_runtime_findings("2.14.0", None, "2.4.6")
    assert (broken.status, broken.found) == ("fail", "2.14.0 does not load with NumPy 2.4.6")
    (slow,) = doctor.tflite_runtime_findings("2.14.0", None, "1.26.4")
    assert (slow.status, slow.do) == ("warn", "pip install ai-edge-litert")


def test_runtimes_are_judged_by_what_they_did() -> None:
    good = doctor.judge_runtime("int8 in LiteRT", "ai-edge-litert 2.3.0", 1.0, 3.0, [])
    assert good == Finding(
        "int8 in LiteRT",
        "ok",
        "ai-edge-litert 2.3.0 runs 100% of the probe's multiply-adds in int8, 3.0 times as fast as float32",
    )
    none = doctor.judge_runtime("int8 in LiteRT", "tflite-runtime 2.14.0", 0.0, 0.1, ["CONV_2D"])
    assert (none.status, none.do) == ("warn", "use ai-edge-litert; this build lacks the int8 kernels")
    assert none.found.endswith("outside: CONV_2D")
    slow = doctor.judge_runtime("int8 in ONNX Runtime", "onnxruntime 1.20.0", 1.0, 0.8, [])
    assert slow.status == "warn"


def test_a_runtime_that_does_not_load_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Path:
        raise EnvironmentFailure("LiteRT does not load", do="pip install ai-edge-litert")

    monkeypatch.setattr(doctor, "emit_probe", missing)
    finding = doctor.runtime_finding("LiteRT", "tflite", CpuFacts("x86_64", "any", 1, ()))
    assert (finding.status, finding.do) == ("fail", "pip install ai-edge-litert")
    assert finding.found == "LiteRT does not load"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.folder_finding("cache", tmp_path / "not" / "there" / "yet").status == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert doctor.folder_finding("cache", tmp_path / "x") == Finding(
        "cache", "fail", f"cannot write to {tmp_path / 'x'}", f"make {tmp_path} a folder you may write to"
    )
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    assert doctor.folder_finding("cache", tmp_path).status == "warn"


def test_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.2, 0.0, 0.0))
    assert doctor.load_finding(2).status == "ok"
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert doctor.load_finding(2) == Finding(
        "load", "warn", "1.5 busy programs on 2 cores", "let other programs end before you trust a bench"
    )
