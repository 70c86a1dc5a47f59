"""ResNet for ImageNet: stages of residual blocks.

Source: He et al. 2016, arXiv:1512.03385, Table 1; state and initialisation as in torchvision's `resnet18`.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.layers import init_conv_nets
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, net


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input, which a strided 1x1 convolution brings to the same shape where it differs."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the branch and the shortcut."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class ResNet(nn.Module):
    """The network; `blocks` are the numbers of basic blocks in its four stages."""

    def __init__(self, blocks: tuple[int, int, int, int], *, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, 64, 3, 1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(64, 128, blocks[1], stride=2)
        self.layer3 = _stage(128, 256, blocks[2], stride=2)
        self.layer4 = _stage(256, 512, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512, num_classes)
        init_conv_nets(self, linear_std=None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride),
        *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)),
    )


@net(
    "resnet18",
    source="He et al. 2016, arXiv:1512.03385; torchvision resnet18",
    params=11_689_512,
    macs=1_814_073_344,
    pretrained=Pretrained("resnet18-f37072fd.pth", top1=69.758, top5=89.078),
)
def resnet18(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[
        Stem, About("`small`: the first convolution is 3x3 with stride 1 and no max pool follows")
    ] = "imagenet",
    dropout: Dropout = 0.0,
) -> ResNet:
    """Residual blocks of two 3x3 convolutions, 18 layers."""
    return ResNet((2, 2, 2, 2), num_classes=num_classes, stem=stem, dropout=dropout)
