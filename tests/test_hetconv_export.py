"""Nets with other forms of convolution are proved on every target like any other net."""

from __future__ import annotations

import pytest

from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.targets import all_targets

CASES: dict[str, tuple[str, dict[str, object]]] = {
    "strides, residuals and squeeze-excite": ("resnet20", {"conv": "hetconv", "p": 4, "se": 8}),
    "one 3x3 kernel per filter": ("mobilenet_v1", {"conv": "hetconv", "p": 0, "width": 0.25, "stem": "small"}),
    "an odd P": ("mobilenet_v1", {"conv": "hetconv", "p": 3, "width": 0.75, "stem": "small", "shallow": True}),
    "grouped and pointwise": ("resnet20", {"conv": "gwc_pwc", "p": 4}),
    "depthwise and pointwise": ("resnet20", {"conv": "dwc_pwc"}),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def source(request: pytest.FixtureRequest) -> NetSource:
    net, options = CASES[request.param]
    return load_source(net, weights="random", input_shape=(3, 32, 32), options=options)


@pytest.mark.parametrize("target", sorted(set(all_targets()) - {"tflite-int16x8"}))  # which has no fast path
def test_it_is_proved_on_every_target(source: NetSource, target: str, tmp_path) -> None:
    artifact = export(source, options=ExportOptions(target=target, calibration_images=4, output=tmp_path))
    parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
    assert parity["ok"]
    assert coverage["macs_share"] == 1.0
    if target.startswith("tflite"):
        assert coverage["partitions"] == 1
    if target == "tflite-int8":
        assert parity["max_codes_end_to_end"] == 0
    assert artifact.manifest["net"]["options"]["conv"] == source.options["conv"]
