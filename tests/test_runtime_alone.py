"""The device side stands alone: Python 3.8, the standard library, numpy and one engine; also as a zipapp."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

import edgecnn.runtime
from edgecnn.device.zipapp import write_zipapp

FILES = sorted(Path(edgecnn.runtime.__file__).parent.glob("*.py"))
ENGINES = {"onnxruntime", "ai_edge_litert", "tflite_runtime"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_syntax_is_that_of_python_3_8_and_imports_are_few(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    relative = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"numpy"}
    assert foreign <= (ENGINES if file.name in ("ort.py", "litert.py") else set())
    assert all(n.level == 1 for n in relative)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_nothing_newer_than_python_3_8_is_evaluated(file: Path) -> None:
    """Annotations are strings, so only what runs counts: builtin generics, `X | Y` of types, newer string methods."""
    tree = ast.parse(file.read_text())
    first = tree.body[1] if len(tree.body) > 1 else None
    if file.name != "__init__.py":
        assert isinstance(first, ast.ImportFrom)
        assert first.module == "__future__"
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and id(node) not in annotations:
            assert node.value.id not in {"list", "dict", "set", "tuple", "frozenset", "type"}
        if isinstance(node, ast.BinOp) and id(node) not in annotations:
            assert not isinstance(node.op, ast.BitOr)  # of types and dicts; sets have union()
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"removeprefix", "removesuffix"}
        if isinstance(node, ast.Call):
            assert not any(keyword.arg == "strict" for keyword in node.keywords)


def test_zipapp_measures_a_job_without_the_package(tmp_path: Path) -> None:
    write_zipapp(tmp_path / "runtime.pyz")
    tiny_models.tflite(tmp_path / "net.tflite")
    job = {"artifact": "net.tflite", "blocks": 2, "block_seconds": 0.001}
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", str(tmp_path / "runtime.pyz"), str(tmp_path / "job.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["engine"]["name"] == "ai-edge-litert"
    assert run["facts"] == {"operators": 2, "delegated": 2, "partitions": 1}
    assert len(run["blocks"]) == 2
    assert all(len(block["samples_ns"]) >= 3 for block in run["blocks"])
    assert all(ns > 0 for block in run["blocks"] for ns in block["samples_ns"])
    assert run["peak_rss_bytes"] > run["before_rss_bytes"] > 0
    assert not list(tmp_path.glob("*.partial"))


def test_zipapp_bytes_repeat(tmp_path: Path) -> None:
    write_zipapp(tmp_path / "a.pyz")
    write_zipapp(tmp_path / "b.pyz")
    assert (tmp_path / "a.pyz").read_bytes() == (tmp_path / "b.pyz").read_bytes()
