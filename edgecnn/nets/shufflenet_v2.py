"""ShuffleNetV2: half of the channels pass by, the other half is filtered, then the halves are interleaved.

Source: Ma et al. 2018, arXiv:1807.11164, Table 5; state as in torchvision's `shufflenet_v2_x*`.

The shuffle stands after the concatenation (the authors' own code splits even and odd channels before the block, which
is the same net with permuted weights). The paper's complexity is 1 to 1.4 % above the multiply-adds counted here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import channel_shuffle, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

BLOCKS = (4, 8, 4)


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]


class ShuffleBlock(nn.Module):
    """The basic unit at stride 1; at stride 2 both branches see all channels and their number doubles."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.stride = stride
        passes_by = stride == 1
        self.branch1 = nn.Sequential(
            *([] if passes_by else _depthwise(in_channels, stride) + _pointwise(in_channels, half))
        )
        self.branch2 = nn.Sequential(
            *_pointwise(half if passes_by else in_channels, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The branches' outputs, concatenated and shuffled."""
        if self.stride == 1:
            passed, filtered = x.chunk(2, dim=1)
            out = torch.cat((passed, self.branch2(filtered)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    """The network; `channels` are those of the stem, the three stages and the last convolution."""

    def __init__(self, channels: tuple[int, ...], *, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        first, *stages, last = channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, first, 3, stem_stride(stem), padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(ShuffleBlock(before, after, 2), *(ShuffleBlock(after, after, 1) for _ in range(blocks - 1)))
            for before, after, blocks in zip((first, *stages[:-1]), stages, BLOCKS, strict=True)
        )
        self.conv5 = nn.Sequential(*_pointwise(stages[-1], last))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(self.dropout(x.mean([2, 3])))
        return logits


PAPER = "Ma et al. 2018, arXiv:1807.11164"
SOURCE = f"{PAPER}; torchvision shufflenet_v2"
MEGVII = "megvii-model/ShuffleNet-Series ShuffleNetV2 README"
StemOption = Annotated[Stem, About("`small`: the first convolution has stride 1 and no max pool follows")]


@net(
    "shufflenet_v2_x0_5",
    source=SOURCE,
    params=1_366_792,
    macs=40_476_448,
    pretrained=Pretrained("shufflenetv2_x0.5-f707e7126e.pth", top1=60.552, top5=81.746),
    published=(Published(60.3, None, f"{PAPER}, Tables 5 and 8"), Published(61.1, 82.6, MEGVII)),
)
def shufflenet_v2_x0_5(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ShuffleNetV2:
    """Channel split and shuffle, at half width."""
    return ShuffleNetV2((24, 48, 96, 192, 1024), num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "shufflenet_v2_x1_0",
    source=SOURCE,
    params=2_278_604,
    macs=144_907_992,
    pretrained=Pretrained("shufflenetv2_x1-5666bf0f80.pth", top1=69.362, top5=88.316),
    published=(Published(69.4, None, f"{PAPER}, Tables 5 and 8"), Published(69.4, 88.9, MEGVII)),
    aliases=("shufflenet_v2",),
)
def shufflenet_v2_x1_0(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ShuffleNetV2:
    """Channel split and shuffle."""
    return ShuffleNetV2((24, 116, 232, 464, 1024), num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "shufflenet_v2_x1_5",
    source=SOURCE,
    params=3_503_624,
    macs=295_759_392,
    pretrained=Pretrained("shufflenetv2_x1_5-3c479a10.pth", top1=72.996, top5=91.086, resize=232),
    published=(Published(72.6, None, f"{PAPER}, Tables 5 and 8"), Published(72.6, 90.6, MEGVII)),
)
def shufflenet_v2_x1_5(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ShuffleNetV2:
    """Channel split and shuffle, half as wide again."""
    return ShuffleNetV2((24, 176, 352, 704, 1024), num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "shufflenet_v2_x2_0",
    source=SOURCE,
    params=7_393_996,
    macs=583_253_464,
    pretrained=Pretrained("shufflenetv2_x2_0-8be3c8ee.pth", top1=76.23, top5=93.006, resize=232),
    published=(Published(74.9, None, f"{PAPER}, Tables 5 and 8"), Published(75.0, 92.4, MEGVII)),
)
def shufflenet_v2_x2_0(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ShuffleNetV2:
    """Channel split and shuffle, at double width."""
    return ShuffleNetV2((24, 244, 488, 976, 2048), num_classes=num_classes, stem=stem, dropout=dropout)
