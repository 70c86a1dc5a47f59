"""EfficientNetV2: fused blocks where resolution is high, inverted residuals with squeeze-excite where it is low.

Source: Tan and Le 2021, arXiv:2104.00298, Table 4; state and initialisation as in torchvision, batch norm eps 1e-3.

Counts are for the resolution of evaluation, 384 for S and 480 for M and L; training goes up to 300 for S and 384 for M
and L only. L's official weights expect images of mean and deviation 0.5. The authors' page gives L 119.5 million
parameters; the net has 118.5.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from edgecnn.nets.efficientnet_blocks import DropPath, EfficientNet, Stage, StemOption, Style
from edgecnn.nets.options import Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

STYLE = Style(norm=partial(nn.BatchNorm2d, eps=1e-3))
LAST_CHANNELS = 1280

S = (
    Stage(1, 3, 1, 24, 24, 2, fused=True),
    Stage(4, 3, 2, 24, 48, 4, fused=True),
    Stage(4, 3, 2, 48, 64, 4, fused=True),
    Stage(4, 3, 2, 64, 128, 6),
    Stage(6, 3, 1, 128, 160, 9),
    Stage(6, 3, 2, 160, 256, 15),
)
M = (
    Stage(1, 3, 1, 24, 24, 3, fused=True),
    Stage(4, 3, 2, 24, 48, 5, fused=True),
    Stage(4, 3, 2, 48, 80, 5, fused=True),
    Stage(4, 3, 2, 80, 160, 7),
    Stage(6, 3, 1, 160, 176, 14),
    Stage(6, 3, 2, 176, 304, 18),
    Stage(6, 3, 1, 304, 512, 5),
)
L = (
    Stage(1, 3, 1, 32, 32, 4, fused=True),
    Stage(4, 3, 2, 32, 64, 7, fused=True),
    Stage(4, 3, 2, 64, 96, 7, fused=True),
    Stage(4, 3, 2, 96, 192, 10),
    Stage(6, 3, 1, 192, 224, 19),
    Stage(6, 3, 2, 224, 384, 25),
    Stage(6, 3, 1, 384, 640, 7),
)

PAPER = "Tan and Le 2021, arXiv:2104.00298"
README = "google/automl efficientnetv2 README"
FROM_21K = "trained on ImageNet-21k first"


def _build(
    stages: tuple[Stage, ...], *, num_classes: int, stem: Stem, dropout: float, drop_path: float
) -> EfficientNet:
    return EfficientNet(
        stages,
        last_channels=LAST_CHANNELS,
        style=STYLE,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
    )


@net(
    "efficientnet_v2_s",
    source=f"{PAPER}; torchvision efficientnet_v2_s",
    params=21_458_488,
    macs=8_365_617_152,
    input_shape=(3, 384, 384),
    pretrained=Pretrained("efficientnet_v2_s-dd5fe13b.pth", top1=84.228, top5=96.878, resize=384, crop=384),
    published=(Published(83.9, None, README), Published(84.9, None, README, FROM_21K)),
)
def efficientnet_v2_s(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Fused blocks, then inverted residuals with squeeze-excite; 40 blocks, for 384x384."""
    return _build(S, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_v2_m",
    source=f"{PAPER}; torchvision efficientnet_v2_m",
    params=54_139_356,
    macs=24_582_460_384,
    input_shape=(3, 480, 480),
    pretrained=Pretrained("efficientnet_v2_m-dc08266a.pth", top1=85.112, top5=97.156, resize=480, crop=480),
    published=(Published(85.2, None, README), Published(86.2, None, README, FROM_21K)),
)
def efficientnet_v2_m(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Fused blocks, then inverted residuals with squeeze-excite; 57 blocks, for 480x480."""
    return _build(M, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_v2_l",
    source=f"{PAPER}; torchvision efficientnet_v2_l",
    params=118_515_272,
    macs=56_079_699_008,
    input_shape=(3, 480, 480),
    pretrained=Pretrained(
        "efficientnet_v2_l-59c71312.pth",
        top1=85.808,
        top5=97.788,
        resize=480,
        crop=480,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    published=(Published(85.7, None, README), Published(86.9, None, README, FROM_21K)),
)
def efficientnet_v2_l(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.4,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Fused blocks, then inverted residuals with squeeze-excite; 79 blocks, for 480x480."""
    return _build(L, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)
