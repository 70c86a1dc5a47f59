"""What holds for every net of the zoo: it imports, exports, is proved op by op, stays in the fast int8 path, and a net
pruned at random answers as the net in which the same channels are zero.

Every net goes to LiteRT in int8. The lightest net of each family goes to every target; of the others, those of moderate
size also to ONNX Runtime in int8. Larger ones repeat the same blocks and are proved as a whole, bit for bit, but not op
by op too. All at a small resolution: ops and lowerings are those of the full one, which `scripts/zoo_table.py` runs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
from prune_laws import assert_pruned_is_masked, constants

from edgecnn.nets import NETS
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.targets import all_targets

SIDES = {"inception": 96, "xception": 96}
"""Of the images, where 64 pixels are too few for the family's strides without padding."""

SMALL_STEM = {"alexnet", "vgg"}
"""Families whose published classifier is for images of full size only."""

MODERATE_PARAMS = 12_000_000

LEAST_COVERAGE = {("resnet18_deform", "onnx-int8"): 0.99}
"""The share of the multiply-adds in the fast path, where it is not all of them: offsets are applied in float."""

PARTITIONS = {"resnet18_deform": 5}
"""Pieces of XNNPACK's where it is more than one: gathering pixels is no work for it."""


def targets_of(name: str) -> list[str]:
    """The targets that a net is tried on."""
    family = [other for _, other in NETS.items() if other.family == NETS[name].family]
    if min(family, key=lambda other: other.macs).name == name:
        return sorted(set(all_targets()) - {"tflite-int16x8"})  # which has no fast path to be in
    return ["onnx-int8", "tflite-int8"] if NETS[name].params < MODERATE_PARAMS else ["tflite-int8"]


@lru_cache(maxsize=1)
def source_of(name: str) -> NetSource:
    """One net with random weights, at a small resolution, and its graph, imported once."""
    entry = NETS[name]
    options = {"stem": "small"} if entry.family in SMALL_STEM else {}
    side = 32 if options or entry.input_shape[1] == 32 else SIDES.get(entry.family, 64)
    source = load_source(name, weights="random", input_shape=(3, side, side), options=options)
    return replace(source, graph=source.to_graph())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is None:
        return
    names = [name for name in sorted(NETS) if name[0] in metafunc.cls.letters]
    metafunc.parametrize(("net", "target"), [(name, target) for name in names for target in targets_of(name)])


class Contract:
    """The test, over the nets whose names begin with one of `letters`; a class each, so that they run side by side."""

    letters = ""

    def test_every_net_is_proved(self, net, target, tmp_path):
        source = source_of(net)
        per_op = len(targets_of(net)) > 1
        options = ExportOptions(target=target, calibration_images=4, output=tmp_path, min_coverage=0.0, per_op=per_op)
        artifact = export(source, options=options)
        parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
        assert parity["ok"]
        least = LEAST_COVERAGE.get((net, target), 1.0)
        assert coverage["macs_share"] >= least
        if target.startswith("tflite"):
            assert coverage["partitions"] == PARTITIONS.get(net, 1)
        if target.endswith("int8"):
            assert coverage["int8_share"] >= least
        if target.endswith("int8") and per_op:
            assert parity["per_op"]["within_one_code_min_share"] >= 0.999
            assert parity["per_op"]["max_codes"] <= 2
        if target == "tflite-int8":
            # Our integer reference rounds as XNNPACK does, so whole nets come out bit for bit.
            assert parity["max_codes_end_to_end"] == 0
            assert constants(assert_pruned_is_masked(source.to_graph())) < constants(source.to_graph())
        assert artifact.manifest["net"]["params"] <= sum(p.numel() for p in source.module.parameters())


class TestNetsAToE(Contract):
    letters = "abcde"


class TestNetsFToQ(Contract):
    letters = "fghijklmnopq"


class TestResidualNets(Contract):
    letters = "r"


class TestNetsSToZ(Contract):
    letters = "stuvwxyz"


def test_every_net_is_in_one_of_the_classes():
    classes = Contract.__subclasses__()
    assert all(sum(name[0] in c.letters for c in classes) == 1 for name in NETS)
