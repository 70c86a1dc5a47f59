"""Inception v3: convolutions factorised into smaller and asymmetric ones, in modules of parallel branches.

Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", arXiv:1512.00567; layers,
state and initialisation as in torchvision's `inception_v3`. Images have at least 75x75 pixels, 299x299 as published.
Of the parameters, 3,326,696 are of the auxiliary classifier, which no artifact has.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.auxiliary import AuxiliaryClassifier, TrainingOutputs
from edgecnn.nets.inception_layers import Auxiliary, BasicConv2d, InputTransform, TransformInput, init_truncated
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary classifier's loss. Source: torchvision's reference training; the paper states none."""


class InceptionA(nn.Module):
    """1x1, 5x5, two 3x3, and an average pool."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 64, 1)
        self.branch5x5_1 = BasicConv2d(in_channels, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 224 + pool_features, H, W] from [N, in_channels, H, W]."""
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), branch5x5, branch3x3dbl, self.branch_pool(_mean_3x3(x))], 1)


class InceptionB(nn.Module):
    """Halves the resolution: 3x3, two 3x3, and a max pool."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 480 + in_channels, (H - 1) // 2, (W - 1) // 2] from [N, in_channels, H, W]."""
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), branch3x3dbl, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """1x1, a 7x7 as 1x7 and 7x1, two of these, and an average pool."""

    def __init__(self, in_channels: int, channels_7x7: int) -> None:
        super().__init__()
        c7 = channels_7x7
        self.branch1x1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7_1 = BasicConv2d(in_channels, c7, 1)
        self.branch7x7_2 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7_3 = BasicConv2d(c7, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = BasicConv2d(in_channels, c7, 1)
        self.branch7x7dbl_2 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = BasicConv2d(c7, c7, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = BasicConv2d(c7, c7, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = BasicConv2d(c7, 192, (1, 7), padding=(0, 3))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 768, H, W] from [N, in_channels, H, W]."""
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), branch7x7, twice, self.branch_pool(_mean_3x3(x))], 1)


class InceptionD(nn.Module):
    """Halves the resolution: 3x3, a 7x7 as 1x7 and 7x1 before a 3x3, and a max pool."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 512 + in_channels, (H - 1) // 2, (W - 1) // 2] from [N, in_channels, H, W]."""
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7x3 = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([branch3x3, self.branch7x7x3_4(branch7x7x3), F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """1x1, a 3x3 as 1x3 beside 3x1, the same behind another 3x3, and an average pool."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 320, 1)
        self.branch3x3_1 = BasicConv2d(in_channels, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 2048, H, W] from [N, in_channels, H, W]."""
        once = self.branch3x3_1(x)
        once = torch.cat([self.branch3x3_2a(once), self.branch3x3_2b(once)], 1)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        twice = torch.cat([self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)], 1)
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean_3x3(x))], 1)


class InceptionAuxiliary(AuxiliaryClassifier):
    """A pool to 5x5, a 1x1 and a 5x5 convolution, and a linear layer."""

    def __init__(self, in_channels: int, *, num_classes: int, stem: Stem) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3) if stem == "imagenet" else nn.AdaptiveAvgPool2d(5)
        self.conv0 = BasicConv2d(in_channels, 128, 1)
        self.conv1 = BasicConv2d(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of maps in the middle of the net."""
        x = F.adaptive_avg_pool2d(self.conv1(self.conv0(self.pool(x))), 1)
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


class Inception3(nn.Module):
    """The net; in training mode with an auxiliary classifier it returns `TrainingOutputs`, else logits."""

    AuxLogits: InceptionAuxiliary | None

    def __init__(self, *, num_classes: int, stem: Stem, dropout: float, aux: bool, transform_input: bool) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        stride, padding = (2, 0) if imagenet else (1, 1)
        self.transform = InputTransform() if transform_input else nn.Identity()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=stride, padding=padding)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3, padding=padding)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2) if imagenet else nn.Identity()
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3, padding=padding)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, pool_features=32)
        self.Mixed_5c = InceptionA(256, pool_features=64)
        self.Mixed_5d = InceptionA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, channels_7x7=128)
        self.Mixed_6c = InceptionC(768, channels_7x7=160)
        self.Mixed_6d = InceptionC(768, channels_7x7=160)
        self.Mixed_6e = InceptionC(768, channels_7x7=192)
        self.AuxLogits = InceptionAuxiliary(768, num_classes=num_classes, stem=stem) if aux else None
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        # torchvision means the auxiliary classifier's `conv1` to have another deviation too, but asks its convolution.
        smaller: dict[nn.Module, float] = {self.AuxLogits.fc: 0.001} if self.AuxLogits is not None else {}
        init_truncated(self, std=0.1, exceptions=smaller)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Logits [N, num_classes] of images [N, 3, H, W]; in training mode those of the auxiliary classifier too."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(self.transform(x))))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        after_6e = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.avgpool(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(after_6e))))
        logits: Tensor = self.fc(self.dropout(torch.flatten(x, 1)))
        if self.training and self.AuxLogits is not None:
            return TrainingOutputs(logits, (self.AuxLogits(after_6e),), AUXILIARY_WEIGHT)
        return logits


def _mean_3x3(x: Tensor) -> Tensor:
    """The mean over 3x3 windows; at the border of nine values too, of which some are padding."""
    return F.avg_pool2d(x, 3, 1, padding=1)


@net(
    "inception_v3",
    source="Szegedy et al. 2016, arXiv:1512.00567; torchvision inception_v3",
    params=27_161_264,
    macs=5_713_216_096,
    input_shape=(3, 299, 299),
    pretrained=Pretrained(
        "inception_v3_google-0cc3c7bd.pth",
        top1=77.294,
        top5=93.45,
        resize=342,
        crop=299,
        fixed=("transform_input",),
    ),
    published=(
        Published(78.8, 94.4, "Szegedy et al. 2016, abstract"),
        Published(78.0, 93.9, "tensorflow/models research/slim, Inception V3"),
    ),
)
def inception_v3(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[
        Stem,
        About("`small`: the convolutions before the first module have stride 1 and padding, and one max pool, not two"),
    ] = "imagenet",
    dropout: Dropout = 0.5,
    aux: Auxiliary = True,
    transform_input: TransformInput = True,
) -> Inception3:
    """Factorised convolutions in parallel branches; deployed without auxiliary classifier: 23,834,568."""
    return Inception3(num_classes=num_classes, stem=stem, dropout=dropout, aux=aux, transform_input=transform_input)
