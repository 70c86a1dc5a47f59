"""Heterogeneous convolution: each filter has 3x3 kernels on one P-th of its input channels and 1x1 on the others.

Source: Singh et al. 2019, "HetConv", CVPR, arXiv:1903.04120.

The paper shifts the 3x3 kernels from filter to filter: filter f has one on channel c where (c - f) mod P is 0. Filters
with the same remainder share their channels, so with channels and filters sorted by remainder (`residue_order`) the
layer is a 3x3 convolution in P groups plus a 1x1 convolution that is zero within the groups. Which channels stand in
which group is a matter of naming, and here they stand in sorted order from the start.

Only kernels that exist are parameters: no masks on gradients, no zeros that drift. The dense 1x1 weight is assembled
from them in every forward pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def residue_order(channels: int, p: int) -> Tensor:
    """The channel numbers sorted by remainder mod `p`: the order in which this layer has the paper's channels.

    Example:
        >>> residue_order(6, 3).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    return torch.arange(channels).reshape(channels // p, p).T.reshape(-1)


class HetConv2d(nn.Module):
    """The layer.

    Shapes:
        weight_3x3: [N, M / P, 3, 3], a convolution in P groups.
        weight_1x1: [N, M - M / P], for each filter the channels outside its group, ascending; None if P is 1.
        bias: [N], or None.

    Args:
        in_channels: M; a multiple of P.
        out_channels: N; a multiple of P.
        p: P; 1 is a plain 3x3 convolution, M has one 3x3 kernel per filter.
        stride: of both convolutions.
        padding: zeros on each side; None keeps the resolution at stride 1.
        dilation: distance of the taps of a 3x3 kernel.
        bias: whether there is one.

    Raises:
        ValueError: P divides not both M and N.
    """

    pointwise_mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        p: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if in_channels % p or out_channels % p:
            raise ValueError(
                f"HetConv with P = {p} needs multiples of it, not {in_channels} and {out_channels} channels"
            )
        self.in_channels, self.out_channels, self.p, self.stride = in_channels, out_channels, p, stride
        self.padding, self.dilation = dilation if padding is None else padding, dilation
        own = in_channels // p
        self.weight_3x3 = nn.Parameter(torch.empty(out_channels, own, 3, 3))
        self.weight_1x1 = nn.Parameter(torch.empty(out_channels, in_channels - own)) if p > 1 else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        group_of_filter = torch.arange(out_channels) // (out_channels // p)
        group_of_channel = torch.arange(in_channels) // own
        self.register_buffer("pointwise_mask", group_of_filter[:, None] != group_of_channel[None], persistent=False)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """He initialisation by fan-out, which here is 9 * N / P + N - N / P; the bias is zero."""
        fan_out = self.out_channels * (9 + self.p - 1) / self.p
        for weight in (self.weight_3x3, self.weight_1x1):
            if weight is not None:
                nn.init.normal_(weight, 0.0, math.sqrt(2.0 / fan_out), generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def pointwise(self) -> Tensor:
        """The 1x1 weight [N, M, 1, 1] with zeros where the 3x3 kernels are; differentiable."""
        if self.weight_1x1 is None:
            return torch.zeros_like(self.weight_3x3[:, :, :1, :1])
        dense = self.weight_1x1.new_zeros(self.out_channels, self.in_channels)
        return dense.masked_scatter(self.pointwise_mask, self.weight_1x1)[:, :, None, None]

    def dense_kernel(self) -> Tensor:
        """The whole layer as one 3x3 weight [N, M, 3, 3], zero where a kernel is 1x1."""
        kernel = F.pad(self.pointwise(), (1, 1, 1, 1))
        own, filters = self.in_channels // self.p, self.out_channels // self.p
        groups = [
            F.pad(
                self.weight_3x3[g * filters : (g + 1) * filters],
                (0, 0, 0, 0, g * own, self.in_channels - (g + 1) * own),
            )
            for g in range(self.p)
        ]
        return kernel + torch.cat(groups)

    def forward(self, x: Tensor) -> Tensor:
        """[N, out_channels, H', W'] of x [N, in_channels, H, W], sizes as of a 3x3 convolution."""
        out = F.conv2d(x, self.weight_3x3, self.bias, self.stride, self.padding, self.dilation, groups=self.p)
        if self.p == 1:
            return out
        # A 1x1 kernel reads what the centre tap of a 3x3 one does.
        margin = self.padding - self.dilation
        if margin < 0:
            x = x[:, :, -margin:margin, -margin:margin]
        return out + F.conv2d(x, self.pointwise(), stride=self.stride, padding=max(margin, 0))

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        return (
            f"{self.in_channels}, {self.out_channels}, p={self.p}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, bias={self.bias is not None}"
        )
