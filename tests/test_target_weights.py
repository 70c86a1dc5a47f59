"""Targets with int8 weights under float activations: what the file computes is what the reference says."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgecnn.artifact import Artifact
from edgecnn.coverage import coverage_of
from edgecnn.ir.graph import Graph
from edgecnn.ir.quantized import run_codes
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import load_source
from edgecnn.quant.weights_only import code_weights
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions

LAYERS = {
    "pointwise": "y = conv(x, w[16,8,1,1], b[16])",
    "spatial": "y = conv(x, w[16,8,3,3], b[16]) pad=(1,1,1,1) clip=(0.0,6.0)",
    "no_bias": "y = conv(x, w[16,8,3,3]) stride=(2,2) pad=(0,1,0,1)",
    "strided": "y = conv(x, w[16,8,1,1], b[16]) stride=(2,2)",
    "grouped": "y = conv(x, w[16,4,1,1], b[16]) groups=2",
    "depthwise": "y = conv(x, w[8,1,3,3], b[8]) groups=8 pad=(1,1,1,1)",
    "linear": "p = global_pool(x)\n  f = flatten(p)\n  y = linear(f, w[5,8], b[5])",
}


def layer(name: str) -> Graph:
    return parse(f"graph g(x: [N,8,6,6]) {{\n  {LAYERS[name]}\n  return y\n}}")


def answer(graph: Graph, target: str, x: np.ndarray, folder: Path) -> np.ndarray:
    path = folder / "net.tflite"
    path.write_bytes(TARGETS[target].emit(graph, EmitOptions()).data)
    with closing(open_session(path)) as session:
        y = session.run([np.ascontiguousarray(x.transpose(0, 2, 3, 1))])[0]
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("target", ["tflite-w8", "tflite-dynamic"])
def test_a_layer_computes_what_its_reference_says(name: str, target: str, tmp_path: Path) -> None:
    all_targets()
    graph = layer(name)
    coded, notes = code_weights(graph, dynamic=target == "tflite-dynamic")
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    x[:, :, :3] *= 0.01  # so that coding pixel by pixel and image by image differ
    found, expected = answer(coded, target, x, tmp_path), run_codes(coded, x)[0]
    # Sums of at most 72 products in float32, in another order.
    assert np.abs(found - expected).max() <= 72**0.5 * 2.0**-23 * np.abs(expected).max()
    lost = np.linalg.norm(run(graph, x)[0] - expected) / np.linalg.norm(expected)
    assert 1e-4 < lost < 0.03
    assert len(notes) == 1
    assert ("as it runs" in str(notes[0])) == (target == "tflite-dynamic" and name != "depthwise")


@pytest.mark.parametrize("target", ["tflite-w8", "tflite-dynamic"])
def test_a_net_is_one_partition_and_a_quarter_as_large(target: str, tmp_path: Path) -> None:
    source = load_source("mobilenet_v3_small", weights="random", input_shape=(3, 64, 64))
    files = {
        name: export(source, options=ExportOptions(target=name, weights="random", output=tmp_path))
        for name in (target, "tflite-fp32")
    }
    artifact = files[target]
    coverage = coverage_of(artifact.path)
    assert (coverage.partitions, coverage.macs_share, len(coverage.outside)) == (1, 1.0, 0)
    assert artifact.size_bytes < 0.29 * files["tflite-fp32"].size_bytes
    manifest = Artifact.open(artifact.path).manifest
    assert manifest["calibration"] is None
    assert manifest["quantization"]["scheme"].startswith("weights")
    parity = manifest["parity"]
    assert parity["artifact_sqnr_db"] == pytest.approx(parity["sqnr_db"], abs=1.0)
    if target == "tflite-w8":
        assert parity["artifact_relative_error"] < 1e-4
