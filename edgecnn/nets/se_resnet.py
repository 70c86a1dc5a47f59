"""SE-ResNet and SE-ResNeXt: the branch of every bottleneck block scaled per channel before it is added.

Source: Hu et al. 2018, arXiv:1709.01507; reduction 16. State as in timm's `seresnet50` (torchvision's names for the
ResNet, `se.fc1` and `se.fc2` for the gates).

Two layouts are published. `caffe` is the authors' release and the paper's 3.87 GFLOPs (timm `legacy_seresnet50`,
under other names): the max pool does not pad and rounds up, and SE-ResNet has the stride at the first 1x1 convolution.
`v1.5`, timm's `seresnet50`, pads the max pool by 1 and has the stride at the 3x3 convolution. SE-ResNeXt has it there
in both. The tensors are the same, so weights load into the wrong layout without complaint and lose accuracy.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from torch import Tensor
from torch.nn import functional as F

from edgecnn.nets.layers import SqueezeExcitation
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Published, net
from edgecnn.nets.resnet import DEPTHS, Bottleneck, ResNet, StemOption, StrideAt

REDUCTION = 16

Layout = Literal["v1.5", "caffe"]
ResNetLayout = Annotated[
    Layout, About("`v1.5`: stride at the 3x3, padded max pool; `caffe`: stride at the 1x1, max pool rounds up (paper)")
]
ResNeXtLayout = Annotated[Layout, About("`v1.5`: padded max pool; `caffe`: max pool without padding rounds up (paper)")]


class SEBottleneck(Bottleneck):
    """A bottleneck block with squeeze and excitation on its branch."""

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
        super().__init__(
            in_channels, width, stride, stride_at=stride_at, groups=groups, width_per_group=width_per_group
        )
        self.se = SqueezeExcitation(self.out_channels, self.out_channels // REDUCTION)

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of the scaled branch and the shortcut."""
        return F.relu(self.se(self.branch(x)) + self.downsample(x))


def _se_resnet(depth: int, *, num_classes: int, stem: Stem, dropout: float, layout: Layout) -> ResNet:
    block = partial(SEBottleneck, stride_at="1x1" if layout == "caffe" else "3x3")
    caffe = layout == "caffe"
    return ResNet(block, DEPTHS[depth], num_classes=num_classes, stem=stem, dropout=dropout, caffe_pool=caffe)


def _se_resnext(depth: int, *, num_classes: int, stem: Stem, dropout: float, layout: Layout) -> ResNet:
    block = partial(SEBottleneck, groups=32, width_per_group=4)
    caffe = layout == "caffe"
    return ResNet(block, DEPTHS[depth], num_classes=num_classes, stem=stem, dropout=dropout, caffe_pool=caffe)


PAPER = "Hu et al. 2018, arXiv:1709.01507"
TABLE = f"{PAPER}, Table 2"
CAFFE = "layout `caffe`"


@net(
    "seresnet50",
    source=f"{PAPER}; timm seresnet50",
    params=28_088_024,
    macs=4_091_699_200,
    published=(
        Published(76.71, 93.38, TABLE, CAFFE),
        Published(77.63, 93.64, "hujie-frank/SENet README", f"{CAFFE}, released weights"),
    ),
)
def seresnet50(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    layout: ResNetLayout = "v1.5",
) -> ResNet:
    """ResNet-50 with squeeze and excitation."""
    return _se_resnet(50, num_classes=num_classes, stem=stem, dropout=dropout, layout=layout)


@net(
    "seresnet101",
    source=f"{PAPER}; timm seresnet101",
    params=49_326_872,
    macs=7_806_148_608,
    published=(Published(77.62, 93.93, TABLE, CAFFE),),
)
def seresnet101(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    layout: ResNetLayout = "v1.5",
) -> ResNet:
    """ResNet-101 with squeeze and excitation."""
    return _se_resnet(101, num_classes=num_classes, stem=stem, dropout=dropout, layout=layout)


@net(
    "seresnet152",
    source=f"{PAPER}; timm seresnet152",
    params=66_821_848,
    macs=11_520_204_800,
    published=(Published(78.43, 94.27, TABLE, CAFFE),),
)
def seresnet152(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    layout: ResNetLayout = "v1.5",
) -> ResNet:
    """ResNet-152 with squeeze and excitation."""
    return _se_resnet(152, num_classes=num_classes, stem=stem, dropout=dropout, layout=layout)


@net(
    "seresnext50_32x4d",
    source=f"{PAPER}; timm seresnext50_32x4d",
    params=27_559_896,
    macs=4_232_994_816,
    published=(Published(78.9, 94.51, TABLE, CAFFE),),
)
def seresnext50_32x4d(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    layout: ResNeXtLayout = "v1.5",
) -> ResNet:
    """ResNeXt-50 32x4d with squeeze and excitation."""
    return _se_resnext(50, num_classes=num_classes, stem=stem, dropout=dropout, layout=layout)


@net(
    "seresnext101_32x4d",
    source=f"{PAPER}; timm seresnext101_32x4d",
    params=48_955_416,
    macs=7_974_739_968,
    published=(Published(79.3, 94.99, TABLE, CAFFE),),
)
def seresnext101_32x4d(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    layout: ResNeXtLayout = "v1.5",
) -> ResNet:
    """ResNeXt-101 32x4d with squeeze and excitation."""
    return _se_resnext(101, num_classes=num_classes, stem=stem, dropout=dropout, layout=layout)
