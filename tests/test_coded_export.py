"""A bundle with codes is exported with these very codes, and only for what they were chosen for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from train_cases import digits, digits_graph

from edgecnn.errors import UsageError
from edgecnn.inference import Predictor
from edgecnn.ir import bundle, quantized, reference
from edgecnn.ir.graph import Graph
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.coded import Coding
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.targets import TARGETS, all_targets

CPU = "x86"


def coded_bundle(path: Path, target: str) -> Graph:
    """Writes a bundle whose first layer is rounded down everywhere, as no measuring would do it."""
    all_targets()
    record, data = TARGETS[target], digits()
    assert record.scheme is not None
    graph, _ = run_passes(digits_graph(), record.passes(CPU, {}))
    graph, _ = assign(graph, measure(graph, (x for x, _ in data.batches(8, limit=32))), record.scheme(CPU))
    name = next(op for op in graph.ops if op.kind == "conv").inputs[1]
    weight = graph.value(name)
    assert weight.q is not None
    scale, _ = weight.q.spread(4)
    low = np.clip(np.floor(graph.const(name) / scale), weight.q.qmin, weight.q.qmax)
    values = {**graph.values, name: replace(weight, data=(low * scale).astype(np.float32))}
    graph = replace(graph, values=values)
    calibration = {"data": "digits", "images": 32, "unfit": False}
    provenance = {
        **Coding(target, CPU, {}, "by hand", calibration).to_provenance(),
        "preprocessing": data.preprocessing.model_dump_json(),
    }
    bundle.save(graph, path, provenance=provenance)
    return graph


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_the_artifact_has_the_codes_of_the_bundle(target: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    graph = coded_bundle(path, target)
    # ONNX Runtime computes int8 in float on cores without VNNI, which is no matter here.
    options = ExportOptions(target=target, cpu=CPU, output=tmp_path, calibration="digits", min_coverage=0.0)
    artifact = export(str(path), options=options)
    x = next(digits().batches(16, split="evaluation"))[0]
    q_in, q_out = graph.value(graph.inputs[0]).q, graph.value(graph.outputs[0]).q
    assert q_in is not None
    assert q_out is not None
    wanted = quantized.run_codes(graph, q_in.quantize(x))[0]
    with Predictor(artifact) as predictor:
        scores = predictor.scores(x, digits().preprocessing)
    far = np.abs(np.rint(scores / float(q_out.scale)) + int(q_out.zero_point) - wanted)
    if target == "tflite-int8":
        assert far.max() == 0
    else:  # products of codes at exact halves round in another way there, so the answers prove nothing
        first = graph.value(next(op for op in graph.ops if op.kind == "conv").inputs[1])
        held = [onnx.numpy_helper.to_array(t) for t in onnx.load(artifact.path).graph.initializer]
        stems = [a[:, : first.shape[1]] for a in held if a.ndim == 4]  # channels of zeros are added to fill a tile
        assert any(np.array_equal(a, first.codes) for a in stems)
    assert artifact.manifest["quantization"]["method"] == "by hand"
    assert artifact.manifest["calibration"] == {"data": "digits", "images": 32, "unfit": False}
    assert not list(tmp_path.glob("*.ranges.json"))


def test_a_bundle_is_refused_for_what_it_was_not_made_for(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    coded_bundle(path, "tflite-int8")
    options = ExportOptions(cpu=CPU, output=tmp_path, calibration="digits")
    with pytest.raises(UsageError, match="another target"):
        export(str(path), options=replace(options, target="onnx-int8"))
    with pytest.raises(UsageError, match="another cpu"):
        export(str(path), options=replace(options, cpu="armv8"))
    with pytest.raises(UsageError, match="normalised images"):
        export(str(path), options=replace(options, embed_normalization=True))
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_ranges_chosen_value_by_value_are_no_worse_than_any_single_estimators(target: str, tmp_path: Path) -> None:
    """By the error of the artifact's answers on the images they were chosen on."""
    data, graph = digits(), digits_graph()
    bundle.save(graph, tmp_path / "net.safetensors", provenance={"preprocessing": data.preprocessing.model_dump_json()})
    x = np.concatenate([x for x, _ in data.batches(16, split="calibration", limit=64)])
    wanted = reference.run(graph, x)[0]

    def error(estimator: str) -> float:
        options = ExportOptions(
            target=target,
            calibration="digits",
            calibration_images=64,
            estimator=estimator,
            input_type="float32",
            output=tmp_path / f"{estimator}{TARGETS[target].suffix}",
        )
        artifact = export(str(tmp_path / "net.safetensors"), options=options)
        assert artifact.manifest["quantization"]["estimator"] == estimator
        with Predictor(artifact) as predictor:
            return float(np.square(predictor.scores(x, data.preprocessing) - wanted).sum())

    assert error("choose") <= 1.02 * min(error(name) for name in ("mse", "minmax", "percentile"))
