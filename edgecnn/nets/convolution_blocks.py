"""Convolutions as building blocks: the standard one and those that are compared with it.

In the formulas c are the input channels of a filter, i and j the taps of its kernel; x is zero outside of the image.
"""

from __future__ import annotations

from typing import Annotated

from torch import nn

from edgecnn.nets.block_registry import block
from edgecnn.nets.deform import DeformableConv2d
from edgecnn.nets.hetconv import HetConv2d
from edgecnn.nets.igcv1 import InterleavedGroupConv
from edgecnn.nets.options import About
from edgecnn.nets.transform import Form, transform

Channels = Annotated[int, About("channels of the input", at_least=1)]
OutChannels = Annotated[int, About("channels of the output", at_least=1)]
Kernel = Annotated[int, About("side of the kernel", at_least=1)]
Stride = Annotated[int, About("of rows and columns", at_least=1)]
Groups = Annotated[int, About("parts of the channels that are filtered on their own", at_least=1)]
OffsetGroups = Annotated[int, About("parts of the input channels with offsets of their own", at_least=1)]


def convolution(
    channels: int, out_channels: int, kernel: int, stride: int = 1, *, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1, if its kernel is odd."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


@block(
    "standard_conv",
    source="LeCun et al. 1998, Gradient-based learning applied to document recognition",
    computes=("y[n, a, b] = sum over c, i, j of W[n, c, i, j] * x[c, s*a + i - pad, s*b + j - pad]",),
    params="N*M*k^2",
    macs="N*M*k^2*h*w",
)
def standard_conv(
    *, channels: Channels = 64, out_channels: OutChannels = 64, kernel: Kernel = 3, stride: Stride = 1
) -> nn.Module:
    """The dense convolution that the others are compared with."""
    return convolution(channels, out_channels, kernel, stride)


@block(
    "grouped_conv",
    source="Krizhevsky et al. 2012, section 3.2; Xie et al. 2017 (ResNeXt), arXiv:1611.05431",
    computes=(
        "y[n, a, b] = sum over c, i, j of W[n, c, i, j] * x[c, s*a + i - pad, s*b + j - pad]",
        "c: the M/G channels of n's group",
    ),
    params="N*M*k^2/G",
    macs="N*M*k^2*h*w/G",
    identities=(("share of the standard convolution", "1/G"),),
)
def grouped_conv(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    kernel: Kernel = 3,
    stride: Stride = 1,
    groups: Groups = 4,
) -> nn.Module:
    """Parts of the channels filtered each on its own."""
    return convolution(channels, out_channels, kernel, stride, groups=groups)


@block(
    "depthwise_conv",
    source="Sifre 2014, Rigid-motion scattering for image classification; Howard et al. 2017, arXiv:1704.04861",
    computes=("y[c, a, b] = sum over i, j of W[c, i, j] * x[c, s*a + i - pad, s*b + j - pad]",),
    params="M*k^2",
    macs="M*k^2*h*w",
    identities=(("share of the standard convolution", "1/N"),),
)
def depthwise_conv(*, channels: Channels = 64, kernel: Kernel = 3, stride: Stride = 1) -> nn.Module:
    """Each channel filtered on its own; nothing mixes the channels."""
    return convolution(channels, channels, kernel, stride, groups=channels)


@block(
    "dilated_conv",
    source="Yu and Koltun 2016, arXiv:1511.07122",
    computes=("y[n, a, b] = sum over c, i, j of W[n, c, i, j] * x[c, s*a + d*i - pad, s*b + d*j - pad]",),
    params="N*M*k^2",
    macs="N*M*k^2*h*w",
    identities=(("effective kernel", "d*(k - 1) + 1"),),
    remarks=("The effective kernel is that of this layer alone; what a stack of layers sees is larger.",),
)
def dilated_conv(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    kernel: Kernel = 3,
    stride: Stride = 1,
    dilation: Annotated[int, About("distance of the taps", at_least=1)] = 2,
) -> nn.Module:
    """A convolution whose taps lie apart: it sees further at the same cost."""
    return convolution(channels, out_channels, kernel, stride, dilation=dilation)


@block(
    "deformable_conv_v1",
    source="Dai et al. 2017, arXiv:1703.06211",
    computes=(
        "y[n, a, b] = sum over c, i, j of W[n, c, i, j] * x(c, s*a + i - pad + dy, s*b + j - pad + dx)",
        "x(...): bilinear between pixels",
        "dy, dx of each place and tap: a convolution of x with 2*g*k^2 channels and bias",
    ),
    params="N*M*k^2 + 2*g*k^2*(M*k^2 + 1)",
    macs="N*M*k^2*h*w + 2*g*k^2*M*k^2*h*w",
    remarks=("The bilinear reading, four pixels for each tap and channel, is not among the multiply-adds.",),
)
def deformable_conv_v1(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    kernel: Kernel = 3,
    stride: Stride = 1,
    offset_groups: OffsetGroups = 1,
) -> nn.Module:
    """A convolution whose taps move to where the image tells them."""
    return _deformable(channels, out_channels, kernel, stride, offset_groups, version=1)


@block(
    "deformable_conv_v2",
    source="Zhu et al. 2019, arXiv:1811.11168",
    computes=(
        "y[n, a, b] = sum over c, i, j of W[n, c, i, j] * m * x(c, s*a + i - pad + dy, s*b + j - pad + dx)",
        "x(...): bilinear between pixels",
        "dy, dx of each place and tap: a convolution of x with 2*g*k^2 channels and bias",
        "m of each place and tap: the sigmoid of a convolution of x with g*k^2 channels and bias",
    ),
    params="N*M*k^2 + 3*g*k^2*(M*k^2 + 1)",
    macs="N*M*k^2*h*w + 3*g*k^2*M*k^2*h*w",
    remarks=("The bilinear reading, four pixels for each tap and channel, is not among the multiply-adds.",),
)
def deformable_conv_v2(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    kernel: Kernel = 3,
    stride: Stride = 1,
    offset_groups: OffsetGroups = 1,
) -> nn.Module:
    """As v1, and a mask says how much each tap counts."""
    return _deformable(channels, out_channels, kernel, stride, offset_groups, version=2)


def _deformable(
    channels: int, out_channels: int, kernel: int, stride: int, offset_groups: int, *, version: int
) -> nn.Module:
    if channels % offset_groups:
        raise ValueError("offset_groups divides channels")
    return DeformableConv2d(
        channels,
        out_channels,
        kernel,
        stride,
        (kernel - 1) // 2,
        bias=False,
        version=1 if version == 1 else 2,
        offset_groups=offset_groups,
    )


@block(
    "interleaved_group_conv",
    source="Zhang et al. 2017 (IGCV1), arXiv:1707.02725, section 3.1",
    computes=(
        "z = a k x k convolution of x in L partitions",
        "y = a 1x1 convolution of z in N/L partitions, the m-th holding the m-th channel of each of the L",
    ),
    params="N*M*k^2/L + N*L",
    macs="(N*M*k^2/L + N*L)*h*w",
    identities=(("share of the standard convolution", "1/L + L/(M*k^2)"),),
    remarks=("Every output sees every input, as the two partitions complement each other.",),
)
def interleaved_group_conv(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    kernel: Kernel = 3,
    stride: Stride = 1,
    primary: Annotated[int, About("L, partitions of the spatial convolution", at_least=1)] = 32,
) -> nn.Module:
    """A grouped convolution and a grouped 1x1 convolution across its groups."""
    return InterleavedGroupConv(channels, out_channels, primary=primary, kernel=kernel, stride=stride)


@block(
    "hetconv",
    source="Singh et al. 2019, arXiv:1903.04120",
    computes=(
        "y[n] = sum over the M/P channels of n's group of W3[n, c] * x[c], with 3x3 kernels,",
        "       + sum over the other channels of W1[n, c] * x[c], with 1x1 kernels",
    ),
    params="9*N*M/P + N*(M - M/P)",
    macs="(9*N*M/P + N*M)*h*w",
    identities=(
        ("multiply-adds of the kernels that exist", "(9*N*M/P + N*(M - M/P))*h*w"),
        ("their share of the standard convolution", "1/P + (1 - 1/P)/9"),
    ),
    remarks=("The 1x1 convolution executes densely: zeros stand in it where the 3x3 kernels are.",),
)
def hetconv(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    stride: Stride = 1,
    p: Annotated[int, About("P; one P-th of a filter's kernels are 3x3", at_least=2)] = 4,
) -> nn.Module:
    """Filters with 3x3 kernels on some channels and 1x1 on the others."""
    return HetConv2d(channels, out_channels, p, stride=stride)


PAIR_REMARK = "The batch norm and the ReLU between the two are a choice: the paper's figures do not settle it."


@block(
    "gwc_pwc",
    source="Singh et al. 2019, arXiv:1903.04120, the form it compares with",
    computes=("y = norm(pointwise(relu(norm(z)))), z = a 3x3 convolution of x in P groups that keeps the channels",),
    params="9*M^2/P + N*M",
    macs="(9*M^2/P + N*M)*h*w",
    norm_params="2*M + 2*N",
    identities=(("share of the standard convolution", "M/(N*P) + 1/9"),),
    remarks=(PAIR_REMARK,),
)
def gwc_pwc(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    stride: Stride = 1,
    p: Annotated[int, About("groups of the 3x3 convolution", at_least=1)] = 4,
) -> nn.Module:
    """A 3x3 convolution in groups, then a 1x1 convolution."""
    return _replaced(channels, out_channels, stride, "gwc_pwc", p)


@block(
    "dwc_pwc",
    source="Singh et al. 2019, arXiv:1903.04120, the form it compares with",
    computes=("y = norm(pointwise(relu(norm(z)))), z = a 3x3 convolution of each channel of x",),
    params="9*M + N*M",
    macs="(9*M + N*M)*h*w",
    norm_params="2*M + 2*N",
    identities=(("share of the standard convolution", "1/N + 1/9"),),
    remarks=(PAIR_REMARK,),
)
def dwc_pwc(*, channels: Channels = 64, out_channels: OutChannels = 64, stride: Stride = 1) -> nn.Module:
    """A 3x3 convolution per channel, then a 1x1 convolution."""
    return _replaced(channels, out_channels, stride, "dwc_pwc", 0)


def _replaced(channels: int, out_channels: int, stride: int, form: Form, p: int) -> nn.Module:
    """A convolution with batch norm in the form that `conv=form p=P` gives it in a net."""
    pair = nn.Sequential(convolution(channels, out_channels, 3, stride), nn.BatchNorm2d(out_channels))
    transform(pair, conv=form, p=p, se=0, where=f"block {form}")
    return pair
