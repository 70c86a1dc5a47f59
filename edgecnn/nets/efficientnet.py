"""EfficientNet: inverted residuals with squeeze-excite and SiLU.

Source: Tan and Le 2019, arXiv:1905.11946, Table 1; state and initialisation as in torchvision's `efficientnet_b0`.

The squeeze is a quarter of the block's input, not of the expanded width. Stochastic depth rises linearly over the
blocks and acts on residual blocks only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import ConvNormAct, SqueezeExcitation, StochasticDepth, init_conv_nets, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, net


@dataclass(frozen=True)
class Stage:
    """One row of the paper's Table 1."""

    expansion: int
    kernel: int
    stride: int
    in_channels: int
    out_channels: int
    blocks: int


B0 = (
    Stage(1, 3, 1, 32, 16, 1),
    Stage(6, 3, 2, 16, 24, 2),
    Stage(6, 5, 2, 24, 40, 2),
    Stage(6, 3, 2, 40, 80, 3),
    Stage(6, 5, 1, 80, 112, 3),
    Stage(6, 5, 2, 112, 192, 4),
    Stage(6, 3, 1, 192, 320, 1),
)


class MBConv(nn.Module):
    """Expand by 1x1, filter per channel, squeeze and excite, project by 1x1; the input is added where shapes allow."""

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int, drop: float
    ) -> None:
        super().__init__()
        expanded = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormAct(in_channels, expanded, kernel=1, activation=nn.SiLU))
        layers += [
            ConvNormAct(expanded, expanded, kernel=kernel, stride=stride, groups=expanded, activation=nn.SiLU),
            SqueezeExcitation(expanded, max(1, in_channels // 4), activation=nn.SiLU),
            ConvNormAct(expanded, out_channels, kernel=1, activation=None),
        ]
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus `x` where the block is residual."""
        out: Tensor = self.block(x)
        return self.stochastic_depth(out) + x if self.residual else out


class EfficientNet(nn.Module):
    """The network."""

    def __init__(
        self, stages: tuple[Stage, ...], *, num_classes: int, stem: Stem, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        first, last = stages[0].in_channels, 4 * stages[-1].out_channels
        features: list[nn.Module] = [ConvNormAct(3, first, stride=stem_stride(stem), activation=nn.SiLU)]
        total, index = sum(s.blocks for s in stages), 0
        for stage in stages:
            blocks = []
            for i in range(stage.blocks):
                blocks.append(
                    MBConv(
                        stage.in_channels if i == 0 else stage.out_channels,
                        stage.out_channels,
                        expansion=stage.expansion,
                        kernel=stage.kernel,
                        stride=stage.stride if i == 0 else 1,
                        drop=drop_path * index / total,
                    )
                )
                index += 1
            features.append(nn.Sequential(*blocks))
        features.append(ConvNormAct(stages[-1].out_channels, last, kernel=1, activation=nn.SiLU))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        fc = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), fc)
        init_conv_nets(self, linear_std=None)
        bound = 1.0 / math.sqrt(num_classes)
        nn.init.uniform_(fc.weight, -bound, bound)
        nn.init.zeros_(fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


@net(
    "efficientnet_b0",
    source="Tan and Le 2019, arXiv:1905.11946; torchvision efficientnet_b0",
    params=5_288_548,
    macs=385_814_752,
    pretrained=Pretrained("efficientnet_b0_rwightman-7f5810bc.pth", top1=77.692, top5=93.532, interpolation="bicubic"),
)
def efficientnet_b0(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1")] = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: Annotated[
        float, About("probability of dropping the last block's branch in training", at_least=0, below=1)
    ] = 0.2,
) -> EfficientNet:
    """Inverted residuals with squeeze-excite and SiLU."""
    return EfficientNet(B0, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)
