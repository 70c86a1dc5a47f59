"""Deformable convolutions compute what the papers say, have its gradients, and are plain ones where nothing moves."""

from __future__ import annotations

from itertools import product
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.nets.deform import DeformableConv2d, DeformConv2d, deform_conv2d

CASES = {
    "plain": {},
    "strided": {"stride": (2, 1), "padding": (1, 2)},
    "dilated": {"dilation": (2, 1), "padding": (2, 0)},
    "offset_groups": {"offset_groups": 2, "padding": (1, 1)},
    "groups": {"groups": 2, "padding": (1, 1)},
    "both_groups": {"groups": 2, "offset_groups": 4},
    "depthwise": {"groups": 4, "offset_groups": 2, "padding": (1, 0)},
}
KERNEL = (3, 2)


def drawn(name: str, *, modulated: bool) -> tuple[dict[str, Tensor | None], dict[str, tuple[int, int]]]:
    """Tensors in float64 with offsets of up to some pixels, so that many samples lie outside of the image."""
    case = dict(CASES[name])
    groups, offset_groups = case.pop("groups", 1), case.pop("offset_groups", 1)
    geometry = {key: case.get(key, (0, 0) if key == "padding" else (1, 1)) for key in ("stride", "padding", "dilation")}
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=random)

    x, weight = normal(2, 4, 7, 6), normal(8, 4 // groups, *KERNEL)
    shape = F.conv2d(x, weight, None, groups=groups, **geometry).shape[2:]
    taps = offset_groups * KERNEL[0] * KERNEL[1]
    mask = torch.sigmoid(normal(2, taps, *shape)) if modulated else None
    return {
        "x": x,
        "offset": 3 * normal(2, 2 * taps, *shape),
        "weight": weight,
        "bias": normal(8),
        "mask": mask,
    }, geometry


def directly(x, offset, weight, bias, mask, stride, padding, dilation) -> np.ndarray:
    """The sum over taps of equation 1 of Zhu et al. 2019, number by number."""
    n, channels, height, width = x.shape
    outputs, per_group, kh, kw = weight.shape
    offset_groups = offset.shape[1] // (2 * kh * kw)
    y = np.zeros((n, outputs, *offset.shape[2:]))

    def pixel(b: int, c: int, i: int, j: int) -> float:
        return x[b, c, i, j] if 0 <= i < height and 0 <= j < width else 0.0

    for b, o, i, j in np.ndindex(*y.shape):
        y[b, o, i, j] = bias[o]
        for k, (c, u, v) in enumerate(product(range(per_group), range(kh), range(kw))):
            channel = o // (outputs // (channels // per_group)) * per_group + c
            tap = channel // (channels // offset_groups) * kh * kw + k % (kh * kw)
            row = i * stride[0] - padding[0] + u * dilation[0] + offset[b, 2 * tap, i, j]
            column = j * stride[1] - padding[1] + v * dilation[1] + offset[b, 2 * tap + 1, i, j]
            top, left = floor(row), floor(column)
            read = sum(
                (1 - abs(row - r)) * (1 - abs(column - q)) * pixel(b, channel, r, q)
                for r in (top, top + 1)
                for q in (left, left + 1)
            )
            y[b, o, i, j] += weight[o, c, u, v] * read * (1.0 if mask is None else mask[b, tap, i, j])
    return y


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_sum_of_the_paper(name: str, modulated: bool) -> None:
    tensors, geometry = drawn(name, modulated=modulated)
    found = deform_conv2d(**tensors, **geometry).numpy()
    expected = directly(**{k: None if t is None else t.numpy() for k, t in tensors.items()}, **geometry)
    # At most 4 * 6 taps of some ten roundings each, of terms of order 10.
    np.testing.assert_allclose(found, expected, rtol=0, atol=24 * 10 * 10 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("name", CASES)
def test_torchvision_agrees(name: str, modulated: bool) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        pytest.skip("torchvision's compiled operators are not there")
    tensors, geometry = drawn(name, modulated=modulated)
    theirs = ops.deform_conv2d(tensors["x"], **{k: t for k, t in tensors.items() if k != "x"}, **geometry)
    torch.testing.assert_close(deform_conv2d(**tensors, **geometry), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["strided", "both_groups"])
def test_gradients(name: str) -> None:
    tensors, geometry = drawn(name, modulated=True)
    leaves = [t.requires_grad_() for t in tensors.values() if t is not None]

    def function(*values: Tensor) -> Tensor:
        return deform_conv2d(**dict(zip(tensors, values, strict=True)), **geometry)

    # Differences over 1e-6 in float64; there are kinks where a sample lies on a pixel, which random offsets miss.
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_the_operator_keeps_the_rules_of_operators() -> None:
    tensors, geometry = drawn("plain", modulated=True)
    leaves = [tensors[key].requires_grad_() for key in ("x", "weight", "offset", "mask", "bias")]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = torch.ops.edgecnn.deform_conv2d.default
    torch.library.opcheck(operator, (*leaves, *map(list, geometry.values())), test_utils=checks)


@pytest.mark.parametrize(("version", "share"), [(1, 1.0), (2, 0.5)])
def test_it_begins_as_the_plain_convolution(version: int, share: float) -> None:
    layer = DeformableConv2d(6, 4, 3, 2, 1, groups=2, version=version, offset_groups=3)
    x = torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(0))
    plain = F.conv2d(x, layer.weight * share, layer.bias, 2, 1, groups=2)
    # Whole offsets are read without interpolation: the same 27 products of order 1 in another order.
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=27 * 4 * torch.finfo(torch.float32).eps)


def test_offsets_of_one_pixel_shift_the_image() -> None:
    layer = DeformConv2d(3, 5, 3, padding=1)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    down = torch.tensor([1.0, 0.0]).repeat(9).reshape(1, 18, 1, 1).expand(1, 18, 8, 8)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, down)[:, :, :-2], plain[:, :, 1:-1], rtol=0, atol=1e-5)


def test_a_far_offset_reads_zero() -> None:
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    for far in (1e9, -1e9):
        assert not deform_conv2d(x, torch.full((1, 2, 4, 4), far), weight).any()


@pytest.mark.parametrize(
    ("offsets", "masks", "message"),
    [(17, None, "17 channels of offsets"), (0, None, "0 channels of offsets"), (18, 8, "8 channels of masks")],
)
def test_shapes_that_do_not_fit(offsets: int, masks: int | None, message: str) -> None:
    mask = None if masks is None else torch.zeros(1, masks, 4, 4)
    with pytest.raises(ValueError, match=message):
        deform_conv2d(torch.zeros(1, 2, 6, 6), torch.zeros(1, offsets, 4, 4), torch.zeros(3, 2, 3, 3), mask=mask)


def test_offsets_for_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offsets for \(5, 5\) places, and the convolution has \(4, 4\)"):
        deform_conv2d(torch.zeros(1, 2, 6, 6), torch.zeros(1, 18, 5, 5), torch.zeros(3, 2, 3, 3))
