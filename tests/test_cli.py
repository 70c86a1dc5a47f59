"""The command line as a person meets it: results, messages in full, exit codes, one JSON object on stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.__main__ import main
from edgecnn.errors import EXIT_CODES

SMALL = ["--weights", "random", "--input", "3x32x32"]
SMALL += [x for o in ("width=0.25", "stem=small", "num_classes=10") for x in ("--net-option", o)]


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    code = main(["export", "mobilenet_v3_small", *SMALL, "-o", str(folder), "--calibration", "digits"])
    assert code == 0
    return next(folder.glob("*.tflite"))


def test_export_prints_stages_on_stderr_and_a_table_on_stdout(capsys, tmp_path):
    code, out, err = run(capsys, "export", "mobilenet_v3_small", *SMALL, "-o", tmp_path)
    assert code == 0
    for stage in ("load", "import", "rewrite", "measure", "assign", "emit", "check", "coverage", "write"):
        assert f"  {stage} " in err
    assert "64 crops of 2 photographs" in err
    for line in ("artifact", "bytes", "parity", "coverage", "rewritten"):
        assert any(row.startswith(line) for row in out.splitlines())
    assert "UNTRAINED" in out


def test_export_json_is_one_object(capsys, tmp_path):
    code, out, _ = run(capsys, "export", "mobilenet_v3_small", *SMALL, "-o", tmp_path, "--json")
    content = json.loads(out)
    assert code == 0
    assert content["size_bytes"] == Path(content["artifact"]).stat().st_size
    assert content["parity"]["ok"]
    assert content["coverage"]["macs_share"] == 1.0
    assert set(content["seconds"]) >= {"import", "measure", "emit", "check"}


def test_bench_json(capsys, artifact, tmp_path):
    copy = tmp_path / "copy.tflite"
    shutil.copy(artifact, copy)
    code, out, _ = run(capsys, "bench", artifact, copy, "--min-seconds", "0.05", "--blocks", "6", "--json")
    first, second = json.loads(out)["runs"]
    assert code == 0
    assert first["ratio"] == 1.0
    assert first["ci95_ms"][0] <= first["median_ms"] <= first["ci95_ms"][1]
    assert second["p90_ms"] <= second["p99_ms"]


def test_bench_table_marks_untrained_and_saves_samples(capsys, artifact, tmp_path):
    saved = tmp_path / "run.json"
    code, out, _ = run(capsys, "bench", artifact, "--min-seconds", "0.05", "--blocks", "6", "--save", saved)
    assert code == 0
    assert "UNTRAINED" in out
    record = json.loads(saved.read_text())
    assert sum(map(len, record["runs"][0]["blocks_ns"])) == record["runs"][0]["samples"]


def test_eval_and_predict(capsys, artifact, tmp_path):
    code, out, _ = run(capsys, "eval", artifact, "--data", "digits", "--limit", "20", "--json")
    content = json.loads(out)
    assert code == 0
    assert (content["n"], content["untrained"]) == (20, True)
    assert 0 <= content["top1"] <= content["top5"] <= 100
    Image.fromarray(np.full((40, 50, 3), 99, np.uint8)).save(tmp_path / "a b.png")
    code, out, err = run(capsys, "predict", artifact, tmp_path / "a b.png")
    assert code == 0
    assert "a b.png" in out
    assert len([row for row in out.splitlines() if "class " in row and "%" not in row]) == 5
    assert "UNTRAINED" in err


@pytest.mark.parametrize("what", ["nets", "blocks", "targets", "recipes", "profiles"])
def test_list(capsys, what):
    code, out, _ = run(capsys, "list", what)
    assert code == 0
    assert len(out.splitlines()) > 2
    code, out, _ = run(capsys, "list", what, "--json")
    assert json.loads(out)[what]


def test_show_net_and_artifact(capsys, artifact):
    code, out, _ = run(capsys, "show", "mobilenet_v3_small", "--json")
    content = json.loads(out)
    assert code == 0
    total = content["total"]
    assert (total["params"], total["params_without_batch_norm"]) == (2542856, 2530744)
    assert (total["macs"], total["operations"], total["layers"]) == (56510400, 113020800, len(content["layers"]))
    assert content["executed_macs"]["tflite-int8"] == 56510400
    assert content["executed_macs"]["onnx-int8"] > 56510400, "depthwise channels are padded there"
    assert sum(layer["macs"] for layer in content["layers"]) == 56510400
    code, out, _ = run(capsys, "show", "mobilenet_v3_small", "-v")
    assert "hard_swish(" in out
    assert "rewrites for tflite-int8" in out
    code, out, _ = run(capsys, "show", artifact)
    assert code == 0
    assert "100.0 % of multiply-adds" in out


def test_list_of_one_family_with_published_accuracies(capsys):
    code, out, _ = run(capsys, "list", "nets", "resnet50", "--json")
    rows = {row["name"]: row for row in json.loads(out)["nets"]}
    assert code == 0
    assert "resnet50" in rows
    assert "mobilenet_v2" not in rows
    assert (rows["resnet50"]["published"][0]["top1"], rows["resnet50"]["published"][0]["top5"]) == (77.15, 93.29)
    code, out, _ = run(capsys, "list", "nets", "resnet50", "-v")
    assert code == 0
    assert "top-1 77.15 %" in out
    assert run(capsys, "list", "recipes", "x")[0] == 2


def test_list_nets_is_a_line_of_120_columns_per_net_sorted_by_family(capsys):
    _, listed, _ = run(capsys, "list", "nets", "--json")
    rows = json.loads(listed)["nets"]
    code, out, _ = run(capsys, "list", "nets")
    lines = out.splitlines()[2:]
    assert code == 0
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    assert max(map(len, out.splitlines())) <= 120
    assert [row["family"] for row in rows] == sorted(row["family"] for row in rows)
    by_name = {line.split()[0]: line for line in lines}
    assert by_name["resnet50"].split("  ")[0] == "resnet50"
    # The paper's own accuracy comes first; where none is published, that of the weights there are.
    for words in ("3x224x224", "25.6 M", "4.09 G", "77.15", "93.29", "He et al. 2016, 10 crops", "torchvision"):
        assert words in by_name["resnet50"]
    assert "81.60    95.76  torchvision's weights" in by_name["wide_resnet50_2"]
    assert by_name["mobilenet_v1"].endswith("none")
    assert "89.93" in by_name["googlenet_paper"]  # only top-5 is published
    assert lines.index(by_name["resnet50"]) < lines.index(by_name["resnet101"])


def test_list_nets_finds_names_families_and_aliases_in_any_case(capsys):
    _, out, _ = run(capsys, "list", "nets", "ResNeXt")
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        "resnext50_32x4d",
        "resnext101_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "seresnext50_32x4d",
        "seresnext101_32x4d",
    ]
    _, out, _ = run(capsys, "list", "nets", "NASNETAMOBILE", "-v")
    assert "also called  nasnetamobile" in out
    assert "source       Zoph et al. 2018" in out
    assert "published    top-1 74.0 %, top-5 91.6 %" in out
    assert "option       num_classes: default 1000" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "mobilenet_v4"], 2, "unknown net `mobilenet_v4`"),
        (["export", "mobilenet_v2", "--target", "tflite-int9"], 2, "did you mean `tflite-int8`"),
        (["export", "mobilenet_v2", "--weights", "random", "--cpu", "armv9"], 2, "did you mean `armv8`"),
        (["export", "mobilenet_v2", "--weights", "random", "--estimator", "mes"], 2, "did you mean `mse`"),
        (["export", "mobilenet_v2", "--net-option", "widht=1"], 2, "`width`"),
        (["export", "mobilenet_v2", "--net-option", "width"], 2, "`width` is not of the form key=value"),
        (
            ["export", "mobilenet_v2", "--weights", "random", "--set", "sheme=1"],
            2,
            "unknown setting of tflite-int8 `sheme`",
        ),
        (["export", "mobilenet_v2", "--input", "224"], 2, "`224` is not an input shape"),
        (["export", "mobilenet_v2", "--input-type", "int4", "--weights", "random"], 2, "unknown input type"),
        (["export", "mobilenet_v1"], 2, "there are no official weights for `mobilenet_v1`"),
        (["export", "mobilenet_v2", "--weights", "nowhere.pth"], 3, "nowhere.pth"),
        (["export", "nowhere.py:build", "--input", "3x32x32"], 3, "nowhere.py"),
        (["export", "nowhere.safetensors"], 3, "nowhere.safetensors"),
        (["export", "mobilenet_v2", "--weights", "random", "--calibration", "foto"], 2, "did you mean `photos`"),
        (["export", "mobilenet_v2", "--weights", "random", "--calibration", "./nowhere"], 3, "no such file or folder"),
        (["bench", "nowhere.tflite"], 3, "does not exist"),
        (["bench", "README.md"], 3, "no engine runs"),
        (["eval", "nowhere.onnx", "--data", "digits"], 3, "there is no file"),
        (["show", "mobilenet_v3"], 0, ""),
        (["show", "mobilenet_v2", "--target", "tflite-int8", "--cpu", "armv9"], 2, "did you mean `armv8`"),
        (["run", "nowhere.toml"], 3, "cannot read"),
        (["exprot"], 2, "exprot"),
        (["export", "mobilenet_v2", "--tagret", "x"], 2, "--tagret"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else None,
)
def test_bad_input_has_one_message_and_its_exit_code(capsys, tmp_path, monkeypatch, arguments, code, message):
    (tmp_path / "README.md").write_text("x")
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *arguments)
    assert (got, "Traceback" in err) == (code, False)
    assert message in err
    assert code in EXIT_CODES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md"]


def test_errors_are_json_too(capsys):
    code, out, _ = run(capsys, "export", "mobilenet_v4", "--json")
    assert json.loads(out)["error"]["exit_code"] == code == 2


def test_bug_is_told_as_a_bug(capsys, monkeypatch):
    from edgecnn.cli import console

    monkeypatch.setattr(console, "pairs", lambda *a, **k: 1 / 0)
    code, _, err = run(capsys, "export", "mobilenet_v2")
    assert code == 70
    assert "a bug in edgecnn: ZeroDivisionError" in err


def test_interrupt_is_130_and_leaves_nothing(capsys, monkeypatch, tmp_path):
    from edgecnn import parity

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "check", interrupt)
    code, _, err = run(capsys, "export", "mobilenet_v3_small", *SMALL, "-o", tmp_path)
    assert code == 130
    assert "interrupted; nothing was left half-written" in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_loads_no_torch():
    code = "import sys, edgecnn.__main__ as m; m.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_exit_code_of_an_error_is_documented():
    from edgecnn import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.EdgecnnError)]
    assert {k.exit_code for k in kinds} <= set(EXIT_CODES)
