"""MnasNet: inverted residuals searched for accuracy and latency on a phone.

Source: Tan et al. 2019, arXiv:1807.11626; state and initialisation as in torchvision's `mnasnet*`.

A1 is the paper's net. torchvision's nets are B1, the form without squeeze-excite. Its first version did not scale the
stem and the first block with the width: files of that time need `stem_width=fixed`. The official files are of the
second version, which a state carries with it, and ours does too.

Batch norm of A1 has eps 1e-3 and momentum 0.01, as in the authors' code (tensorflow/tpu models/official/mnasnet), that
of B1 eps 1e-5 and momentum 0.0003, as in torchvision.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from torch import Tensor, nn

from edgecnn.nets.efficientnet_blocks import EfficientNet, Stage, Style, scaled
from edgecnn.nets.layers import init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Pretrained, Published, net

NORM = partial(nn.BatchNorm2d, momentum=1 - 0.9997)

STEM_CHANNELS = (32, 16)
STAGES = (
    # expansion, kernel, stride of the first block, output channels, blocks
    (3, 3, 2, 24, 3),
    (3, 5, 2, 40, 3),
    (6, 5, 2, 80, 3),
    (6, 3, 1, 96, 2),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
A1_STAGES = (
    Stage(1, 3, 1, 32, 16, 1, squeeze=False),
    Stage(6, 3, 2, 16, 24, 2, squeeze=False),
    Stage(3, 5, 2, 24, 40, 3),
    Stage(6, 3, 2, 40, 80, 4, squeeze=False),
    Stage(6, 3, 1, 80, 112, 2),
    Stage(6, 5, 2, 112, 160, 3),
    Stage(6, 3, 1, 160, 320, 1, squeeze=False),
)
A1_STYLE = Style(activation=nn.ReLU, norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
LAST_CHANNELS = 1280

StemWidth = Literal["scaled", "fixed"]


def _conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, NORM(out_channels)]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter per channel, project by 1x1; the input is added where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.layers = nn.Sequential(
            *_conv(in_channels, hidden),
            nn.ReLU(),
            *_conv(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
            *_conv(hidden, out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus `x` where the block is residual."""
        out: Tensor = self.layers(x)
        return out + x if self.residual else out


class MnasNet(nn.Module):
    """The network, B1.

    Args:
        width: multiplier on all channels but those of the last convolution.
        stem_width: `scaled`, as in torchvision since its second version, or `fixed`, as in its first.
        num_classes: outputs of the last layer.
        stem: `small`: the first convolution has stride 1.
        dropout: of the classifier's input.
    """

    _version = 2

    def __init__(self, *, width: float, stem_width: StemWidth, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        if stem_width == "fixed" and width != 1.0:
            self._version = 1
        first, channels = (make_divisible(c * (width if stem_width == "scaled" else 1.0)) for c in STEM_CHANNELS)
        layers: list[nn.Module] = [
            *_conv(3, first, 3, stem_stride(stem)),
            nn.ReLU(),
            *_conv(first, first, 3, groups=first),
            nn.ReLU(),
            *_conv(first, channels),
        ]
        for expansion, kernel, stride, out_channels, blocks in STAGES:
            out_channels = make_divisible(out_channels * width)
            stage = []
            for i in range(blocks):
                stage.append(
                    InvertedResidual(
                        channels, out_channels, expansion=expansion, kernel=kernel, stride=stride if i == 0 else 1
                    )
                )
                channels = out_channels
            layers.append(nn.Sequential(*stage))
        layers += [*_conv(channels, LAST_CHANNELS), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        fc = nn.Linear(LAST_CHANNELS, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), fc)
        init_conv_nets(self, linear_std=None)
        nn.init.kaiming_uniform_(fc.weight, mode="fan_out", nonlinearity="sigmoid")
        nn.init.zeros_(fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(self.layers(x).mean([2, 3]))
        return logits


PAPER = "Tan et al. 2019, arXiv:1807.11626"
README = "tensorflow/tpu mnasnet README"
StemOption = Annotated[Stem, About("`small`: the first convolution has stride 1")]
StemWidthOption = Annotated[
    StemWidth, About("`fixed`: 32 and 16 channels at any width, for files from torchvision's first version")
]


@net(
    "mnasnet0_5",
    source=f"{PAPER}, B1; torchvision mnasnet0_5",
    params=2_218_512,
    macs=104_455_968,
    pretrained=Pretrained("mnasnet0.5_top1_67.823-3ffadce67e.pth", top1=67.734, top5=87.49),
)
def mnasnet0_5(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    stem_width: StemWidthOption = "scaled",
) -> MnasNet:
    """Searched inverted residuals, at half width."""
    return MnasNet(width=0.5, stem_width=stem_width, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "mnasnet0_75",
    source=f"{PAPER}, B1; torchvision mnasnet0_75",
    params=3_170_208,
    macs=215_493_104,
    pretrained=Pretrained("mnasnet0_75-7090bc5f.pth", top1=71.18, top5=90.496, resize=232),
)
def mnasnet0_75(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    stem_width: StemWidthOption = "scaled",
) -> MnasNet:
    """Searched inverted residuals, three quarters as wide."""
    return MnasNet(width=0.75, stem_width=stem_width, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "mnasnet1_0",
    source=f"{PAPER}, B1; torchvision mnasnet1_0",
    params=4_383_312,
    macs=314_415_872,
    pretrained=Pretrained("mnasnet1.0_top1_73.512-f206786ef8.pth", top1=73.456, top5=91.51),
    published=(Published(74.67, 92.11, "timm results, mnasnet_100.rmsp_in1k"),),
)
def mnasnet1_0(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    stem_width: StemWidthOption = "scaled",
) -> MnasNet:
    """Searched inverted residuals, without squeeze-excite."""
    return MnasNet(width=width, stem_width=stem_width, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "mnasnet1_3",
    source=f"{PAPER}, B1; torchvision mnasnet1_3",
    params=6_282_256,
    macs=526_362_432,
    pretrained=Pretrained("mnasnet1_3-a4c69d6f.pth", top1=76.506, top5=93.522, resize=232),
)
def mnasnet1_3(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    stem_width: StemWidthOption = "scaled",
) -> MnasNet:
    """Searched inverted residuals, 1.3 times as wide."""
    return MnasNet(width=1.3, stem_width=stem_width, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "mnasnet_a1",
    source=f"{PAPER}, A1; tensorflow/tpu mnasnet",
    params=3_887_038,
    macs=311_579_072,
    published=(
        Published(75.2, 92.5, README),
        Published(77.2, 93.5, README, "width 1.4"),
        Published(73.3, 91.3, README, "width 0.75"),
        Published(68.9, 88.4, README, "width 0.5"),
        Published(64.1, 85.1, README, "width 0.35"),
    ),
    aliases=("mnasnet",),
)
def mnasnet_a1(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
) -> EfficientNet:
    """Searched inverted residuals, some with squeeze-excite."""
    return EfficientNet(
        scaled(A1_STAGES, width=width, depth=1.0),
        last_channels=LAST_CHANNELS,
        style=A1_STYLE,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
        drop_path=0.0,
    )
