"""VGG: 3x3 convolutions in five stages, a max pool after each, and three linear layers.

Source: Simonyan and Zisserman 2015, arXiv:1409.1556, Table 1 (columns A, B, D and E are VGG-11, 13, 16 and 19); state
and initialisation as in torchvision, whose nets with batch norm keep the biases of the convolutions. VGG-16 for
CIFAR-10 is the baseline of HetConv, Singh et al. 2019, arXiv:1903.04120.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import init_conv_nets
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import SMALL_INPUT, Pretrained, Published, net

STAGES = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
"""Output channels of the convolutions, by the number of layers with weights."""

StemOption = Annotated[
    Stem, About("`small`: the classifier reads the global mean, which is all that 32x32 images leave of the last maps")
]


class VGG(nn.Module):
    """The net.

    The published classifier is for images of 224x224, whose last maps are 7x7. A stem for small images has nothing to
    change in the convolutions, which keep the resolution; 32x32 images end in 1x1 maps, so `classifier.0` reads 512
    numbers instead of 25,088.
    """

    def __init__(self, layers: int, *, batch_norm: bool, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for stage in STAGES[layers]:
            for out_channels in stage:
                features.append(nn.Conv2d(channels, out_channels, 3, padding=1))
                if batch_norm:
                    features.append(nn.BatchNorm2d(out_channels))
                features.append(nn.ReLU())
                channels = out_channels
            features.append(nn.MaxPool2d(2))
        side = 7 if stem == "imagenet" else 1
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class VGG16Cifar(nn.Module):
    """VGG-16 for 32x32 images, with batch norm and a small classifier; the layout of `vgg16_hetconv` with P = 1.

    The first convolution has a bias and the others have none, as in irvinxav/Efficient-HetConv, whose parameters this
    net has exactly.
    """

    def __init__(self, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for stage in STAGES[16]:
            for out_channels in stage:
                conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=channels == 3)
                features += [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]
                channels = out_channels
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Linear(channels, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, num_classes),
        )
        init_conv_nets(self, linear_std=None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, 32, 32]."""
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


PAPER = "Simonyan and Zisserman 2015, Table 3"
SOURCE = "Simonyan and Zisserman 2015, arXiv:1409.1556; torchvision"


@net(
    "vgg11",
    source=f"{SOURCE} vgg11",
    params=132_863_336,
    macs=7_609_090_048,
    pretrained=Pretrained("vgg11-8a719046.pth", top1=69.02, top5=88.628),
    published=(Published(70.4, 89.6, PAPER, "dense evaluation, S = Q = 256"),),
)
def vgg11(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Eight convolutions and three linear layers."""
    return VGG(11, batch_norm=False, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg11_bn",
    source=f"{SOURCE} vgg11_bn",
    params=132_868_840,
    macs=7_609_090_048,
    pretrained=Pretrained("vgg11_bn-6002323d.pth", top1=70.37, top5=89.81),
)
def vgg11_bn(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Eight convolutions and three linear layers, with batch norm."""
    return VGG(11, batch_norm=True, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg13",
    source=f"{SOURCE} vgg13",
    params=133_047_848,
    macs=11_308_466_176,
    pretrained=Pretrained("vgg13-19584684.pth", top1=69.928, top5=89.246),
    published=(Published(71.3, 90.1, PAPER, "dense evaluation, S = Q = 256"),),
)
def vgg13(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Ten convolutions and three linear layers."""
    return VGG(13, batch_norm=False, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg13_bn",
    source=f"{SOURCE} vgg13_bn",
    params=133_053_736,
    macs=11_308_466_176,
    pretrained=Pretrained("vgg13_bn-abd245e5.pth", top1=71.586, top5=90.374),
)
def vgg13_bn(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Ten convolutions and three linear layers, with batch norm."""
    return VGG(13, batch_norm=True, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg16",
    source=f"{SOURCE} vgg16",
    params=138_357_544,
    macs=15_470_264_320,
    pretrained=Pretrained("vgg16-397923af.pth", top1=71.592, top5=90.382),
    published=(
        Published(73.0, 91.2, PAPER, "dense evaluation, S = Q = 256"),
        Published(74.4, 91.9, PAPER, "dense evaluation, S in 256...512, Q = 384"),
    ),
)
def vgg16(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Thirteen convolutions and three linear layers."""
    return VGG(16, batch_norm=False, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg16_bn",
    source=f"{SOURCE} vgg16_bn",
    params=138_365_992,
    macs=15_470_264_320,
    pretrained=Pretrained("vgg16_bn-6c64b313.pth", top1=73.36, top5=91.516),
    published=(Published(72.98, 91.19, "Hu et al. 2018, arXiv:1709.01507, Table 2", "VGG-16 with batch norm"),),
)
def vgg16_bn(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Thirteen convolutions and three linear layers, with batch norm."""
    return VGG(16, batch_norm=True, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg19",
    source=f"{SOURCE} vgg19",
    params=143_667_240,
    macs=19_632_062_464,
    pretrained=Pretrained("vgg19-dcbb9e9d.pth", top1=72.376, top5=90.876),
    published=(
        Published(72.7, 91.0, PAPER, "dense evaluation, S = Q = 256"),
        Published(74.5, 92.0, PAPER, "dense evaluation, S in 256...512, Q = 384"),
    ),
)
def vgg19(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Sixteen convolutions and three linear layers."""
    return VGG(19, batch_norm=False, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg19_bn",
    source=f"{SOURCE} vgg19_bn",
    params=143_678_248,
    macs=19_632_062_464,
    pretrained=Pretrained("vgg19_bn-c79401a0.pth", top1=74.218, top5=91.842),
)
def vgg19_bn(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> VGG:
    """Sixteen convolutions and three linear layers, with batch norm."""
    return VGG(19, batch_norm=True, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "vgg16_cifar",
    source="Singh et al. 2019, arXiv:1903.04120; irvinxav/Efficient-HetConv",
    params=14_987_786,
    macs=313_463_808,
    input_shape=SMALL_INPUT,
    published=(Published(94.06, None, "Singh et al. 2019, as quoted by irvinxav/Efficient-HetConv", "CIFAR-10"),),
)
def vgg16_cifar(
    *,
    num_classes: NumClasses = 10,
    stem: Annotated[Literal["small"], About("made for 32x32 images")] = "small",
    dropout: Dropout = 0.0,
) -> VGG16Cifar:
    """VGG-16 for CIFAR-10, with batch norm and two linear layers."""
    return VGG16Cifar(num_classes=num_classes, dropout=dropout)
