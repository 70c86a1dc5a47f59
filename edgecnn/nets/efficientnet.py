"""EfficientNet: inverted residuals with squeeze-excite and SiLU, scaled in width, depth and resolution together.

Source: Tan and Le 2019, arXiv:1905.11946, Tables 1 and 2; state and initialisation as in torchvision.

Where the sources disagree: batch norm is torchvision's, eps 1e-5 and momentum 0.1 up to B4, which were trained in
PyTorch, and 1e-3 and 0.01 from B5 on, which were converted from the paper's checkpoints. The paper has B2 at 260x260;
torchvision evaluates its weights at 288x288, which the counts of the entry are for. The first version of the paper has
B0 at 76.3 and B1 at 78.8 % top-1, the last one, trained with AutoAugment, at 77.1 and 79.1 %.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from edgecnn.nets.efficientnet_blocks import B0, Depth, DropPath, EfficientNet, StemOption, Style, scaled
from edgecnn.nets.options import Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Pretrained, Published, net

TRAINED_IN_PYTORCH = Style()
CONVERTED = Style(norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))

PAPER = "Tan and Le 2019, arXiv:1905.11946"
TABLE_2 = f"{PAPER} v5, Table 2"
FIRST_TABLE_2 = f"{PAPER} v1, Table 2"


def _build(
    width: float, depth: float, style: Style, *, num_classes: int, stem: Stem, dropout: float, drop_path: float
) -> EfficientNet:
    stages = scaled(B0, width=width, depth=depth)
    return EfficientNet(
        stages,
        last_channels=4 * stages[-1].out_channels,
        style=style,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
    )


@net(
    "efficientnet_b0",
    source=f"{PAPER}; torchvision efficientnet_b0",
    params=5_288_548,
    macs=385_814_752,
    pretrained=Pretrained("efficientnet_b0_rwightman-7f5810bc.pth", top1=77.692, top5=93.532, interpolation="bicubic"),
    published=(
        Published(77.1, 93.3, TABLE_2, "trained with AutoAugment"),
        Published(76.3, 93.2, FIRST_TABLE_2),
    ),
)
def efficientnet_b0(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    depth: Depth = 1.0,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Inverted residuals with squeeze-excite and SiLU."""
    return _build(
        width,
        depth,
        TRAINED_IN_PYTORCH,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
    )


@net(
    "efficientnet_b1",
    source=f"{PAPER}; torchvision efficientnet_b1",
    params=7_794_184,
    macs=686_802_832,
    input_shape=(3, 240, 240),
    pretrained=Pretrained("efficientnet_b1-c27df63c.pth", top1=79.838, top5=94.934, resize=255, crop=240),
    published=(
        Published(79.1, 94.4, TABLE_2, "trained with AutoAugment"),
        Published(78.8, 94.4, FIRST_TABLE_2),
    ),
)
def efficientnet_b1(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Depth times 1.1, for 240x240."""
    return _build(
        1.0, 1.1, TRAINED_IN_PYTORCH, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path
    )


@net(
    "efficientnet_b2",
    source=f"{PAPER}; torchvision efficientnet_b2",
    params=9_109_994,
    macs=1_087_529_456,
    input_shape=(3, 288, 288),
    pretrained=Pretrained(
        "efficientnet_b2_rwightman-c35c1473.pth", top1=80.608, top5=95.31, resize=288, crop=288, interpolation="bicubic"
    ),
    published=(Published(80.1, 94.9, TABLE_2, "260x260"),),
)
def efficientnet_b2(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.1 and depth times 1.2, for 260x260 in the paper, 288x288 in torchvision."""
    return _build(
        1.1, 1.2, TRAINED_IN_PYTORCH, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path
    )


@net(
    "efficientnet_b3",
    source=f"{PAPER}; torchvision efficientnet_b3",
    params=12_233_232,
    macs=1_827_141_392,
    input_shape=(3, 300, 300),
    pretrained=Pretrained(
        "efficientnet_b3_rwightman-b3899882.pth",
        top1=82.008,
        top5=96.054,
        resize=320,
        crop=300,
        interpolation="bicubic",
    ),
    published=(Published(81.6, 95.7, TABLE_2),),
)
def efficientnet_b3(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.3,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.2 and depth times 1.4, for 300x300."""
    return _build(
        1.2, 1.4, TRAINED_IN_PYTORCH, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path
    )


@net(
    "efficientnet_b4",
    source=f"{PAPER}; torchvision efficientnet_b4",
    params=19_341_616,
    macs=4_393_771_024,
    input_shape=(3, 380, 380),
    pretrained=Pretrained(
        "efficientnet_b4_rwightman-23ab8bcd.pth",
        top1=83.384,
        top5=96.594,
        resize=384,
        crop=380,
        interpolation="bicubic",
    ),
    published=(Published(82.9, 96.4, TABLE_2),),
)
def efficientnet_b4(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.4,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.4 and depth times 1.8, for 380x380."""
    return _build(
        1.4, 1.8, TRAINED_IN_PYTORCH, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path
    )


@net(
    "efficientnet_b5",
    source=f"{PAPER}; torchvision efficientnet_b5",
    params=30_389_784,
    macs=10_266_384_752,
    input_shape=(3, 456, 456),
    pretrained=Pretrained(
        "efficientnet_b5_lukemelas-1a07897c.pth",
        top1=83.444,
        top5=96.628,
        resize=456,
        crop=456,
        interpolation="bicubic",
    ),
    published=(Published(83.6, 96.7, TABLE_2),),
)
def efficientnet_b5(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.4,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.6 and depth times 2.2, for 456x456."""
    return _build(1.6, 2.2, CONVERTED, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_b6",
    source=f"{PAPER}; torchvision efficientnet_b6",
    params=43_040_704,
    macs=19_067_593_536,
    input_shape=(3, 528, 528),
    pretrained=Pretrained(
        "efficientnet_b6_lukemelas-24a108a5.pth",
        top1=84.008,
        top5=96.916,
        resize=528,
        crop=528,
        interpolation="bicubic",
    ),
    published=(Published(84.0, 96.8, TABLE_2),),
)
def efficientnet_b6(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.5,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 1.8 and depth times 2.6, for 528x528."""
    return _build(1.8, 2.6, CONVERTED, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)


@net(
    "efficientnet_b7",
    source=f"{PAPER}; torchvision efficientnet_b7",
    params=66_347_960,
    macs=37_745_884_192,
    input_shape=(3, 600, 600),
    pretrained=Pretrained(
        "efficientnet_b7_lukemelas-c5b4e57e.pth",
        top1=84.122,
        top5=96.908,
        resize=600,
        crop=600,
        interpolation="bicubic",
    ),
    published=(Published(84.3, 97.0, TABLE_2),),
)
def efficientnet_b7(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.5,
    drop_path: DropPath = 0.2,
) -> EfficientNet:
    """Width times 2 and depth times 3.1, for 600x600."""
    return _build(2.0, 3.1, CONVERTED, num_classes=num_classes, stem=stem, dropout=dropout, drop_path=drop_path)
