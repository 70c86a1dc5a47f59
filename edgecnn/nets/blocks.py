"""Building blocks beside the convolutions: blocks of nets, gates, moves, activations, norms."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from edgecnn.nets.block_registry import block
from edgecnn.nets.convolution_blocks import Channels, Groups, OutChannels, Stride
from edgecnn.nets.layers import SqueezeExcitation, channel_shuffle
from edgecnn.nets.mobilenet_v1 import DepthwiseSeparable
from edgecnn.nets.mobilenet_v2 import InvertedResidual
from edgecnn.nets.options import About
from edgecnn.nets.squeezenet import Fire


@block(
    "depthwise_separable",
    source="Howard et al. 2017 (MobileNet), arXiv:1704.04861, section 3.1",
    computes=("y = relu(norm(pointwise(relu(norm(depthwise3x3(x))))))",),
    params="9*M + N*M",
    macs="(9*M + N*M)*h*w",
    norm_params="2*M + 2*N",
    identities=(("share of the standard convolution", "1/N + 1/9"),),
)
def depthwise_separable(*, channels: Channels = 64, out_channels: OutChannels = 64, stride: Stride = 1) -> nn.Module:
    """MobileNetV1's block: filter each channel, then mix them."""
    return DepthwiseSeparable(channels, out_channels, stride, nn.ReLU)


@block(
    "inverted_residual",
    source="Sandler et al. 2018 (MobileNetV2), arXiv:1801.04381, section 3.3",
    computes=(
        "z = norm(project(relu6(norm(depthwise3x3(relu6(norm(expand(x))))))), expand: 1x1 to t*M channels",
        "y = x + z if stride is 1 and N = M, else z",
    ),
    params="t*M*(M + 9 + N)",
    macs="t*M*M*H*W + t*M*(9 + N)*h*w",
    norm_params="4*t*M + 2*N",
)
def inverted_residual(
    *,
    channels: Channels = 64,
    out_channels: OutChannels = 64,
    stride: Stride = 1,
    expansion: Annotated[int, About("t, of the channels in between", at_least=2)] = 6,
) -> nn.Module:
    """MobileNetV2's block: expand, filter each channel, project without activation."""
    return InvertedResidual(channels, out_channels, stride=stride, expansion=expansion)


@block(
    "fire_module",
    source="Iandola et al. 2016 (SqueezeNet), arXiv:1602.07360, section 3.2",
    computes=("z = relu(squeeze1x1(x)), S channels", "y = relu(expand1x1(z)) and relu(expand3x3(z)), E channels each"),
    params="M*S + S + S*E + E + 9*S*E + E",
    macs="(M*S + 10*S*E)*h*w",
)
def fire_module(
    *,
    channels: Channels = 64,
    squeezed: Annotated[int, About("channels in between", at_least=1)] = 16,
    expanded: Annotated[int, About("channels of each of the two outputs", at_least=1)] = 32,
) -> nn.Module:
    """SqueezeNet's block: squeeze the channels, then 1x1 and 3x3 side by side."""
    return Fire(channels, squeezed, expanded)


@block(
    "squeeze_excite",
    source="Hu et al. 2018, arXiv:1709.01507",
    computes=("y[c] = x[c] * sigmoid(W2 relu(W1 mean(x) + b1) + b2)[c], M/r channels in between",),
    params="2*M^2/r + M/r + M",
    macs="2*M^2/r",
)
def squeeze_excite(
    *, channels: Channels = 64, reduction: Annotated[int, About("r, divides the channels", at_least=1)] = 16
) -> nn.Module:
    """Scales every channel by a gate computed from the means of all channels."""
    if channels % reduction:
        raise ValueError("reduction divides channels")
    return SqueezeExcitation(channels, channels // reduction)


class ChannelShuffle(nn.Module):
    """`channel_shuffle` as a layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """The channels of x, those of its groups interleaved."""
        return channel_shuffle(x, self.groups)


@block(
    "channel_shuffle",
    source="Zhang et al. 2018 (ShuffleNet), arXiv:1707.01083, section 3.1",
    computes=("y[m*G + g] = x[g*M/G + m]",),
    remarks=("Computes nothing; what it costs is moving the data. Two of M/G and G groups cancel.",),
)
def shuffle(*, channels: Channels = 64, groups: Groups = 4) -> nn.Module:
    """Channels of all groups, one after the other, so that the next groups see all of them."""
    if channels % groups:
        raise ValueError("groups divides channels")
    return ChannelShuffle(groups)


@block(
    "swish",
    source="Ramachandran et al. 2017, arXiv:1710.05941; Elfwing et al. 2017 (SiLU), arXiv:1702.03118",
    computes=("y = x * sigmoid(x)",),
)
def swish(*, channels: Channels = 64) -> nn.Module:
    """A smooth gate of each number by itself."""
    return nn.SiLU()


@block(
    "h_swish",
    source="Howard et al. 2019 (MobileNetV3), arXiv:1905.02244, section 5.2",
    computes=("y = x * relu6(x + 3) / 6",),
    remarks=("Differs from swish by at most 0.1423, at |x| = 3.",),
)
def h_swish(*, channels: Channels = 64) -> nn.Module:
    """Swish with a piecewise linear sigmoid."""
    return nn.Hardswish()


@block(
    "h_sigmoid",
    source="Howard et al. 2019 (MobileNetV3), arXiv:1905.02244, section 5.2",
    computes=("y = relu6(x + 3) / 6",),
)
def h_sigmoid(*, channels: Channels = 64) -> nn.Module:
    """A piecewise linear sigmoid."""
    return nn.Hardsigmoid()


@block(
    "local_response_norm",
    source="Krizhevsky et al. 2012 (AlexNet), section 3.3",
    computes=("y[c] = x[c] / (bias + alpha * sum of x[j]^2 over the `size` channels j around c)^beta",),
    remarks=("`alpha` is the paper's; PyTorch divides its own by the size of the window.",),
)
def local_response_norm(
    *,
    channels: Channels = 64,
    size: Annotated[int, About("channels in the sum", at_least=1)] = 5,
    alpha: Annotated[float, About("weight of the sum", at_least=0)] = 1e-4,
    beta: Annotated[float, About("exponent", above=0)] = 0.75,
    bias: Annotated[float, About("the paper's k", above=0)] = 2.0,
) -> nn.Module:
    """Divides each number by the strength of its neighbours in other channels."""
    return nn.LocalResponseNorm(size, alpha=alpha * size, beta=beta, k=bias)
