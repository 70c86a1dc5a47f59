"""What EfficientNet, EfficientNet-Lite and EfficientNetV2 are made of; state and initialisation as in torchvision.

The squeeze is a quarter of the block's input, not of the expanded width. Stochastic depth rises linearly over the
blocks and acts on residual blocks only.

Source: Tan and Le 2019, arXiv:1905.11946 (blocks, scaling); Tan and Le 2021, arXiv:2104.00298 (fused blocks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import (
    Activation,
    ConvNormAct,
    Norm,
    SqueezeExcitation,
    StochasticDepth,
    init_conv_nets,
    make_divisible,
    stem_stride,
)
from edgecnn.nets.options import About, Stem

StemOption = Annotated[Stem, About("`small`: the first convolution has stride 1")]
DropPath = Annotated[
    float, About("probability of dropping the last block's branch in training, less before it", at_least=0, below=1)
]
Depth = Annotated[float, About("multiplier on the number of blocks of a stage", above=0.0)]


@dataclass(frozen=True)
class Stage:
    """One row of the papers' tables; `fused` blocks filter and expand by one dense convolution and never squeeze."""

    expansion: int
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    blocks: int
    fused: bool = False
    squeeze: bool = True


@dataclass(frozen=True)
class Style:
    """What all blocks of a family have in common."""

    activation: Activation = nn.SiLU
    norm: Norm = nn.BatchNorm2d


B0 = (
    Stage(1, 3, 1, 32, 16, 1),
    Stage(6, 3, 2, 16, 24, 2),
    Stage(6, 5, 2, 24, 40, 2),
    Stage(6, 3, 2, 40, 80, 3),
    Stage(6, 5, 1, 80, 112, 3),
    Stage(6, 5, 2, 112, 192, 4),
    Stage(6, 3, 1, 192, 320, 1),
)
"""EfficientNet-B0, Table 1 of the first paper."""


def scaled(stages: tuple[Stage, ...], *, width: float, depth: float) -> tuple[Stage, ...]:
    """`stages` with channels times `width`, to multiples of 8, and blocks times `depth`, rounded up."""
    return tuple(
        replace(
            stage,
            in_channels=make_divisible(stage.in_channels * width),
            out_channels=make_divisible(stage.out_channels * width),
            blocks=math.ceil(stage.blocks * depth),
        )
        for stage in stages
    )


class MBConv(nn.Module):
    """Expand by 1x1, filter per channel, squeeze and excite, project by 1x1; the input is added where shapes allow.

    A fused block expands and filters by one dense convolution and has no squeeze-excite; without expansion that
    convolution is all of it.
    """

    def __init__(self, stage: Stage, style: Style, *, in_channels: int, stride: int, drop: float) -> None:
        super().__init__()
        layers = _fused(stage, style, in_channels, stride) if stage.fused else _full(stage, style, in_channels, stride)
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == stage.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus `x` where the block is residual."""
        out: Tensor = self.block(x)
        return self.stochastic_depth(out) + x if self.residual else out


def _full(stage: Stage, style: Style, in_channels: int, stride: int) -> list[nn.Module]:
    norm, activation, expanded = style.norm, style.activation, in_channels * stage.expansion
    layers: list[nn.Module] = []
    if stage.expansion != 1:
        layers.append(ConvNormAct(in_channels, expanded, kernel=1, norm=norm, activation=activation))
    layers.append(
        ConvNormAct(
            expanded, expanded, kernel=stage.kernel, stride=stride, groups=expanded, norm=norm, activation=activation
        )
    )
    if stage.squeeze:
        layers.append(SqueezeExcitation(expanded, max(1, in_channels // 4), activation=activation))
    layers.append(ConvNormAct(expanded, stage.out_channels, kernel=1, norm=norm, activation=None))
    return layers


def _fused(stage: Stage, style: Style, in_channels: int, stride: int) -> list[nn.Module]:
    norm, activation, expanded = style.norm, style.activation, in_channels * stage.expansion
    first = expanded if stage.expansion != 1 else stage.out_channels
    layers: list[nn.Module] = [
        ConvNormAct(in_channels, first, kernel=stage.kernel, stride=stride, norm=norm, activation=activation)
    ]
    if stage.expansion != 1:
        layers.append(ConvNormAct(expanded, stage.out_channels, kernel=1, norm=norm, activation=None))
    return layers


class EfficientNet(nn.Module):
    """The network.

    Args:
        stages: in order; the first one's input is as wide as the stem.
        last_channels: of the 1x1 convolution before the pool.
        style: activation and norm of all blocks.
        num_classes: outputs of the last layer.
        stem: see `StemOption`.
        dropout: of the classifier's input.
        drop_path: of the branch after the last block; block i of n has i / n of it.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        *,
        last_channels: int,
        style: Style,
        num_classes: int,
        stem: Stem,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        norm, activation = style.norm, style.activation
        channels = stages[0].in_channels
        features: list[nn.Module] = [
            ConvNormAct(3, channels, stride=stem_stride(stem), norm=norm, activation=activation)
        ]
        total, index = sum(s.blocks for s in stages), 0
        for stage in stages:
            blocks = []
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                drop = drop_path * index / total
                blocks.append(MBConv(stage, style, in_channels=channels, stride=stride, drop=drop))
                channels, index = stage.out_channels, index + 1
            features.append(nn.Sequential(*blocks))
        features.append(ConvNormAct(channels, last_channels, kernel=1, norm=norm, activation=activation))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        fc = nn.Linear(last_channels, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), fc)
        init_conv_nets(self, linear_std=None)
        bound = 1.0 / math.sqrt(num_classes)
        nn.init.uniform_(fc.weight, -bound, bound)
        nn.init.zeros_(fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits
