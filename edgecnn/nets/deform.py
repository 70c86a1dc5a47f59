"""Deformable convolution, in plain PyTorch: a convolution whose taps read where offsets tell them to, between pixels.

v1 (Dai et al. 2017, arXiv:1703.06211) moves each tap by an offset of its own at each place; v2 (Zhu et al. 2019,
arXiv:1811.11168) also multiplies what the tap reads by a mask. Shapes, order and values are those of
`torchvision.ops.deform_conv2d`, which needs no compiled operator here.

It is one operator, `edgecnn::deform_conv2d`, so that `torch.export` keeps it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Pair = tuple[int, int]
Version = Literal[1, 2]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """A deformable convolution; the arguments stand in torchvision's order.

    Args:
        x: [N, C, H, W]. The channels lie in G offset groups, G being what `offset` has room for.
        offset: [N, 2 * G * kh * kw, H', W'], in pixels: for each group and tap, dy and then dx.
        weight: [O, C / groups, kh, kw].
        bias: [O].
        stride: rows and columns.
        padding: rows and columns of zeros on both sides.
        dilation: rows and columns.
        mask: [N, G * kh * kw, H', W'], as it is multiplied: a sigmoid is the caller's. None is v1.

    Returns:
        [N, O, H', W'].

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(x, offset, weight, mask)
    places = _output_size(x, weight, stride, padding, dilation)
    if tuple(offset.shape[2:]) != places:
        raise ValueError(f"offsets for {tuple(offset.shape[2:])} places, and the convolution has {places}")
    result: Tensor = torch.ops.edgecnn.deform_conv2d(
        x, weight, offset, mask, bias, list(stride), list(padding), list(dilation)
    )
    return result


def _check(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None) -> None:
    taps = weight.shape[2] * weight.shape[3]
    groups, rest = divmod(offset.shape[1], 2 * taps)
    if rest or not groups or x.shape[1] % groups:
        raise ValueError(f"{offset.shape[1]} channels of offsets for {taps} taps over {x.shape[1]} channels")
    if x.shape[1] % weight.shape[1] or weight.shape[0] % (x.shape[1] // weight.shape[1]):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} for {x.shape[1]} channels")
    if mask is not None and mask.shape[1] != groups * taps:
        raise ValueError(f"{mask.shape[1]} channels of masks, expected {groups * taps}")


def _output_size(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    return tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    )


def deform_conv2d_decomposed(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """What `deform_conv2d` computes, from operators of PyTorch: sampled patches times the weight."""
    n, channels = x.shape[:2]
    outputs, per_group, *kernel = weight.shape
    height, width = offset.shape[2:]
    taps = kernel[0] * kernel[1]
    rows, columns = _sampled_at(offset, kernel, stride, padding, dilation)
    offset_groups = rows.shape[1]
    maps = x.reshape(n * offset_groups, channels // offset_groups, *x.shape[2:])
    patches = _bilinear(maps, rows.reshape(n * offset_groups, -1), columns.reshape(n * offset_groups, -1))
    if mask is not None:
        patches = patches * mask.reshape(n * offset_groups, 1, -1)
    groups = channels // per_group
    patches = patches.reshape(n, groups, per_group * taps, height * width)
    products = weight.reshape(groups, outputs // groups, per_group * taps) @ patches
    y = products.reshape(n, outputs, height, width)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _sampled_at(
    offset: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[Tensor, Tensor]:
    """Row and column, in pixels of the input, that each tap reads: two tensors [N, G, kh * kw, H', W']."""
    n, _, height, width = offset.shape
    moved = offset.reshape(n, -1, kernel[0] * kernel[1], 2, height, width)

    def regular(axis: int, size: int) -> Tensor:
        """[k, size]: where tap and output lie along one axis without offset."""
        at = torch.arange(size, dtype=offset.dtype, device=offset.device) * stride[axis] - padding[axis]
        taps = torch.arange(kernel[axis], dtype=offset.dtype, device=offset.device) * dilation[axis]
        return taps[:, None] + at

    rows = regular(0, height)[:, None, :, None].expand(*kernel, height, width).reshape(-1, height, width)
    columns = regular(1, width)[None, :, None, :].expand(*kernel, height, width).reshape(-1, height, width)
    return moved[:, :, :, 0] + rows, moved[:, :, :, 1] + columns


def _bilinear(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`maps` [M, C, H, W] in between pixels, at P places [M, P] for each map: [M, C, P]. Zero lies around the maps."""
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    top, left = rows.detach().floor(), columns.detach().floor()
    sampled = torch.zeros((), dtype=maps.dtype, device=maps.device)
    for y, row_share in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for x, column_share in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            # Clamped before it becomes an integer, so that an offset of any size is an index.
            index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
            share = torch.where(inside, row_share * column_share, 0.0)
            pixels = flat.gather(2, index[:, None, :].expand(-1, flat.shape[1], -1))
            sampled = sampled + pixels * share[:, None, :]
    return sampled


# ------------------------------------------------------------------------------------------------- the operator

_library = torch.library.Library("edgecnn", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, "
    "int[] stride, int[] padding, int[] dilation) -> Tensor"
)
torch.library.impl(_library, "deform_conv2d", "CompositeExplicitAutograd")(deform_conv2d_decomposed)
_TENSORS = 5
"""How many of its arguments are tensors: they come first."""


@torch.library.register_fake("edgecnn::deform_conv2d", lib=_library)  # type: ignore[untyped-decorator]
def _shape(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], *_output_size(x, weight, stride, padding, dilation)))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.geometry = inputs[_TENSORS:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """By computing the patches once more under autograd: they are not kept, and take kh * kw times the input."""
    wanted = ctx.needs_input_grad[:_TENSORS]
    leaves: list[Any] = [
        t if t is None else t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)
    ]
    with torch.enable_grad():
        y = deform_conv2d_decomposed(*leaves, *ctx.geometry)
    asked = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad(y, asked, grad))
    gradients = [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]
    return (*gradients, None, None, None)


torch.library.register_autograd("edgecnn::deform_conv2d", _gradients, setup_context=_remember, lib=_library)


# --------------------------------------------------------------------------------------------------- the layers


class DeformConv2d(nn.Conv2d):
    """A deformable convolution whose offsets (and masks) the caller gives; state and initialisation of `nn.Conv2d`."""

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """See `deform_conv2d`."""
        geometry = (self.stride, self.padding, self.dilation)
        return deform_conv2d(x, offset, self.weight, self.bias, *geometry, mask=mask)  # type: ignore[arg-type]


class DeformableConv2d(DeformConv2d):
    """A deformable convolution that finds its offsets itself, by a convolution of the same geometry over its input.

    `offset` and, in v2, `mask` begin at zero: v1 then is the plain convolution of its `weight` and `bias`, v2 half of
    it, as the sigmoid of 0 is 1/2. Weights of a plain convolution load but for these branches.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the square kernel.
        stride: of rows and columns.
        padding: zeros on each side.
        dilation: of rows and columns.
        groups: of the weight.
        bias: whether there is one.
        version: 1, offsets alone; 2, masks too.
        offset_groups: parts of the input channels with offsets (and masks) of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        *,
        bias: bool = True,
        version: Version = 2,
        offset_groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        taps = offset_groups * kernel_size**2
        self.offset = nn.Conv2d(in_channels, 2 * taps, kernel_size, stride, padding, dilation)
        self.mask = nn.Conv2d(in_channels, taps, kernel_size, stride, padding, dilation) if version == 2 else None
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Zeroes the branches that find offsets and masks, as at the beginning of training."""
        for branch in (self.offset, self.mask):
            for parameter in branch.parameters() if branch is not None else ():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """[N, O, H', W'] of [N, C, H, W]."""
        mask = None if self.mask is None else torch.sigmoid(self.mask(x))
        return super().forward(x, self.offset(x), mask)
