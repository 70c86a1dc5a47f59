"""The ladder as a whole: it stops where it may, says what it measured, and what it writes is what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.data import load_profile
from edgecnn.errors import CheckFailed, UsageError
from edgecnn.ir.graph import Graph
from edgecnn.pipeline.evaluate import evaluate
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.quantize import QuantizeOptions, quantize, record_path, write
from edgecnn.pipeline.source import load_source, macs_total
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import tune_graph

QUICK = QuantizeOptions(cpu="x86", images=96, probes=32, latency=False, highest="equalize")


@pytest.fixture(scope="module")
def trained() -> Graph:
    """The digits net after a few epochs."""
    return tune_graph(digits_graph(), digits(), settings=TrainSettings(epochs=4, lr=0.05)).graph


@pytest.fixture
def net(trained: Graph, tmp_path: Path) -> str:
    return str(save_digits_bundle(tmp_path / "net.safetensors", trained))


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_what_is_written_is_what_was_measured(net: str, target: str, tmp_path: Path) -> None:
    options = replace(QUICK, target=target, everything=True)
    found = quantize(net, data="digits", options=options, report=True)
    assert [step.rung for step in found.steps] == ["ranges", "choose", "bias", "equalize"]
    assert found.step.lost == min(step.lost for step in found.steps)
    assert found.values
    assert found.ops
    path = tmp_path / "coded.safetensors"
    write(found, path, overwrite=False)
    artifact = export(
        str(path),
        options=ExportOptions(target=target, cpu="x86", output=tmp_path, calibration="digits", min_coverage=0.0),
    )
    accuracy = evaluate(str(artifact.path), data="digits")
    assert accuracy.n == found.images
    # On trial the artifact took float images, whose codes may round to the other side at exact halves: one image.
    assert accuracy.top1 == pytest.approx(found.step.top1, abs=100 / found.images)
    assert artifact.manifest["quantization"]["method"] == f"ladder: {found.best}"
    record = json.loads(record_path(path).read_text())
    assert len(record["calibration_list"]) == record["calibration"]["images"] == 96
    assert all(len(image["sha256"]) == 64 for image in record["calibration_list"])
    assert artifact.manifest["calibration"]["images_sha256"] == record["calibration"]["images_sha256"]
    with pytest.raises(UsageError, match="exists already"):
        write(found, path, overwrite=False)


def test_it_climbs_no_further_than_needed(net: str) -> None:
    assert [step.rung for step in quantize(net, data="digits", options=replace(QUICK, max_drop=100)).steps] == [
        "ranges"
    ]
    found = quantize(net, data="digits", options=replace(QUICK, max_drop=-100))
    assert len(found.steps) == 4
    assert not found.within


def test_calibration_and_evaluation_images_are_different(net: str) -> None:
    found = quantize(net, data="digits", options=replace(QUICK, max_drop=100))
    tested = {image.sha256 for image in digits().image_list("evaluation")}
    assert not tested & {image.sha256 for image in found.calibration_list}


def test_export_takes_the_ladder(net: str, tmp_path: Path) -> None:
    options = ExportOptions(
        cpu="x86", output=tmp_path, calibration="digits", calibration_images=96, max_drop=100.0, min_coverage=0.0
    )
    artifact = export(net, options=options)
    assert artifact.manifest["quantization"]["method"] == "ladder: ranges"
    with pytest.raises(UsageError, match="normalised images"):
        export(net, options=replace(options, embed_normalization=True, overwrite=True))


def test_bad_numbers_and_names_are_refused(net: str) -> None:
    for change, said in (
        ({"highest": "equalise"}, "rung"),
        ({"max_drop": float("nan")}, "points"),
        ({"images": 0}, "positive"),
        ({"estimator": "msd"}, "estimator"),
        ({"target": "tflite-fp32"}, "float"),
    ):
        with pytest.raises(UsageError, match=said):
            quantize(net, data="digits", options=replace(QUICK, **change))


def test_export_refuses_what_no_rung_reaches(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.pipeline import ladder

    monkeypatch.setattr("edgecnn.pipeline.quantize.RUNGS", ladder.RUNGS[:1])
    options = ExportOptions(cpu="x86", output=tmp_path, calibration="digits", calibration_images=96, max_drop=-100.0)
    with pytest.raises(CheckFailed, match="loses as little"):
        export(net, options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_the_whole_ladder_goes_up_to_training(net: str) -> None:
    found = quantize(net, data="digits", options=replace(QUICK, highest=None, everything=True))
    said = {step.rung: step.said for step in found.steps}
    assert list(said) == ["ranges", "choose", "bias", "equalize", "adaround", "blocks", "mixed", "qat"]
    assert "layers chose anew" in said["adaround"]
    assert "blocks chose anew" in said["blocks"]
    assert "in float" in said["mixed"]
    assert said["qat"] == "2 epochs, taught by the net in float"
    assert max(step.lost for step in found.steps) < 3


def test_training_is_left_out_where_it_would_see_the_images_of_the_test(trained: Graph, tmp_path: Path) -> None:
    data = digits()
    everything = replace(
        data, source=replace(data.source, entries=[replace(e, split="all") for e in data.source.entries])
    )
    assert everything.split_of("calibration") == everything.split_of("evaluation") == "all"
    net = str(save_digits_bundle(tmp_path / "net.safetensors", trained))
    options = replace(QUICK, highest="qat", everything=True)
    steps = quantize(net, data=everything, options=options).steps
    assert steps[-1].said == "no training images besides those that accuracy is measured on"


def test_a_net_keeps_its_multiply_adds_whatever_form_it_runs_in(tmp_path: Path) -> None:
    """HetConv executes zeros; what the net was defined with is what the artifact says."""
    source = load_source("hetconv_small", weights="random", options={"num_classes": 10})
    options = replace(QUICK, highest="ranges", limit=16)
    found = quantize(source, data=load_profile("digits", input_shape=source.input_shape), options=options)
    path = tmp_path / "coded.safetensors"
    write(found, path, overwrite=False)
    artifact = export(str(path), options=ExportOptions(cpu="x86", output=tmp_path, calibration="digits"))
    assert artifact.manifest["net"]["macs"] == macs_total(source.to_graph())
    assert macs_total(found.graph) > macs_total(source.to_graph())
