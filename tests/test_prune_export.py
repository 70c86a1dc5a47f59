"""Pruned nets are exported, proved and run like unpruned ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecnn.ir import bundle
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.prune import prune
from edgecnn.pipeline.pruned import Pruned, PruneOptions
from edgecnn.pipeline.source import load_source

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "shuffles": ("shufflenet_v2_x0_5", {}),
    "shuffles between groups": ("shufflenet_v1", {}),
    "heterogeneous convolutions": ("resnet20", {"conv": "hetconv", "p": 4}),
    "gates": ("mobilenet_v3_small", {"width": 0.5, "stem": "small"}),
}


@pytest.fixture(scope="module", params=NETS, ids=str)
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    """A net of half the multiply-adds, as a bundle."""
    net, options = NETS[request.param]
    path = tmp_path_factory.mktemp("pruned") / "half.safetensors"
    how = PruneOptions("macs", 0.5, round_to=4, time_it=False)
    return prune(net, how=how, output=path, weights="random", input_shape=(3, 32, 32), options=options)


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_it_is_proved_and_stays_in_the_fast_path(half: Pruned, target: str, tmp_path: Path) -> None:
    artifact = export(str(half.path), options=ExportOptions(target=target, calibration_images=4, output=tmp_path))
    parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
    assert parity["ok"]
    assert parity["per_op"]["within_one_code_min_share"] >= 0.999
    assert (coverage["macs_share"], coverage["int8_share"]) == (1.0, 1.0)
    if target == "tflite-int8":
        assert parity["max_codes_end_to_end"] == 0
        assert coverage["partitions"] == 1


def test_what_it_reports_is_what_the_bundle_has(half: Pruned) -> None:
    graph, provenance = bundle.load(half.path or "")
    again = load_source(str(half.path))
    assert half.macs[1] <= 0.5 * half.macs[0]
    # A step of the most valuable group costs less than a twentieth of these nets, and none could come back.
    assert half.macs[1] > 0.4 * half.macs[0]
    assert again.params == half.params[1]
    assert graph.shape(graph.outputs[0]) == half.graph.shape(half.graph.outputs[0])
    assert provenance["untrained"] == "true"
    assert all(row.after <= row.before for row in half.groups)
    assert sum(row.after for row in half.groups) < sum(row.before for row in half.groups)
