"""The building blocks that families share, with torchvision's parameter names and initialisation.

Nothing here works in place: an importer then never has to ask who else reads a value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgecnn.nets.options import Stem

Norm = Callable[[int], nn.Module]
Activation = Callable[[], nn.Module]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, at least one multiple and never below 90 % of `channels`.

    Source: tensorflow/models research/slim/nets/mobilenet; torchvision `_make_divisible`.

    Example:
        >>> make_divisible(72 // 4), make_divisible(32 * 0.35)
        (24, 16)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def stem_stride(stem: Stem) -> int:
    """Stride of the first convolution: 2 as published, 1 so that a 32x32 image keeps its resolution."""
    return 2 if stem == "imagenet" else 1


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation; "same" padding for odd kernels at stride 1.

    State: `0` the convolution (without bias), `1` the norm, as in torchvision's `Conv2dNormActivation`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm: Norm = nn.BatchNorm2d,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False
        )
        layers: list[nn.Module] = [conv, norm(out_channels)]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate computed from the means of all channels.

    State: `fc1` and `fc2`, 1x1 convolutions with bias, as in torchvision.

    Source: Hu et al. 2018, arXiv:1709.01507.
    """

    def __init__(
        self, channels: int, squeezed: int, *, activation: Activation = nn.ReLU, gate: Activation = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = gate()

    def forward(self, x: Tensor) -> Tensor:
        """`x` with every channel scaled by its gate."""
        gate = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return torch.mul(self.scale_activation(gate), x)


class StochasticDepth(nn.Module):
    """Drops the branch of whole images in training, and scales the others to keep the mean; the identity in eval mode.

    Source: Huang et al. 2016, arXiv:1603.09382; torchvision `StochasticDepth` with mode "row".
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """`x`, or in training zeros for a share `drop` of the images and `x / (1 - drop)` for the others."""
        if not self.training or self.drop == 0.0:
            return x
        keep = 1.0 - self.drop
        kept = torch.empty((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (kept / keep)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """`x` with the channels of its groups interleaved: channel g * (C / groups) + k goes to k * groups + g."""
    n, channels, height, width = x.shape
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        # Shuffled where they are, the channels stay last, and no convolution behind has to turn them again.
        x_nhwc = x.permute(0, 2, 3, 1).view(n, height, width, groups, channels // groups)
        return x_nhwc.transpose(3, 4).reshape(n, height, width, channels).permute(0, 3, 1, 2)
    return x.view(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)


def init_conv_nets(root: nn.Module, *, linear_std: float | None = 0.01) -> None:
    """Initialises `root` in place as torchvision does: He by fan-out for convolutions, ones and zeros for norms.

    Linear layers get normal weights of `linear_std` and zero bias; None leaves them as torch made them.
    """
    for module in root.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0.0, linear_std)
            nn.init.zeros_(module.bias)
