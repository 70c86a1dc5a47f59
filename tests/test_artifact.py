"""Artifacts: whole or not at all, and a manifest that vouches for exactly one file."""

from __future__ import annotations

import errno
import json
import os

import pytest

from edgecnn.artifact import Artifact, atomic_write, sha256_of, sha256_of_file
from edgecnn.errors import EnvironmentFailure, InputError, UsageError


def test_write_then_open_gives_the_same(tmp_path):
    made = Artifact.write(tmp_path / "a" / "net.tflite", b"content", {"net": {"name": "x"}})
    again = Artifact.open(made.path)
    assert again.manifest == made.manifest
    assert again.manifest["sha256"] == sha256_of(b"content") == sha256_of_file(made.path)
    assert again.size_bytes == 7
    assert sorted(p.name for p in made.path.parent.iterdir()) == ["net.tflite", "net.tflite.json"]


def test_what_exists_is_replaced_only_if_asked(tmp_path):
    Artifact.write(tmp_path / "net.onnx", b"one", {})
    with pytest.raises(UsageError, match="exists already"):
        Artifact.write(tmp_path / "net.onnx", b"two", {})
    assert (tmp_path / "net.onnx").read_bytes() == b"one"
    Artifact.write(tmp_path / "net.onnx", b"two", {}, overwrite=True)
    assert Artifact.open(tmp_path / "net.onnx").manifest["size_bytes"] == 3


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    atomic_write(tmp_path / "x", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFailure, match="No space left on device"):
        atomic_write(tmp_path / "x", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_interrupt_in_the_middle_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"new")
    assert list(tmp_path.iterdir()) == []


def test_file_and_manifest_must_belong_together(tmp_path):
    made = Artifact.write(tmp_path / "net.onnx", b"one", {})
    made.path.write_bytes(b"other")
    with pytest.raises(InputError, match="is not the file that its manifest describes"):
        Artifact.open(made.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 1}'])
def test_damaged_manifest_is_said(tmp_path, text):
    made = Artifact.write(tmp_path / "net.onnx", b"one", {})
    made.manifest_path.write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        Artifact.open(made.path)


def test_manifest_of_a_newer_edgecnn_is_refused(tmp_path):
    made = Artifact.write(tmp_path / "net.onnx", b"one", {})
    made.manifest_path.write_text(json.dumps({**made.manifest, "manifest_version": 99}))
    with pytest.raises(InputError, match="has another version"):
        Artifact.open(made.path)


def test_a_file_of_another_tool_has_no_manifest(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"one")
    assert Artifact.open(tmp_path / "net.onnx").manifest == {}
