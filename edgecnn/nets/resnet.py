"""ResNet for ImageNet: four stages of residual blocks, and its wide variants.

Source: He et al. 2016, arXiv:1512.03385, Table 1; Zagoruyko and Komodakis 2016, arXiv:1605.07146; state and
initialisation as in torchvision.

The bottleneck nets exist in two versions with the same tensors. Where a stage halves the resolution, the paper's v1
has the stride at the first 1x1 convolution of its first block; v1.5, torchvision's, has it at the 3x3 convolution,
which costs 0.23 G multiply-adds more and is more accurate. Weights of one load into the other without complaint and
lose accuracy there, so the official weights, which are v1.5's, are refused for v1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.layers import init_conv_nets
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

StrideAt = Literal["3x3", "1x1"]


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The input as it is, or brought to another shape by a strided 1x1 convolution (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input, which a strided 1x1 convolution brings to the same shape where it differs."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.out_channels = width
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the branch and the shortcut."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times the stage's width, and the input.

    Args:
        in_channels: of the input.
        width: of the stage; the block has 4 * width output channels.
        stride: of the block.
        stride_at: the convolution that has the stride.
        groups: of the 3x3 convolution.
        width_per_group: channels of a group of the 3x3 convolution in a stage of width 64; grows with the stage.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        *,
        stride_at: StrideAt = "3x3",
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        self.out_channels = width * self.expansion
        inner = width * width_per_group // 64 * groups
        first, second = (stride, 1) if stride_at == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.downsample = shortcut(in_channels, self.out_channels, stride)

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        normed: Tensor = self.bn3(self.conv3(out))
        return normed

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the branch and the shortcut."""
        return F.relu(self.branch(x) + self.downsample(x))


MakeBlock = Callable[[int, int, int], BasicBlock | Bottleneck]
"""A block from its input channels, the width of its stage and its stride."""


class ResNet(nn.Module):
    """The network.

    Args:
        block: makes a block.
        blocks: how many there are in each of the four stages.
        num_classes: outputs of the last layer.
        stem: `imagenet`, a 7x7 convolution with stride 2 and a max pool; `small`, a 3x3 convolution alone.
        dropout: before the last layer.
        caffe_pool: the max pool does not pad and rounds up, as Caffe's does, instead of padding both sides by 1.
    """

    def __init__(
        self,
        block: MakeBlock,
        blocks: tuple[int, int, int, int],
        *,
        num_classes: int,
        stem: Stem,
        dropout: float,
        caffe_pool: bool = False,
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
            self.maxpool: nn.Module = (
                nn.MaxPool2d(3, 2, ceil_mode=True) if caffe_pool else nn.MaxPool2d(3, 2, padding=1)
            )
        else:
            self.conv1 = nn.Conv2d(3, 64, 3, 1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1, channels = _stage(block, 64, 64, blocks[0], stride=1)
        self.layer2, channels = _stage(block, channels, 128, blocks[1], stride=2)
        self.layer3, channels = _stage(block, channels, 256, blocks[2], stride=2)
        self.layer4, channels = _stage(block, channels, 512, blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        init_conv_nets(self, linear_std=None)

    def features(self, x: Tensor) -> Tensor:
        """The last stage's activations [N, C, H / 32, W / 32] of images [N, 3, H, W]."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        activations: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return activations

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(self.features(x)), 1)))
        return logits


def _stage(make: MakeBlock, in_channels: int, width: int, blocks: int, *, stride: int) -> tuple[nn.Sequential, int]:
    """The stage and its output channels."""
    layers: list[nn.Module] = []
    for index in range(blocks):
        block = make(in_channels, width, stride if index == 0 else 1)
        layers.append(block)
        in_channels = block.out_channels
    return nn.Sequential(*layers), in_channels


PAPER = "He et al. 2016, arXiv:1512.03385"
V1 = "stride at the first 1x1 convolution"
RELEASE = "KaimingHe/deep-residual-networks README"

StemOption = Annotated[Stem, About("`small`: the first convolution is 3x3 with stride 1 and no max pool follows")]
StrideAtOption = Annotated[
    StrideAt, About("where a block halves the resolution: `3x3` is v1.5, torchvision's; `1x1` is v1, the paper's")
]

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage, Table 1 of the paper."""


@net(
    "resnet18",
    source=f"{PAPER}; torchvision resnet18",
    params=11_689_512,
    macs=1_814_073_344,
    pretrained=Pretrained("resnet18-f37072fd.pth", top1=69.758, top5=89.078),
    published=(Published(72.12, None, f"{PAPER}, Table 2", "10 crops; shortcuts without parameters"),),
)
def resnet18(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> ResNet:
    """Residual blocks of two 3x3 convolutions, 18 layers."""
    return ResNet(BasicBlock, DEPTHS[18], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet34",
    source=f"{PAPER}; torchvision resnet34",
    params=21_797_672,
    macs=3_663_761_408,
    pretrained=Pretrained("resnet34-b627a593.pth", top1=73.314, top5=91.42),
    published=(Published(75.48, 92.54, f"{PAPER}, Table 3", "10 crops; shortcut B, which this is"),),
)
def resnet34(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> ResNet:
    """Residual blocks of two 3x3 convolutions, 34 layers."""
    return ResNet(BasicBlock, DEPTHS[34], num_classes=num_classes, stem=stem, dropout=dropout)


def _published(ten_crops: tuple[float, float], one_crop: tuple[float, float]) -> tuple[Published, Published]:
    return (
        Published(*ten_crops, f"{PAPER}, Table 3", f"10 crops; {V1}"),
        Published(*one_crop, RELEASE, f"1 crop; {V1}"),
    )


@net(
    "resnet50",
    source=f"{PAPER}; torchvision resnet50",
    params=25_557_032,
    macs=4_089_184_256,
    pretrained=Pretrained("resnet50-11ad3fa6.pth", top1=80.858, top5=95.434, resize=232, fixed=("stride_at",)),
    published=_published((77.15, 93.29), (75.3, 92.2)),
)
def resnet50(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    stride_at: StrideAtOption = "3x3",
) -> ResNet:
    """Residual bottleneck blocks, 50 layers."""
    block = partial(Bottleneck, stride_at=stride_at)
    return ResNet(block, DEPTHS[50], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet101",
    source=f"{PAPER}; torchvision resnet101",
    params=44_549_160,
    macs=7_801_405_440,
    pretrained=Pretrained("resnet101-cd907fc2.pth", top1=81.886, top5=95.78, resize=232, fixed=("stride_at",)),
    published=_published((78.25, 93.95), (76.4, 92.9)),
)
def resnet101(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    stride_at: StrideAtOption = "3x3",
) -> ResNet:
    """Residual bottleneck blocks, 101 layers."""
    block = partial(Bottleneck, stride_at=stride_at)
    return ResNet(block, DEPTHS[101], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnet152",
    source=f"{PAPER}; torchvision resnet152",
    params=60_192_808,
    macs=11_513_626_624,
    pretrained=Pretrained("resnet152-f82ba261.pth", top1=82.284, top5=96.002, resize=232, fixed=("stride_at",)),
    published=_published((78.57, 94.29), (77.0, 93.3)),
)
def resnet152(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    stride_at: StrideAtOption = "3x3",
) -> ResNet:
    """Residual bottleneck blocks, 152 layers."""
    block = partial(Bottleneck, stride_at=stride_at)
    return ResNet(block, DEPTHS[152], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "wide_resnet50_2",
    source="Zagoruyko and Komodakis 2016, arXiv:1605.07146, WRN-50-2-bottleneck; torchvision wide_resnet50_2",
    params=68_883_240,
    macs=11_398_021_120,
    pretrained=Pretrained("wide_resnet50_2-9ba9bcbe.pth", top1=81.602, top5=95.758, resize=232),
)
def wide_resnet50_2(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> ResNet:
    """ResNet-50 whose 3x3 convolutions have twice the channels."""
    block = partial(Bottleneck, width_per_group=128)
    return ResNet(block, DEPTHS[50], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "wide_resnet101_2",
    source="Zagoruyko and Komodakis 2016, arXiv:1605.07146; torchvision wide_resnet101_2",
    params=126_886_696,
    macs=22_753_050_624,
    pretrained=Pretrained("wide_resnet101_2-d733dc28.pth", top1=82.51, top5=96.02, resize=232),
)
def wide_resnet101_2(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ResNet:
    """ResNet-101 whose 3x3 convolutions have twice the channels."""
    block = partial(Bottleneck, width_per_group=128)
    return ResNet(block, DEPTHS[101], num_classes=num_classes, stem=stem, dropout=dropout)
