"""MobileNetV3: searched inverted residuals with squeeze-excite and hard-swish.

Source: Howard et al. 2019, arXiv:1905.02244, Tables 1 and 2; state and initialisation as in torchvision's
`mobilenet_v3_large` and `mobilenet_v3_small`.

Where the sources disagree: the paper's Table 2 gives Small a head of 1280 and a squeeze-excite tick on the last
convolution; the released checkpoints and torchvision have 1024 and none. `head=1280` gives the paper's 2.9 million
parameters. Its 66 million multiply-adds cannot be had: Small has 56.5, with either head 57 at most.

Batch norm has eps 1e-3 and momentum 0.01. The squeeze-excite gate is a hard sigmoid. The minimalistic nets are those of
the authors' released checkpoints (tensorflow/models research/slim/nets/mobilenet README).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import Activation, ConvNormAct, SqueezeExcitation, init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Pretrained, Published, net

NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
Scaling = Literal["torchvision", "paper"]


@dataclass(frozen=True)
class Block:
    """One row of the paper's tables; widths for multiplier 1."""

    in_channels: int
    kernel: int
    expanded: int
    out_channels: int
    squeeze: bool
    activation: Activation
    stride: int


RE, HS = nn.ReLU, nn.Hardswish
LARGE = (
    Block(16, 3, 16, 16, False, RE, 1),
    Block(16, 3, 64, 24, False, RE, 2),
    Block(24, 3, 72, 24, False, RE, 1),
    Block(24, 5, 72, 40, True, RE, 2),
    Block(40, 5, 120, 40, True, RE, 1),
    Block(40, 5, 120, 40, True, RE, 1),
    Block(40, 3, 240, 80, False, HS, 2),
    Block(80, 3, 200, 80, False, HS, 1),
    Block(80, 3, 184, 80, False, HS, 1),
    Block(80, 3, 184, 80, False, HS, 1),
    Block(80, 3, 480, 112, True, HS, 1),
    Block(112, 3, 672, 112, True, HS, 1),
    Block(112, 5, 672, 160, True, HS, 2),
    Block(160, 5, 960, 160, True, HS, 1),
    Block(160, 5, 960, 160, True, HS, 1),
)
SMALL = (
    Block(16, 3, 16, 16, True, RE, 2),
    Block(16, 3, 72, 24, False, RE, 2),
    Block(24, 3, 88, 24, False, RE, 1),
    Block(24, 5, 96, 40, True, HS, 2),
    Block(40, 5, 240, 40, True, HS, 1),
    Block(40, 5, 240, 40, True, HS, 1),
    Block(40, 5, 120, 48, True, HS, 1),
    Block(48, 5, 144, 48, True, HS, 1),
    Block(48, 5, 288, 96, True, HS, 2),
    Block(96, 5, 576, 96, True, HS, 1),
    Block(96, 5, 576, 96, True, HS, 1),
)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter per channel, squeeze and excite, project by 1x1; the input is added where shapes allow."""

    def __init__(self, row: Block, *, in_channels: int, expanded: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvNormAct(in_channels, expanded, kernel=1, norm=NORM, activation=row.activation))
        layers.append(
            ConvNormAct(
                expanded,
                expanded,
                kernel=row.kernel,
                stride=row.stride,
                groups=expanded,
                norm=NORM,
                activation=row.activation,
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(expanded, make_divisible(expanded // 4), gate=nn.Hardsigmoid))
        layers.append(ConvNormAct(expanded, out_channels, kernel=1, norm=NORM, activation=None))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus `x` where the block is residual."""
        out: Tensor = self.block(x)
        return out + x if self.residual else out


class MobileNetV3(nn.Module):
    """The network.

    `scaling` says what a width multiplier does. `torchvision` scales every number of the table, stem and head too.
    `paper` follows the released checkpoints: expansion factors apply to the scaled input, the head stays as it is,
    and so does the stem below 0.75.

    `minimalistic` leaves out what not every accelerator has: squeeze-excite, hard-swish and 5x5 kernels.
    """

    def __init__(
        self,
        rows: tuple[Block, ...],
        *,
        head: int,
        width: float,
        scaling: Scaling,
        minimalistic: bool,
        num_classes: int,
        stem: Stem,
        dropout: float,
    ) -> None:
        super().__init__()
        activation: Activation = HS
        if minimalistic:
            activation = RE
            rows = tuple(replace(row, kernel=3, squeeze=False, activation=RE) for row in rows)
        paper = scaling == "paper"
        stem_width = 1.0 if paper and width < 0.75 else width
        channels = make_divisible(rows[0].in_channels * stem_width)
        features: list[nn.Module] = [
            ConvNormAct(3, channels, stride=stem_stride(stem), norm=NORM, activation=activation)
        ]
        for row in rows:
            if paper:
                expanded = make_divisible(channels * row.expanded / row.in_channels)
            else:
                expanded = make_divisible(row.expanded * width)
            out_channels = make_divisible(row.out_channels * width)
            features.append(InvertedResidual(row, in_channels=channels, expanded=expanded, out_channels=out_channels))
            channels = out_channels
        last = make_divisible(6 * rows[-1].out_channels * width) if paper else 6 * channels
        features.append(ConvNormAct(channels, last, kernel=1, norm=NORM, activation=activation))
        head = head if paper else make_divisible(head * width)
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(last, head), activation(), nn.Dropout(dropout), nn.Linear(head, num_classes)
        )
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


StemOption = Annotated[Stem, About("`small`: the first convolution has stride 1")]
ScalingOption = Annotated[
    Scaling, About("what `width` scales: everything (`torchvision`), or as the released checkpoints (`paper`)")
]
Minimalistic = Annotated[bool, About("without squeeze-excite, hard-swish and 5x5 kernels")]

PAPER = "Howard et al. 2019, arXiv:1905.02244"
README = "tensorflow/models slim mobilenet README"
INT8 = "in 8 bits"


@net(
    "mobilenet_v3_large",
    source=f"{PAPER}; torchvision mobilenet_v3_large",
    params=5_483_032,
    macs=216_589_760,
    pretrained=Pretrained("mobilenet_v3_large-5c1a4163.pth", top1=75.274, top5=92.566, resize=232),
    published=(
        Published(75.2, None, f"{PAPER}, Table 3"),
        Published(73.3, None, f"{PAPER}, Table 3", "width 0.75, scaled as in the paper"),
        Published(73.8, None, f"{PAPER}, Table 4", INT8),
        Published(73.9, None, README, INT8),
        Published(72.3, None, README, "minimalistic"),
        Published(71.3, None, README, f"minimalistic, {INT8}"),
    ),
    aliases=("mobilenet_v3",),
)
def mobilenet_v3_large(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    scaling: ScalingOption = "torchvision",
    minimalistic: Minimalistic = False,
) -> MobileNetV3:
    """Searched inverted residuals with squeeze-excite and hard-swish."""
    return MobileNetV3(
        LARGE,
        head=1280,
        width=width,
        scaling=scaling,
        minimalistic=minimalistic,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
    )


@net(
    "mobilenet_v3_small",
    source=f"{PAPER}; torchvision mobilenet_v3_small",
    params=2_542_856,
    macs=56_510_400,
    pretrained=Pretrained("mobilenet_v3_small-047dcff4.pth", top1=67.668, top5=87.402),
    published=(
        Published(67.4, None, f"{PAPER}, Table 3"),
        Published(65.4, None, f"{PAPER}, Table 3", "width 0.75, scaled as in the paper"),
        Published(64.9, None, f"{PAPER}, Table 4", INT8),
        Published(67.5, None, README),
        Published(61.9, None, README, "minimalistic"),
    ),
)
def mobilenet_v3_small(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    scaling: ScalingOption = "torchvision",
    minimalistic: Minimalistic = False,
    head: Annotated[
        Literal[1024, 1280], About("channels of the hidden layer: the released 1024, or the paper's Table 2")
    ] = 1024,
) -> MobileNetV3:
    """The smaller MobileNetV3, for 50 to 60 million multiply-adds."""
    return MobileNetV3(
        SMALL,
        head=head,
        width=width,
        scaling=scaling,
        minimalistic=minimalistic,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
    )
