"""ResNet for CIFAR: three stages of 16, 32 and 64 channels.

Source: He et al. 2016, arXiv:1512.03385, section 4.2; state as in akamaster/pytorch_resnet_cifar10.

Shortcut A (the paper's choice here) has no parameters: every second pixel, and zeros for the new channels. Shortcut B
is a strided 1x1 convolution with batch norm.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import SMALL_INPUT, Published, net

Shortcut = Literal["A", "B"]


def add_padded(branch: Tensor, x: Tensor) -> Tensor:
    """`branch` plus `x`, which is padded with channels of zeros, as many before as after.

    Written as the sum over the middle channels only: it is the same, and no zeros have to be added.
    """
    before = (branch.shape[1] - x.shape[1]) // 2
    after = branch.shape[1] - x.shape[1] - before
    head, middle, tail = torch.split(branch, [before, x.shape[1], after], dim=1)
    return torch.cat((head, middle + x, tail), dim=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        self.subsamples = stride != 1 and shortcut == "A"
        if stride != 1 and shortcut == "B":
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the branch and the shortcut."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.subsamples:
            return F.relu(add_padded(out, F.max_pool2d(x, kernel_size=1, stride=2)))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """The network with three stages of `blocks` blocks: 6 * blocks + 2 layers."""

    def __init__(self, blocks: int, *, shortcut: Shortcut, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        if stem == "small":
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, 16, 7, 2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1, shortcut=shortcut)
        self.layer2 = _stage(16, 32, blocks, stride=2, shortcut=shortcut)
        self.layer3 = _stage(32, 64, blocks, stride=2, shortcut=shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, *, stride: int, shortcut: Shortcut) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride, shortcut),
        *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1)),
    )


SOURCE = "He et al. 2016, arXiv:1512.03385, section 4.2"
TABLE = "He et al. 2016, arXiv:1512.03385, Table 6"
ShortcutOption = Annotated[Shortcut, About("`A`: zeros for new channels, no parameters; `B`: 1x1 convolution")]
StemOption = Annotated[Stem, About("`imagenet`: the first convolution is 7x7 with stride 2 and a max pool follows")]


@net(
    "resnet20",
    source=SOURCE,
    params=269_722,
    macs=40_551_040,
    input_shape=SMALL_INPUT,
    published=(Published(91.25, None, TABLE, "CIFAR-10"),),
)
def resnet20(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 20 layers."""
    return CifarResNet(3, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet32",
    source=SOURCE,
    params=464_154,
    macs=68_862_592,
    input_shape=SMALL_INPUT,
    published=(Published(92.49, None, TABLE, "CIFAR-10"),),
)
def resnet32(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 32 layers."""
    return CifarResNet(5, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet38",
    source=SOURCE,
    params=561_370,
    macs=83_018_368,
    input_shape=SMALL_INPUT,
)
def resnet38(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 38 layers, a depth that the paper does not have."""
    return CifarResNet(6, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet44",
    source=SOURCE,
    params=658_586,
    macs=97_174_144,
    input_shape=SMALL_INPUT,
    published=(Published(92.83, None, TABLE, "CIFAR-10"),),
)
def resnet44(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 44 layers."""
    return CifarResNet(7, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet56",
    source=SOURCE,
    params=853_018,
    macs=125_485_696,
    input_shape=SMALL_INPUT,
    published=(Published(93.03, None, TABLE, "CIFAR-10"),),
)
def resnet56(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 56 layers."""
    return CifarResNet(9, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet74",
    source=SOURCE,
    params=1_144_666,
    macs=167_953_024,
    input_shape=SMALL_INPUT,
)
def resnet74(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 74 layers, a depth that the paper does not have."""
    return CifarResNet(12, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet110",
    source=SOURCE,
    params=1_727_962,
    macs=252_887_680,
    input_shape=SMALL_INPUT,
    published=(Published(93.57, None, TABLE, "CIFAR-10; best of 5, mean 93.39"),),
)
def resnet110(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 110 layers."""
    return CifarResNet(18, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet152_cifar",
    source=SOURCE,
    params=2_408_474,
    macs=351_978_112,
    input_shape=SMALL_INPUT,
)
def resnet152_cifar(
    *,
    num_classes: NumClasses = 10,
    stem: StemOption = "small",
    dropout: Dropout = 0.0,
    shortcut: ShortcutOption = "A",
) -> CifarResNet:
    """The CIFAR residual net of 152 layers, a depth that the paper does not have."""
    return CifarResNet(25, shortcut=shortcut, num_classes=num_classes, stem=stem, dropout=dropout)
