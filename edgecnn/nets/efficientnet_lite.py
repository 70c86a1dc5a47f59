"""EfficientNet-Lite: EfficientNet without squeeze-excite and with ReLU6, which keeps its accuracy in 8 bits.

Source: tensorflow/tpu models/official/efficientnet/lite (`efficientnet_lite_builder.py` and README); batch norm eps
1e-3 and momentum 0.01 as there.

The first convolution (32 channels), the last one (1280) and the depth of the first and the last stage are not scaled.
State is that of torchvision's EfficientNet, `features.*` and `classifier.1`; torchvision has no Lite, and timm's files
name the same tensors otherwise. The released checkpoints expect images of mean 127 and deviation 128 (of 255), which
timm rounds to 0.5 and 0.5.

The README's multiply-adds (407, 631 and 899 million, 1.44 and 2.64 billion) are 3 to 6 % more than those of the layers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from edgecnn.nets.efficientnet_blocks import B0, Depth, DropPath, EfficientNet, Stage, StemOption, Style, scaled
from edgecnn.nets.options import Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Published, net

STYLE = Style(activation=nn.ReLU6, norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
LAST_CHANNELS = 1280

SOURCE = "tensorflow/tpu efficientnet/lite; Tan and Le 2019, arXiv:1905.11946"
README = "tensorflow/tpu efficientnet/lite README"
INT8 = "in 8 bits"


def lite_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """B0's stages without squeeze, scaled but for the input and the depth of the first and the depth of the last."""
    first, *middle, last = (replace(stage, squeeze=False) for stage in scaled(B0, width=width, depth=depth))
    return (
        replace(first, in_channels=B0[0].in_channels, blocks=B0[0].blocks),
        *middle,
        replace(last, blocks=B0[-1].blocks),
    )


def _build(
    width: float, depth: float, *, num_classes: int, stem: Stem, dropout: float, drop_path: float
) -> EfficientNet:
    return EfficientNet(
        lite_stages(width, depth),
        last_channels=LAST_CHANNELS,
        style=STYLE,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
    )


@net(
    "efficientnet_lite0",
    source=SOURCE,
    params=4_652_008,
    macs=385_187_552,
    published=(Published(75.1, None, README), Published(74.4, None, README, INT8)),
)
def efficientnet_lite0(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    depth: Depth = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Inverted residuals with ReLU6 and no squeeze-excite, for 8 bits."""
    return _build(width, depth, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_lite1",
    source=SOURCE,
    params=5_416_680,
    macs=600_185_232,
    input_shape=(3, 240, 240),
    published=(Published(76.7, None, README), Published(75.9, None, README, INT8)),
)
def efficientnet_lite1(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Depth times 1.1, for 240x240."""
    return _build(1.0, 1.1, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_lite2",
    source=SOURCE,
    params=6_092_072,
    macs=859_736_272,
    input_shape=(3, 260, 260),
    published=(Published(77.6, None, README), Published(77.0, None, README, INT8)),
)
def efficientnet_lite2(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.1 and depth times 1.2, for 260x260."""
    return _build(1.1, 1.2, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_lite3",
    source=SOURCE,
    params=8_197_096,
    macs=1_383_321_872,
    input_shape=(3, 280, 280),
    published=(Published(79.8, None, README), Published(79.0, None, README, INT8)),
)
def efficientnet_lite3(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.2 and depth times 1.4, for 280x280."""
    return _build(1.2, 1.4, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_lite4",
    source=SOURCE,
    params=13_006_568,
    macs=2_553_034_336,
    input_shape=(3, 300, 300),
    published=(Published(81.5, None, README), Published(80.2, None, README, INT8)),
)
def efficientnet_lite4(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.4 and depth times 1.8, for 300x300."""
    return _build(1.4, 1.8, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)
