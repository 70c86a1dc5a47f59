"""Rare shapes, from the module in PyTorch to the numbers of both runtimes, in float and in int8."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import strategies  # noqa: F401  (its settings of hypothesis)
import torch
from hypothesis import given
from hypothesis import strategies as st
from litert_runs import emitted, load
from onnx_cases import execute, quantised
from torch import Tensor, nn

from edgecnn.ir import quantized, reference
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Array, Graph
from edgecnn.passes.standard import STANDARD, run_passes
from edgecnn.quant.scheme import LITERT, ORT_U8
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions

F32 = float(np.finfo(np.float32).eps)


def images(shape: tuple[int, ...], *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)


def prove(module: nn.Module, shape: tuple[int, ...], *, terms: int, codes_apart: int = 0) -> Graph:
    """Asserts that all targets compute what `module` does, XNNPACK all of it; returns the rewritten graph.

    Args:
        module: at most one layer of sums, so that float32 differs by the order of one sum.
        shape: of an image.
        terms: how many products are summed.
        codes_apart: by how many codes ONNX Runtime may differ (see `ir.quantized`); LiteRT never does.
    """
    module.eval()
    x = images(shape)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    graph, _ = run_passes(import_module(module, shape, name="net"), STANDARD)
    # A sum of n terms of at most the size of the largest output, in two orders, and some roundings besides.
    bound = (terms + 8) * F32 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(reference.run(graph, x)[0], expected, rtol=0, atol=bound)

    loaded = load(emitted(graph, target="tflite-fp32", batch=2).data)
    assert not loaded.left_out
    np.testing.assert_allclose(loaded.run(x), expected, rtol=0, atol=bound)
    onnx = all_targets()["onnx-fp32"].emit(graph, EmitOptions(batch=2)).data
    np.testing.assert_allclose(execute(onnx, x)[0], expected, rtol=0, atol=bound)

    coded = quantised(graph, LITERT)
    codes = coded.value(graph.inputs[0]).q.quantize(x)  # type: ignore[union-attr]
    loaded = load(emitted(coded, batch=2).data)
    assert not loaded.left_out
    assert np.array_equal(loaded.run(codes), quantized.run_codes(coded, codes)[0])

    coded = quantised(graph, ORT_U8)
    codes = coded.value(graph.inputs[0]).q.quantize(x)  # type: ignore[union-attr]
    onnx = all_targets()["onnx-int8"].emit(coded, EmitOptions(batch=2, input_type="uint8")).data
    apart = execute(onnx, codes)[0].astype(int) - quantized.run_codes(coded, codes)[0].astype(int)
    assert np.abs(apart).max() <= codes_apart
    return graph


# ---------------------------------------------------------------------------------------------------- convolutions


def convolutions() -> Iterator[tuple[str, nn.Module]]:
    for k in (2, 4, 5, 7, 9, 11):
        yield f"dense_{k}", nn.Conv2d(6, 8, k, padding=k // 2)
        yield f"dense_{k}_strided", nn.Conv2d(6, 8, k, 2, padding=(k - 1) // 2)
        yield f"depthwise_{k}", nn.Conv2d(6, 6, k, padding=k // 2, groups=6)
        yield f"depthwise_{k}_strided", nn.Conv2d(6, 12, k, 2, padding=(k - 1) // 2, groups=6)
    for d in (2, 3, 4):
        yield f"dilated_{d}", nn.Conv2d(6, 8, 3, padding=d, dilation=d)
        yield f"dilated_{d}_depthwise", nn.Conv2d(6, 6, 3, padding=d, dilation=d, groups=6)
        yield f"dilated_{d}_grouped", nn.Conv2d(6, 9, 3, padding=d, dilation=d, groups=3)
        yield f"dilated_{d}_strided", nn.Conv2d(6, 8, 3, 2, padding=d, dilation=d)
        yield f"dilated_{d}_grouped_strided", nn.Conv2d(6, 4, 3, (1, 2), padding=d, dilation=d, groups=2)
    yield "dilated_unevenly", nn.Conv2d(6, 6, (5, 3), (2, 1), (4, 3), (2, 3), groups=6)
    yield "dilated_without_padding", nn.Conv2d(6, 8, 3, dilation=(3, 2), groups=2)
    yield "row", nn.Conv2d(6, 8, (1, 7), padding=(0, 3))
    yield "column_grouped", nn.Conv2d(6, 9, (7, 1), padding=(3, 0), groups=3)
    yield "padded_more_than_the_kernel", nn.Conv2d(6, 8, 3, padding=5)
    yield "same_of_an_even_kernel", nn.Conv2d(6, 8, 4, padding="same", dilation=(1, 3))
    for pad in ((3, 0, 2, 5), (0, 1, 0, 1), (1, 0, 1, 0), (0, 4, 1, 0)):
        name = "_".join(map(str, pad))
        yield f"padded_{name}", nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(6, 8, 3))
        yield f"padded_{name}_strided", nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(6, 6, 3, 2, groups=6))
    yield "stride_beyond_the_kernel", nn.Conv2d(6, 8, 2, 3)
    yield "points_grouped", nn.Conv2d(6, 9, 1, 2, groups=3)


CONVOLUTIONS = dict(convolutions())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]
    weight = next(p for p in conv.parameters() if p.ndim == 4)
    nn.init.normal_(weight)
    prove(conv, (6, 13, 12), terms=weight[0].numel())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(11, 4, 2), (7, 2, 3), (5, 3, 2), (3, 2, 0), (6, 2, 2)])
def test_first_layers(kernel: int, stride: int, padding: int) -> None:
    """Of three channels: the targets have forms of their own for these."""
    torch.manual_seed(0)
    prove(nn.Conv2d(3, 8, kernel, stride, padding), (3, 24, 28), terms=3 * kernel**2)


# ----------------------------------------------------------------------------------------------------------- pools


@st.composite
def windows(draw: st.DrawFn) -> tuple[dict[str, object], tuple[int, int, int]]:
    """The arguments of a pool, and images that it does not refuse."""
    sizes: list[tuple[int, ...]] = []
    for _ in range(2):
        kernel = draw(st.integers(1, 5))
        sizes.append((kernel, draw(st.integers(1, 4)), draw(st.integers(0, kernel // 2))))
    kernel, stride, padding = zip(*sizes, strict=True)
    shape = (3, *(draw(st.integers(max(k, 4), 10)) for k in kernel))
    ceil = draw(st.booleans())
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}, shape


@given(windows(), st.booleans())
def test_average_pools(case: tuple[dict, tuple[int, int, int]], include: bool) -> None:
    arguments, shape = case
    # The mean of codes is one rounding in both runtimes, at halves to different sides.
    prove(nn.AvgPool2d(**arguments, count_include_pad=include), shape, terms=25, codes_apart=1)


@given(windows(), st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_max_pools(case: tuple[dict, tuple[int, int, int]], dilation: tuple[int, int]) -> None:
    arguments, (channels, *sides) = case
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, arguments["kernel_size"], strict=True)]
    shape = (channels, *(max(side, r) for side, r in zip(sides, reach, strict=True)))
    prove(nn.MaxPool2d(**arguments, dilation=dilation), shape, terms=0)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("side", [6, 7, 8])
def test_average_pools_that_round_up(include: bool, side: int) -> None:
    """At the end a window counts its pixels, the padding that was asked for, and nothing of what rounding up adds."""
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=include)
    prove(pool, (4, side, side + 1), terms=9, codes_apart=1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side", "out"),
    [
        (2, 2, 1, 6, 4),  # rounding up changes nothing
        (2, 2, 1, 7, 4),  # a fifth window would begin behind the input, in the padding, and is left out
        (2, 3, 1, 7, 3),
        (3, 2, 0, 8, 4),  # the last window hangs over the end
        (1, 2, 0, 7, 4),
        (2, 3, 0, 8, 3),  # the stride jumps over pixels
    ],
)
def test_max_pools_that_round_up(kernel: int, stride: int, padding: int, side: int, out: int) -> None:
    graph = prove(nn.MaxPool2d(kernel, stride, padding, ceil_mode=True), (4, side, side), terms=0)
    assert graph.shape(graph.outputs[0])[2:] == (out, out)


# -------------------------------------------------------------------------------------------- joins and arithmetic


class Branches(nn.Module):
    """Convolutions side by side, each with a range of its own."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, 1 + i % 3, 1) for i in range(count))
        for i, branch in enumerate(self.branches):
            nn.init.normal_(branch.weight, std=2.0 ** (i % 7 - 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches)], 1)


@pytest.mark.parametrize("count", [2, 4, 5, 11, 23])
def test_concatenations_of_many_branches(count: int) -> None:
    torch.manual_seed(0)
    prove(Branches(count, 5), (5, 6, 7), terms=5)


class Calls(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


CONSTANTS = {
    shape: torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for shape in [(7,), (6, 1), (6, 7), (5, 1, 1), (5, 6, 7), (1, 5, 6, 7), (210,), (1, 210), (5, 1), (42,)]
}


RANKS = {
    "number": lambda x: x + 1.5,
    "columns": lambda x: x * CONSTANTS[7,],
    "rows": lambda x: x + CONSTANTS[6, 1],
    "map": lambda x: x * CONSTANTS[6, 7],
    "channels": lambda x: x + CONSTANTS[5, 1, 1],
    "image": lambda x: x - CONSTANTS[5, 6, 7],
    "image_before": lambda x: CONSTANTS[1, 5, 6, 7] - x,
    "features": lambda x: x.flatten(1) * CONSTANTS[210,],
    "features_of_one_row": lambda x: x.flatten(1) + CONSTANTS[1, 210],
    "three_axes": lambda x: x.flatten(2) * CONSTANTS[5, 1] + CONSTANTS[42,],
    "gate_without_axes": lambda x: x * x.mean((2, 3))[:, :, None, None],
    "gate_of_rows": lambda x: x * x.flatten(2)[:, :, :6, None],
}


@pytest.mark.parametrize("name", RANKS)
def test_operands_of_different_rank(name: str) -> None:
    prove(Calls(RANKS[name]), (5, 6, 7), terms=42, codes_apart=1)


# ---------------------------------------------------------------------------------- normalisation inside of the net


class Transformed(nn.Module):
    """Three channels brought to another normalisation one by one, as torchvision's GoogLeNet and Inception v3 do it."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, padding)

    def forward(self, x: Tensor) -> Tensor:
        channels = [
            torch.unsqueeze(x[:, i], 1) * (std / 0.5) + (mean - 0.5) / 0.5
            for i, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])
        ]
        y: Tensor = self.conv(torch.cat(channels, 1))
        return y


@pytest.mark.parametrize(("padding", "kinds"), [(0, ["conv"]), (1, ["pad", "conv"])])
def test_a_normalisation_channel_by_channel_costs_nothing(padding: int, kinds: list[str]) -> None:
    torch.manual_seed(0)
    graph = prove(Transformed(padding), (3, 16, 14), terms=27)
    assert [op.kind for op in graph.ops] == kinds
