"""Nets of heterogeneous convolutions: the paper's VGG-16 for CIFAR-10, and a small one of the same kind.

Source: Singh et al. 2019, "HetConv", CVPR, arXiv:1903.04120, section 4.2; the layout is that of the authors' code as
published in irvinxav/Efficient-HetConv, whose parameters it has exactly: the first convolution is a plain one with
bias, the others have none, batch norm follows each, and the classifier is 512 -> 512 with batch norm and ReLU -> 10.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from edgecnn.nets.hetconv import HetConv2d
from edgecnn.nets.layers import ConvNormAct, init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import SMALL_INPUT, net

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALL_STAGES = ((32, 32), (64, 64), (128, 128))


def _het_conv(in_channels: int, out_channels: int, p: int) -> list[nn.Module]:
    return [HetConv2d(in_channels, out_channels, p), nn.BatchNorm2d(out_channels), nn.ReLU()]


class HetConvVGG16(nn.Module):
    """VGG-16 for 32x32 images with every convolution but the first heterogeneous; `width` 1 is the paper's."""

    def __init__(self, *, width: float, p: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        divisor = max(8, p)
        features: list[nn.Module] = []
        channels = 3
        for stage in VGG16_STAGES:
            for out_channels in (make_divisible(channels * width, divisor) for channels in stage):
                if channels == 3:
                    features += [nn.Conv2d(3, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
                else:
                    features += _het_conv(channels, out_channels, p)
                channels = out_channels
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(channels, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(channels, num_classes),
        )
        init_conv_nets(self, linear_std=None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, 32, 32]."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


class HetConvSmall(nn.Module):
    """A plain convolution, three stages of two heterogeneous ones after a max pool each, and a global mean."""

    def __init__(self, *, width: float, p: int, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        divisor = max(8, p)
        channels = make_divisible(16 * width, divisor)
        features: list[nn.Module] = [ConvNormAct(3, channels, stride=stem_stride(stem))]
        for stage in SMALL_STAGES:
            features.append(nn.MaxPool2d(2))
            for out_channels in stage:
                out_channels = make_divisible(out_channels * width, divisor)
                features += _het_conv(channels, out_channels, p)
                channels = out_channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


PART = "3x3 kernels on one P-th of the input channels, 1x1 on the others"


@net(
    "vgg16_hetconv",
    source="Singh et al. 2019, arXiv:1903.04120",
    params=5_181_962,
    macs=114_496_512,
    input_shape=SMALL_INPUT,
)
def vgg16_hetconv(
    *,
    num_classes: NumClasses = 10,
    width: Width = 1.0,
    p: Annotated[Literal[1, 2, 4, 8, 16, 32, 64], About(PART)] = 4,
    stem: Annotated[Literal["small"], About("made for 32x32 images")] = "small",
    dropout: Dropout = 0.0,
) -> HetConvVGG16:
    """VGG-16 for CIFAR-10 with heterogeneous convolutions."""
    return HetConvVGG16(width=width, p=p, num_classes=num_classes, dropout=dropout)


@net(
    "hetconv_small",
    source="edgecnn; the layer from Singh et al. 2019, arXiv:1903.04120",
    params=99_418,
    macs=4_277_504,
    input_shape=SMALL_INPUT,
)
def hetconv_small(
    *,
    num_classes: NumClasses = 10,
    width: Width = 1.0,
    p: Annotated[Literal[1, 2, 4, 8, 16], About(PART)] = 4,
    stem: Annotated[Stem, About("`imagenet`: the first convolution has stride 2")] = "small",
    dropout: Dropout = 0.0,
) -> HetConvSmall:
    """A small net of heterogeneous convolutions, about as costly as a narrow MobileNet at 32x32."""
    return HetConvSmall(width=width, p=p, num_classes=num_classes, stem=stem, dropout=dropout)
