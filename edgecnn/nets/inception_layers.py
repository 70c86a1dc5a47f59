"""The layers that GoogLeNet and Inception v3 share, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.options import About

Pair = int | tuple[int, int]

Auxiliary = Annotated[
    bool, About("with auxiliary classifiers, which run in training only; official weights have them, artifacts do not")
]
TransformInput = Annotated[
    bool,
    About("scale the input from ImageNet's mean and std to those of 0.5 first, as the official weights expect"),
]


class BasicConv2d(nn.Module):
    """Convolution without bias, batch norm with epsilon 1e-3, ReLU. State: `conv`, `bn`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Pair, *, stride: int = 1, padding: Pair = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, out_channels, ...] from [N, in_channels, ...]."""
        return torch.relu(self.bn(self.conv(x)))


class BiasedConv2d(nn.Module):
    """Convolution with bias, ReLU. State: `conv`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Pair, *, stride: int = 1, padding: Pair = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """[N, out_channels, ...] from [N, in_channels, ...]."""
        return torch.relu(self.conv(x))


class InputTransform(nn.Module):
    """Images normalised by ImageNet's mean and std, brought to a mean and std of 0.5 per channel.

    The official weights of GoogLeNet and Inception v3 come from nets whose pixels were in -1...1, while torchvision
    normalises the images of all its nets alike. So with official weights this must be in the net; torchvision calls it
    `transform_input`. It has no state.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float64), (0.229, 0.224, 0.225)
        scale = torch.tensor(std, dtype=torch.float64) / 0.5
        self.register_buffer("scale", scale.float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).float().view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(p - 0.5) / 0.5 of x = (p - mean) / std, [N, 3, H, W]."""
        return x * self.scale + self.shift


def init_truncated(
    root: nn.Module, *, std: float, exceptions: Mapping[nn.Module, float] = MappingProxyType({})
) -> None:
    """Initialises `root` in place as torchvision's GoogLeNet and Inception v3.

    Convolutions and linear layers get normal weights within -2...2, of the deviation `std` or their own in
    `exceptions`; norms get ones and zeros; biases stay as torch made them.
    """
    for module in root.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, 0.0, exceptions.get(module, std), -2.0, 2.0)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
