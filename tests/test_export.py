"""The straight line, whole, on a narrow net: proved, complete, repeatable, and nothing written when a proof fails."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_export import NET, NET_OPTIONS, small_export

import edgecnn
from edgecnn.artifact import Artifact, sha256_of_file
from edgecnn.data import load_profile
from edgecnn.errors import CheckFailed, UsageError
from edgecnn.inference import Predictor
from edgecnn.pipeline.source import load_source
from edgecnn.quant.ranges import load as load_ranges
from edgecnn.targets import TARGETS, all_targets

ALL_TARGETS = sorted(set(all_targets()) - {"tflite-int16x8"})  # which has no fast path: tests of its own
INT8 = [t for t in ALL_TARGETS if t.endswith("int8")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One artifact per target."""
    folder = tmp_path_factory.mktemp("made")
    return {target: small_export(folder, target=target) for target in ALL_TARGETS}


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_artifact_is_proved_and_described(made, target):
    manifest = made[target].manifest
    assert Artifact.open(made[target].path).manifest == manifest
    assert manifest["sha256"] == sha256_of_file(made[target].path)
    assert manifest["parity"]["ok"]
    assert manifest["parity"]["summary"].startswith("graph = torch")
    assert manifest["parity"]["torch_relative_error"] < 1e-5
    assert manifest["coverage"]["macs_share"] == 1.0
    assert manifest["weights"] == {"kind": "random", "untrained": True, "source": "random, seed 0", "seed": 0}
    assert manifest["input"]["layout"] == ("NHWC" if target.startswith("tflite") else "NCHW")
    assert manifest["recipe"]["target"] == target
    assert manifest["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert set(manifest["versions"]) >= {"python", "torch", "onnxruntime", "ai-edge-litert"}


@pytest.mark.parametrize("target", INT8)
def test_every_int8_op_agrees_with_the_reference(made, target):
    per_op = made[target].manifest["parity"]["per_op"]
    assert per_op["ops"] > 80
    assert per_op["within_one_code_min_share"] >= 0.999
    assert per_op["max_codes"] <= 2


def test_tflite_int8_is_one_partition(made):
    assert made["tflite-int8"].manifest["coverage"]["partitions"] == 1


@pytest.mark.parametrize("target", INT8)
def test_ranges_file_belongs_to_the_manifest(made, target):
    artifact = made[target]
    ranges = load_ranges(artifact.path.with_name(artifact.manifest["calibration"]["ranges_file"]))
    assert ranges.stats
    assert artifact.manifest["calibration"]["images_sha256"] == ranges.images
    path = artifact.path.with_name(artifact.manifest["calibration"]["ranges_file"])
    assert artifact.manifest["calibration"]["ranges_sha256"] == sha256_of_file(path)
    assert artifact.manifest["calibration"]["images"] == 8


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_same_inputs_and_seed_give_the_same_bytes(made, target, tmp_path):
    again = small_export(tmp_path, target=target)
    assert again.path.read_bytes() == made[target].path.read_bytes()
    assert again.manifest_path.read_bytes() == made[target].manifest_path.read_bytes()


@pytest.mark.parametrize("target", ["tflite-fp32", "onnx-fp32"])
def test_float_artifact_answers_as_torch_does(made, target):
    source = load_source(NET, weights="random", input_shape=(3, 32, 32), options=NET_OPTIONS)
    data = load_profile("photos", input_shape=(3, 32, 32))
    x = next(data.batches(4))[0]
    with torch.inference_mode():
        expected = source.module(torch.from_numpy(x)).numpy()
    with Predictor(made[target]) as predictor:
        found = predictor.scores(x, data.preprocessing)
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_embedded_normalisation_takes_pixels(made, target, tmp_path):
    """The same image, as pixels into the one and normalised into the other: float noise apart; int8 nearly so."""
    pixels = small_export(tmp_path, target=target, embed_normalization=True, stem="pixels")
    assert pixels.manifest["preprocessing"]["embedded"]
    assert pixels.manifest["input"]["meaning"] == "raw RGB pixels, 0-255"
    data = load_profile("photos", input_shape=(3, 32, 32))
    x = next(data.batches(8))[0]
    answers = []
    for artifact in (made[target], pixels):
        with Predictor(artifact) as predictor:
            answers.append(predictor.scores(x, data.preprocessing))
    plain, embedded = answers
    error = np.linalg.norm(embedded - plain) / np.linalg.norm(plain)
    # In int8 the two quantise other numbers, so they differ like two draws of quantisation noise; that untrained nets
    # amplify it is their nature. What must hold is that they speak of the same image.
    assert error < (1e-4 if target.endswith(("fp32", "fp16")) else 1.0)


@pytest.mark.parametrize(
    ("target", "kind"), [("tflite-int8", "int8"), ("tflite-int8", "uint8"), ("onnx-int8", "uint8")]
)
def test_pixel_input_has_one_code_per_pixel_value(tmp_path, target, kind):
    artifact = small_export(tmp_path, target=target, embed_normalization=True, input_type=kind, cpu="x86")
    entry = artifact.manifest["input"]
    assert (entry["dtype"], entry["scale"]) == (kind, 1.0)
    assert entry["zero_point"] == {"int8": -128, "uint8": 0}[kind]


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_batch_and_input_type(tmp_path, target):
    for kind in TARGETS[target].input_types:
        artifact = small_export(tmp_path, target=target, batch=3, input_type=kind, stem=kind)
        assert artifact.manifest["input"]["shape"][0] == 3
        assert artifact.manifest["input"]["dtype"] == kind
        assert artifact.manifest["parity"]["ok"]


@pytest.mark.parametrize("cpu", ["x86", "x86-amx", "armv8-a53", "armv8", "armv8-dot", "armv8-i8mm"])
@pytest.mark.parametrize("target", INT8)
def test_every_core_has_a_proved_artifact(tmp_path, target, cpu):
    artifact = small_export(tmp_path, target=target, cpu=cpu)
    assert artifact.manifest["cpu"] == cpu
    assert artifact.manifest["parity"]["ok"]


def test_known_ranges_are_used_again_and_stale_ones_are_not(tmp_path):
    from edgecnn.pipeline.export import export
    from edgecnn.pipeline.export_options import ExportOptions
    from edgecnn.pipeline.stages import Stages

    def measured(**changes):
        stages = Stages()
        options = {
            "weights": "random",
            "input_shape": (3, 32, 32),
            "net_options": NET_OPTIONS,
            "calibration_images": 8,
            "output": tmp_path,
            "overwrite": True,
            "stem": "net",
            "per_op": False,
        }
        export(NET, options=ExportOptions(**options | changes), stages=stages)
        return not next(s for s in stages.done if s.name == "measure").skipped

    assert measured()
    assert not measured()
    assert measured(seed=1)
    assert measured(calibration_images=9, seed=1)


def test_a_wrong_lowering_is_found_and_nothing_is_written(tmp_path, monkeypatch):
    """An emitter that swaps two scales is caught by name: the proof can fail."""
    right = TARGETS["tflite-int8"]

    def wrong(graph, options):
        edit = graph.edit()
        for op in graph.ops:
            if op.kind == "conv" and op.name.startswith("features.1."):
                q = graph.value(op.inputs[1]).q
                edit.set_q(op.inputs[1], dataclasses.replace(q, scale=q.scale[::-1].copy()))
        return right.emit(edit.finish(), options)

    monkeypatch.setitem(TARGETS._items, "tflite-int8", dataclasses.replace(right, emit=wrong))
    with pytest.raises(CheckFailed) as caught:
        small_export(tmp_path, target="tflite-int8")
    assert "the artifact is not equal to what was computed before" in str(caught.value)
    assert "features.1." in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_little_coverage_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    from edgecnn import coverage

    class Poor(coverage.Coverage):
        macs_share = 0.5

    real = coverage.coverage_of
    monkeypatch.setattr(coverage, "coverage_of", lambda path: Poor(str(path), real(path).execution))
    with pytest.raises(CheckFailed, match=r"only 50\.0% of the multiply-adds"):
        small_export(tmp_path, target="tflite-int8")
    assert list(tmp_path.iterdir()) == []


def test_existing_artifact_is_not_touched(made, tmp_path):
    first = small_export(tmp_path, target="onnx-fp32")
    before = first.path.stat().st_mtime_ns
    with pytest.raises(UsageError, match="exists already"):
        small_export(tmp_path, target="onnx-fp32")
    assert first.path.stat().st_mtime_ns == before


def test_random_calibration_is_marked_unfit(tmp_path):
    artifact = small_export(tmp_path, target="tflite-int8", calibration="random")
    assert artifact.manifest["calibration"]["unfit"]


def test_library_names_unknown_options(tmp_path):
    with pytest.raises(UsageError, match="unknown export option `targett`"):
        edgecnn.export("mobilenet_v2", targett="x", output=tmp_path)


def test_artifact_carries_its_own_metadata(made):
    from edgecnn.targets.engine import open_session

    for target in ("tflite-int8", "onnx-int8"):
        session = open_session(made[target].path)
        metadata = json.loads(session.metadata["edgecnn"]) if target == "tflite-int8" else session.metadata
        session.close()
        assert metadata["edgecnn.net"] == NET
        assert metadata["edgecnn.untrained"] == "true"
        assert json.loads(metadata["edgecnn.preprocessing"])["std"] == [0.229, 0.224, 0.225]


def test_ops_that_are_right_but_wired_wrongly_are_found(tmp_path, monkeypatch):
    """Two layers with each other's weights: every op alone is right, the net is not; only the whole can tell."""
    right = TARGETS["tflite-int8"]

    def wrong(graph, options):
        convs = [op for op in graph.ops if op.kind == "conv"]
        edit = graph.edit()
        for i, first in enumerate(convs):
            for second in convs[i + 1 :]:
                a, b = graph.value(first.inputs[1]), graph.value(second.inputs[1])
                if a.shape == b.shape:
                    edit.values[a.name] = dataclasses.replace(a, data=b.data, q=b.q)
                    edit.values[b.name] = dataclasses.replace(b, data=a.data, q=a.q)
                    return right.emit(edit.finish(), options)
        return right.emit(graph, options)  # one op alone

    monkeypatch.setitem(TARGETS._items, "tflite-int8", dataclasses.replace(right, emit=wrong))
    with pytest.raises(CheckFailed) as caught:
        small_export(tmp_path, target="tflite-int8")
    assert "whole artifact against the float graph" in str(caught.value)
    assert " op `" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
