"""IGCV1: residual nets of interleaved group convolutions.

Source: Zhang et al. 2017, arXiv:1707.02725; hellozting/InterleavedGroupConvolutions. The ImageNet nets are the graphs
that its authors released with their weights (`models/IGC-*_ImageNet/*-symbol.json`), the CIFAR nets are
`network/plain_igc.py` and `network/resnet_igc.py`.

Every layer is an interleaved group convolution and one batch norm; there is none between its two convolutions. Where
channels double, L16M16, L4M32 and L24M2 double M and keep L, and L100M2 doubles L. The stem of L100M2 has 100 channels,
half of its first stage; that of the others has as many as their first stage. A shortcut that changes channels is a 1x1
convolution in L groups with batch norm.

The authors' README states 8.61 M parameters and 1.3 G multiply-adds for L100M2, 11.205 M and 1.9 G for L4M32, and
11.329 M and 2.2 G for L16M16. Counted are 8.638 M (8.608 without batch norm) and 1.265 G, 12.251 M (11.226 without
classifier) and 1.945 G, 13.528 M (11.479 without classifier) and 2.266 G. So L100M2 is reproduced, and of the other two
the parameters are 0.2 and 1.3 % above the README's if it left out the classifier, which it also seems to do with its
plain ResNet-18 (11.151 M; that net has 11.690, or 11.177 without classifier).

The released code of the residual CIFAR net halves the number of secondary partitions in the two layers of stride 2, so
that each has 2 L channels; the paper, the plain net and the ImageNet nets have M partitions of L channels everywhere.
The option `halved` chooses. Which depth reached the published 95.15 % is not stated by the sources at hand.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.errors import UsageError
from edgecnn.nets.layers import channel_shuffle, init_conv_nets
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import SMALL_INPUT, Published, net

BN_EPS = 2e-5
"""MXNet's default at the time, and what the released graphs say."""

Stage = tuple[int, int]
"""L and M of a stage: primary partitions and, of each, the channels; L * M is the width."""


class InterleavedGroupConv(nn.Module):
    """A spatial convolution within L partitions, then a 1x1 convolution across them.

    The primary convolution filters L partitions of M channels each on its own. The permutation gathers the m-th channel
    of every partition in the m-th of M secondary partitions, in which the 1x1 convolution mixes them; then the channels
    go back to their places. With G = L * M channels and a kernel of S weights that is G^2 * (S / L + 1 / M) weights: at
    the same cost as a plain convolution it is wider, and every output sees every input.

    Shapes: [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride].

    Args:
        in_channels: a multiple of `primary`.
        out_channels: a multiple of `primary` and of `secondary`.
        primary: L, the partitions of the spatial convolution.
        secondary: the partitions of the 1x1 convolution; M = out_channels / L if None, the paper's choice.
        kernel: side of the spatial kernel, odd.
        stride: of the spatial convolution.

    Source: Zhang et al. 2017, arXiv:1707.02725, section 3.1.

    Example:
        >>> layer = InterleavedGroupConv(48, 48, primary=24)
        >>> sum(p.numel() for p in layer.parameters()) == 48 * 48 * 9 // 24 + 48 * 48 // 2
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        primary: int,
        secondary: int | None = None,
        kernel: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.partitions = primary
        self.secondary_partitions = out_channels // primary if secondary is None else secondary
        self.primary = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=primary, bias=False
        )
        self.secondary = nn.Conv2d(out_channels, out_channels, 1, groups=self.secondary_partitions, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The mixed channels, back in the order of the primary partitions."""
        x = channel_shuffle(self.primary(x), self.partitions)
        return channel_shuffle(self.secondary(x), self.secondary_partitions)


class IgcLayer(nn.Module):
    """An interleaved group convolution and its batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, primary: int, secondary: int | None = None, stride: int = 1
    ) -> None:
        super().__init__()
        self.igc = InterleavedGroupConv(in_channels, out_channels, primary=primary, secondary=secondary, stride=stride)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised layer, not activated."""
        out: Tensor = self.bn(self.igc(x))
        return out


class PlainLayer(IgcLayer):
    """The layer of the nets without shortcuts."""

    def forward(self, x: Tensor) -> Tensor:
        """The activated layer."""
        return F.relu(super().forward(x))


class IgcBlock(nn.Module):
    """Two layers and a shortcut; `first_secondary` are the secondary partitions of the first, M if None."""

    def __init__(
        self, in_channels: int, out_channels: int, *, primary: int, stride: int, first_secondary: int | None = None
    ) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, groups=primary, bias=False),
                nn.BatchNorm2d(out_channels, eps=BN_EPS),
            )
        self.layer1 = IgcLayer(in_channels, out_channels, primary=primary, secondary=first_secondary, stride=stride)
        self.layer2 = IgcLayer(out_channels, out_channels, primary=primary)

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the layers and the shortcut."""
        return F.relu(self.layer2(F.relu(self.layer1(x))) + self.shortcut(x))


class IgcNet(nn.Module):
    """A stem, stages of blocks, and a linear layer on the means of all channels."""

    def __init__(
        self, stem: nn.Module, stages: list[nn.Module], width: int, *, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, num_classes)
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.stages(self.stem(x))
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return logits


def _stem(channels: int, *, large: bool) -> nn.Sequential:
    kernel, stride = (7, 2) if large else (3, 1)
    layers: list[nn.Module] = [
        nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels, eps=BN_EPS),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, padding=1)] if large else []))


def _imagenet(stages: tuple[Stage, ...], first: int, *, num_classes: int, stem: Stem, dropout: float) -> IgcNet:
    """ResNet-18 of interleaved group convolutions: two blocks a stage; `first` are the channels of the stem."""
    made: list[nn.Module] = []
    before = first
    for number, (primary, per_partition) in enumerate(stages):
        width = primary * per_partition
        stride = 1 if number == 0 else 2
        made.append(
            nn.Sequential(
                IgcBlock(before, width, primary=primary, stride=stride),
                IgcBlock(width, width, primary=primary, stride=1),
            )
        )
        before = width
    return IgcNet(_stem(first, large=stem == "imagenet"), made, before, num_classes=num_classes, dropout=dropout)


SOURCE = "Zhang et al. 2017, arXiv:1707.02725; hellozting/InterleavedGroupConvolutions"
TABLE = "arXiv:1707.02725; README of hellozting/InterleavedGroupConvolutions"
StemOption = Annotated[Stem, About("`small`: the first convolution is 3x3 with stride 1 and no max pool follows")]


@net(
    "igcv1_l100m2",
    source=SOURCE,
    params=8_637_900,
    macs=1_264_780_800,
    published=(Published(73.05, 91.08, TABLE),),
)
def igcv1_l100m2(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> IgcNet:
    """Interleaved group convolutions: 100 partitions of 2 channels, doubled by stage."""
    stages = ((100, 2), (200, 2), (400, 2), (800, 2))
    return _imagenet(stages, 100, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "igcv1_l16m16",
    source=SOURCE,
    params=13_528_296,
    macs=2_265_989_120,
    published=(Published(70.6, 89.68, TABLE),),
)
def igcv1_l16m16(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> IgcNet:
    """Interleaved group convolutions: 16 partitions of 16 channels, the channels doubled by stage."""
    stages = ((16, 16), (16, 32), (16, 64), (16, 128))
    return _imagenet(stages, 256, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "igcv1_l4m32",
    source=SOURCE,
    params=12_251_240,
    macs=1_944_641_536,
    published=(Published(69.23, 89.01, TABLE),),
)
def igcv1_l4m32(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.0) -> IgcNet:
    """Interleaved group convolutions: 4 partitions of 32 channels, the channels doubled by stage."""
    stages = ((4, 32), (4, 64), (4, 128), (4, 256))
    return _imagenet(stages, 128, num_classes=num_classes, stem=stem, dropout=dropout)


L24M2: tuple[Stage, ...] = ((24, 2), (24, 4), (24, 8))


@net(
    "igcv1_l24m2",
    source=SOURCE,
    params=318_778,
    macs=57_165_696,
    input_shape=SMALL_INPUT,
    published=(Published(95.15, None, "arXiv:1707.02725", "CIFAR-10; depth not stated by the sources at hand"),),
)
def igcv1_l24m2(
    *,
    num_classes: NumClasses = 10,
    stem: Annotated[Literal["small"], About("3x3 with stride 1; the net is for 32x32 images")] = "small",
    dropout: Dropout = 0.0,
    depth: Annotated[int, About("layers: 2 and a multiple of 6, or of 3 without shortcuts", at_least=5)] = 38,
    shortcuts: Annotated[bool, About("residual blocks of two layers; false: the plain net")] = True,
    halved: Annotated[bool, About("half as many secondary partitions where channels double, as in the code")] = False,
) -> IgcNet:
    """Interleaved group convolutions for CIFAR: 24 partitions of 2 channels, the channels doubled by stage."""
    each = 6 if shortcuts else 3
    if (depth - 2) % each or depth < 2 + each:
        raise UsageError(
            f"option `depth` cannot be `{depth}`",
            where="net igcv1_l24m2",
            expected=f"2 and a multiple of {each}, such as 20, 38, 50, 62, 74 or 98",
            got=str(depth),
        )
    made: list[nn.Module] = []
    before = 48
    for primary, per_partition in L24M2:
        width = primary * per_partition
        blocks: list[nn.Module] = []
        for _ in range((depth - 2) // each):
            stride = 1 if before == width else 2
            if shortcuts:
                first = before // primary if halved else None
                blocks.append(IgcBlock(before, width, primary=primary, stride=stride, first_secondary=first))
            else:
                blocks.append(PlainLayer(before, width, primary=primary, stride=stride))
            before = width
        made.append(nn.Sequential(*blocks))
    return IgcNet(_stem(48, large=False), made, before, num_classes=num_classes, dropout=dropout)
