"""ResNeXt: ResNet's bottleneck blocks with a grouped 3x3 convolution.

Source: Xie et al. 2017, arXiv:1611.05431; state and initialisation as in torchvision.

"32x4d" is 32 groups of 4 channels each in the first stage; both the groups' width and the stage's double together. The
paper's 101-layer nets are 32x4d and 64x4d; 32x8d came later (Mahajan et al. 2018, arXiv:1805.00932). The stride is at
the 3x3 convolution, as in the authors' code.
"""

from __future__ import annotations

from functools import partial

from edgecnn.nets.options import Dropout, NumClasses
from edgecnn.nets.registry import Pretrained, Published, net
from edgecnn.nets.resnet import DEPTHS, Bottleneck, ResNet, StemOption

PAPER = "Xie et al. 2017, arXiv:1611.05431"
RELEASE = f"{PAPER}, and facebookresearch/ResNeXt README"


@net(
    "resnext50_32x4d",
    source=f"{PAPER}; torchvision resnext50_32x4d",
    params=25_028_904,
    macs=4_230_479_872,
    pretrained=Pretrained("resnext50_32x4d-1a0047aa.pth", top1=81.198, top5=95.34, resize=232),
    published=(Published(77.8, None, RELEASE, "1 crop"),),
)
def resnext50_32x4d(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> ResNet:
    """Bottleneck blocks with 32 groups of 4 channels, 50 layers."""
    block = partial(Bottleneck, groups=32, width_per_group=4)
    return ResNet(block, DEPTHS[50], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnext101_32x4d",
    source=f"{PAPER}; timm resnext101_32x4d",
    params=44_177_704,
    macs=7_969_996_800,
    published=(Published(78.8, 94.4, RELEASE, "1 crop"),),
)
def resnext101_32x4d(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ResNet:
    """Bottleneck blocks with 32 groups of 4 channels, 101 layers; the paper's."""
    block = partial(Bottleneck, groups=32, width_per_group=4)
    return ResNet(block, DEPTHS[101], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnext101_32x8d",
    source="Mahajan et al. 2018, arXiv:1805.00932; torchvision resnext101_32x8d",
    params=88_791_336,
    macs=16_414_015_488,
    pretrained=Pretrained("resnext101_32x8d-110c445d.pth", top1=82.834, top5=96.228, resize=232),
)
def resnext101_32x8d(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ResNet:
    """Bottleneck blocks with 32 groups of 8 channels, 101 layers."""
    block = partial(Bottleneck, groups=32, width_per_group=8)
    return ResNet(block, DEPTHS[101], num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "resnext101_64x4d",
    source=f"{PAPER}; torchvision resnext101_64x4d",
    params=83_455_272,
    macs=15_460_270_080,
    pretrained=Pretrained("resnext101_64x4d-173b62eb.pth", top1=83.246, top5=96.454, resize=232),
    published=(Published(79.6, None, RELEASE, "1 crop"),),
)
def resnext101_64x4d(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0
) -> ResNet:
    """Bottleneck blocks with 64 groups of 4 channels, 101 layers; the paper's."""
    block = partial(Bottleneck, groups=64, width_per_group=4)
    return ResNet(block, DEPTHS[101], num_classes=num_classes, stem=stem, dropout=dropout)
