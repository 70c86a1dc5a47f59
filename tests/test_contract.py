"""What holds for every net of the zoo: it imports, exports to every target, is proved op by op, and stays in int8."""

from __future__ import annotations

import pytest

from edgecnn.nets import NETS
from edgecnn.pipeline.export import ExportOptions, export
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.targets import all_targets

INPUT = (3, 64, 64)
"""Large enough for every net's strides, small enough for a test; the op kinds and lowerings are those of 224x224."""


@pytest.fixture(scope="module", params=list(NETS))
def source(request) -> NetSource:
    """One net with random weights, at a small resolution."""
    entry = NETS[request.param]
    return load_source(
        request.param, weights="random", input_shape=entry.input_shape if entry.input_shape[1] == 32 else INPUT
    )


@pytest.mark.parametrize("target", sorted(all_targets()))
def test_every_net_is_proved_on_every_target(source, target, tmp_path):
    artifact = export(source, options=ExportOptions(target=target, calibration_images=4, output=tmp_path))
    parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
    assert parity["ok"]
    assert coverage["macs_share"] == 1.0
    if target.startswith("tflite"):
        assert coverage["partitions"] == 1
    if target.endswith("int8"):
        assert coverage["int8_share"] == 1.0
        assert parity["per_op"]["within_one_code_min_share"] >= 0.999
        assert parity["per_op"]["max_codes"] <= 2
    if target == "tflite-int8":
        # Our integer reference rounds as XNNPACK does, so whole nets come out bit for bit.
        assert parity["max_codes_end_to_end"] == 0
    assert artifact.manifest["net"]["params"] == sum(p.numel() for p in source.module.parameters())
