"""MobileNetV2: inverted residuals with linear bottlenecks.

Source: Sandler et al. 2018, arXiv:1801.04381, Table 2; state and initialisation as in torchvision's `mobilenet_v2`.

The projection has no activation. The first block does not expand, so its state has one entry less than the others.
The last convolution never gets narrower than 1280 channels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import ConvNormAct, init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Pretrained, Published, net

STAGES = (
    # expansion, output channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter per channel, project by 1x1; the input is added where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNormAct(in_channels, hidden, kernel=1, activation=nn.ReLU6))
        layers += [
            ConvNormAct(hidden, hidden, stride=stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus `x` where the block is residual."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """The network."""

    def __init__(self, *, width: float, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        channels = make_divisible(32 * width)
        last_channels = make_divisible(1280 * max(1.0, width))
        features: list[nn.Module] = [ConvNormAct(3, channels, stride=stem_stride(stem), activation=nn.ReLU6)]
        for expansion, out_channels, blocks, first_stride in STAGES:
            out_channels = make_divisible(out_channels * width)
            for i in range(blocks):
                stride = first_stride if i == 0 else 1
                features.append(InvertedResidual(channels, out_channels, stride=stride, expansion=expansion))
                channels = out_channels
        features.append(ConvNormAct(channels, last_channels, kernel=1, activation=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_channels, num_classes))
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


PAPER = "Sandler et al. 2018, arXiv:1801.04381"
README = "tensorflow/models slim mobilenet README"
RELEASED = (
    # width, side, top-1, top-5
    (1.4, 224, 75.0, 92.5),
    (1.3, 224, 74.4, 92.1),
    (1.0, 224, 71.8, 91.0),
    (1.0, 192, 70.7, 90.1),
    (1.0, 160, 68.8, 89.0),
    (1.0, 128, 65.3, 86.9),
    (1.0, 96, 60.3, 83.2),
    (0.75, 224, 69.8, 89.6),
    (0.75, 192, 68.7, 88.9),
    (0.75, 160, 66.4, 87.3),
    (0.75, 128, 63.2, 85.3),
    (0.75, 96, 58.8, 81.6),
    (0.5, 224, 65.4, 86.4),
    (0.5, 192, 63.9, 85.4),
    (0.5, 160, 61.0, 83.2),
    (0.5, 128, 57.7, 80.8),
    (0.5, 96, 51.2, 75.8),
    (0.35, 224, 60.3, 82.9),
    (0.35, 192, 58.2, 81.2),
    (0.35, 160, 55.7, 79.1),
    (0.35, 128, 50.8, 75.0),
    (0.35, 96, 45.5, 70.4),
)


@net(
    "mobilenet_v2",
    source=f"{PAPER}; torchvision mobilenet_v2",
    params=3_504_872,
    macs=300_774_272,
    pretrained=Pretrained("mobilenet_v2-7ebf99e0.pth", top1=72.154, top5=90.822, resize=232),
    published=(
        Published(72.0, None, f"{PAPER}, Table 4"),
        Published(74.7, None, f"{PAPER}, Table 4", "width 1.4"),
        Published(70.9, None, "Howard et al. 2019, arXiv:1905.02244, Table 4", "in 8 bits"),
        *(Published(t1, t5, README, f"width {w:g}, {side}x{side}") for w, side, t1, t5 in RELEASED),
    ),
)
def mobilenet_v2(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1")] = "imagenet",
    dropout: Dropout = 0.2,
) -> MobileNetV2:
    """Inverted residuals with linear bottlenecks."""
    return MobileNetV2(width=width, num_classes=num_classes, stem=stem, dropout=dropout)
