"""Deformable convolutions through import, passes and targets: the same numbers, and what runs where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecnn.coverage import coverage_of
from edgecnn.errors import UnsupportedOp
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import macs_of
from edgecnn.ir.reference import run
from edgecnn.nets import build_net
from edgecnn.nets.deform import DeformableConv2d, DeformConv2d
from edgecnn.passes.deform_sampling import deform_sampling
from edgecnn.passes.standard import STANDARD, run_passes
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import load_source
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions
from tests.litert_runs import emitted, load
from tests.onnx_cases import execute

SHAPE = (4, 7, 6)


def moving(layer: nn.Module) -> nn.Module:
    """`layer` with branches that give offsets of some pixels."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in layer.named_parameters():
        if "offset" in name or "mask" in name:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return layer.eval()


LAYERS = {
    "v1": lambda: DeformableConv2d(4, 6, 3, version=1),
    "v2": lambda: DeformableConv2d(4, 6, 3, 2, 1, version=2, bias=False),
    "groups": lambda: DeformableConv2d(4, 6, 3, 1, 2, 2, 2, offset_groups=4),
    "normed": lambda: nn.Sequential(DeformableConv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6()),
}


def imported(name: str) -> tuple[Graph, np.ndarray, np.ndarray]:
    """The graph of a layer, an input and what the layer gives."""
    torch.manual_seed(0)
    layer = moving(LAYERS[name]())
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        return import_module(layer, SHAPE, name=name), x.numpy(), layer(x).numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_one_op_that_computes_the_same(name: str) -> None:
    graph, x, expected = imported(name)
    assert [op.kind for op in graph.ops].count("deform_conv") == 1
    # The same operators on the same numbers; batch norm alone may order its four roundings otherwise.
    np.testing.assert_allclose(run(graph, x)[0], expected, rtol=0, atol=1e-6)


def test_its_multiply_adds_are_those_of_the_convolution() -> None:
    graph = imported("v2")[0]
    (op,) = (op for op in graph.ops if op.kind == "deform_conv")
    assert macs_of(graph, op) == 6 * 4 * 9 * 4 * 3


@pytest.mark.parametrize("name", LAYERS)
def test_float_onnx_computes_the_same(name: str) -> None:
    graph, x, expected = imported(name)
    graph, _ = run_passes(graph, STANDARD)
    found = execute(all_targets()["onnx-fp32"].emit(graph, EmitOptions(batch=2)).data, x)[0]
    # Offsets, from 36 products, are off by 36 * 2^-24 of some pixels; a tap then by as much of the difference of two
    # pixels, which is some units; 36 taps add up.
    np.testing.assert_allclose(found, expected, rtol=0, atol=36 * 10 * 36 * 2.0**-24)


def test_batch_norm_and_activation_go_into_it() -> None:
    graph, _ = run_passes(imported("normed")[0], STANDARD)
    assert [op.kind for op in graph.ops].count("batch_norm") == 0
    assert graph.makers[graph.outputs[0]].kind == "deform_conv"
    assert graph.makers[graph.outputs[0]].attrs["clip"] == (0.0, 6.0)


def test_a_batch_norm_in_front_stays_there() -> None:
    """Its shift is zero where an offset leaves the image, so it cannot move into the weight behind it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.offset, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 18, 3), DeformConv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(self.norm(torch.relu(x)), self.offset(x))
            return y

    torch.manual_seed(0)
    net = Net().eval()
    nn.init.normal_(net.norm.bias)
    graph = import_module(net, SHAPE, name="net")
    x = torch.randn(2, *SHAPE)
    after, _ = run_passes(graph, STANDARD)
    np.testing.assert_allclose(run(after, x.numpy())[0], net(x).detach().numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_reading_and_multiplying_are_the_same(name: str) -> None:
    graph, x, _ = imported(name)
    after, notes = deform_sampling(graph)
    assert len(notes) == 1
    assert [op.kind for op in after.ops].count("deform_conv") == 1
    was, now = (run(g, x, dtype=torch.float64)[0] for g in (graph, after))
    # The same 36 products in another order.
    np.testing.assert_allclose(now, was, rtol=0, atol=2 * 36 * 2.0**-53 * 100)
    assert deform_sampling(after)[1] == []


@pytest.mark.parametrize("far", [0.0, 1e3, 1e12])
@pytest.mark.parametrize("name", LAYERS)
def test_float_tflite_computes_the_same(name: str, far: float) -> None:
    graph, x, _ = imported(name)
    edit = graph.edit()
    for op in graph.ops:
        if "offset" in op.name:  # some taps far outside of the image
            bias = graph.const(op.inputs[2]) + far * np.resize([0, 0, 1, -1, 1], len(graph.const(op.inputs[2])))
            edit.swap(op, replace(op, inputs=(*op.inputs[:2], edit.const("far", bias))))
    graph, _ = run_passes(edit.finish(), [*STANDARD, deform_sampling])
    loaded = load(emitted(graph, target="tflite-fp32", batch=2).data)
    assert set(loaded.left_out) == {"CAST", "GATHER"}
    # As above; an offset near 1000 is itself off by 2^-14 pixels in float32, but reads nothing but zeros there.
    np.testing.assert_allclose(loaded.run(x), run(graph, x)[0], rtol=0, atol=36 * 10 * 36 * 2.0**-24)


def test_tflite_refuses_what_was_not_rewritten() -> None:
    graph, _, _ = imported("v1")
    with pytest.raises(UnsupportedOp) as caught:
        emitted(graph, target="tflite-fp32")
    assert "only what `deform_sampling` makes of it" in str(caught.value)
    assert "run the target's passes before emitting" in str(caught.value)


@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32"])
def test_tflite_reads_outside_of_xnnpack_and_multiplies_in_it(target: str, tmp_path) -> None:
    source = load_source("resnet18_deform", weights="random", input_shape=(3, 64, 64))
    artifact = export(source, options=ExportOptions(target=target, calibration_images=2, output=tmp_path))
    assert artifact.manifest["parity"]["ok"]
    coverage = coverage_of(artifact.path)
    assert coverage.macs_share == 1.0
    assert {"CAST", "GATHER"} <= {op.kind for op in coverage.outside}
    assert coverage.partitions == 1 + 4  # each of the four layers reads between two pieces of the net


def test_an_int8_net_multiplies_integers_and_says_what_stays_float(tmp_path) -> None:
    source = load_source("resnet18_deform", weights="random", input_shape=(3, 64, 64))
    artifact = export(source, options=ExportOptions(target="onnx-int8", calibration_images=2, output=tmp_path))
    coverage = coverage_of(artifact.path)
    assert {op.kind for op in coverage.outside if op.macs} == {"DeformConv"}
    # Of the last stage at 64x64, with 2x2 outputs: each of 9 taps of a channel is read by a kernel of 9 weights.
    reading = 4 * 9 * 9 * (256 + 3 * 512)
    assert sum(op.macs for op in coverage.outside) == reading
    assert coverage.macs_share == pytest.approx(1 - reading / coverage.macs)
    assert all("no integer kernel" in op.reason for op in coverage.outside if op.macs)
    assert artifact.manifest["parity"]["ok"]


@pytest.mark.parametrize(("version", "share"), [(1, 1.0), (2, 0.5)])
def test_resnet18_deform_begins_as_resnet18(version: int, share: float) -> None:
    plain = build_net("resnet18", stem="small", num_classes=5, seed=0).eval().double()
    net = build_net("resnet18_deform", stem="small", num_classes=5, seed=1, version=version).eval().double()
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[3] for name in missing} == ({"offset"} if version == 1 else {"offset", "mask"})
    assert unexpected == []
    with torch.no_grad():
        for block in plain.layer4:  # masks begin at 1/2
            block.conv1.weight *= share
            block.conv2.weight *= share
        x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
        # The same sums of at most 9 * 512 products in another order, four times in a row.
        torch.testing.assert_close(net(x), plain(x), rtol=0, atol=4 * 9 * 512 * 1e-15 * float(plain(x).abs().max()))


TORCHVISION = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor"
)


@pytest.fixture
def torchvision_operator() -> Iterator[None]:
    """torchvision's operator, or where it is not installed one of its name and schema that computes what ours does."""
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        yield
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(TORCHVISION)

    def compute(x, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask) -> Tensor:
        geometry = [[sh, sw], [ph, pw], [dh, dw]]
        return torch.ops.edgecnn.deform_conv2d(x, weight, offset, mask if use_mask else None, bias, *geometry)

    library.impl("deform_conv2d", compute, "CompositeExplicitAutograd")
    yield
    library._destroy()


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
def test_torchvisions_operator_is_the_same_kind(torchvision_operator: None, modulated: bool) -> None:
    class Net(nn.Module):
        """As `torchvision.ops.deform_conv2d` calls its operator, which has placeholders for mask and bias."""

        def __init__(self) -> None:
            super().__init__()
            self.offset, self.mask = nn.Conv2d(4, 36, 3, (2, 1), (1, 2)), nn.Conv2d(4, 18, 3, (2, 1), (1, 2))
            self.weight = nn.Parameter(torch.randn(6, 2, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.sigmoid(self.mask(x)) if modulated else torch.zeros((x.shape[0], 1))
            numbers = (2, 1, 1, 2, 1, 1, 2, 2, modulated)
            y: Tensor = torch.ops.torchvision.deform_conv2d(
                x, self.weight, self.offset(x), mask, torch.zeros(6), *numbers
            )
            return y

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, *SHAPE)
    graph = import_module(net, SHAPE, name="net")
    assert [op.kind for op in graph.ops].count("deform_conv") == 1
    # The same operators; torchvision's own kernel may add its 36 products of order 1 in another order.
    np.testing.assert_allclose(run(graph, x.numpy())[0], net(x).detach().numpy(), rtol=0, atol=36 * 10 * 2.0**-24)
