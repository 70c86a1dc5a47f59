"""SqueezeNet: fire modules, no batch norm, no linear layer.

Source: Iandola et al. 2016, arXiv:1602.07360, and the authors' version 1.1; state and initialisation as in
torchvision's `squeezenet1_0` and `squeezenet1_1`. The paper's images are 227x227, torchvision's 224x224.

The max pools round up (ceil mode). The last convolution is followed by a ReLU before the pool.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net


class Fire(nn.Module):
    """A narrow 1x1 convolution, then a 1x1 and a 3x3 convolution side by side."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The two expansions, concatenated."""
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), dim=1)


def features_1_0(stem: Stem) -> nn.Sequential:
    """The layers of version 1.0, up to the last fire module."""
    stride, padding = (2, 0) if stem == "imagenet" else (1, 3)
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, stride, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(96, 16, 64),
        Fire(128, 16, 64),
        Fire(128, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 32, 128),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(512, 64, 256),
    )


def features_1_1(stem: Stem) -> nn.Sequential:
    """The layers of version 1.1, up to the last fire module."""
    stride, padding = (2, 0) if stem == "imagenet" else (1, 1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


class SqueezeNet(nn.Module):
    """The network: `features`, whose output has 512 channels, and a classifier of one 1x1 convolution."""

    def __init__(self, features: nn.Sequential, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.features = features
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, 0.0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [N, num_classes], none below zero, of images [N, 3, H, W]."""
        return torch.flatten(self.classifier(self.features(x)), 1)


PAPER = "Iandola et al. 2016, arXiv:1602.07360"


@net(
    "squeezenet1_0",
    source=f"{PAPER}; torchvision squeezenet1_0",
    params=1_248_424,
    macs=818_924_576,
    pretrained=Pretrained("squeezenet1_0-b66bff10.pth", top1=58.092, top5=80.42),
    published=(Published(57.5, None, "Howard et al. 2017, arXiv:1704.04861, Table 9", "as cited there"),),
)
def squeezenet1_0(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1 and padding 3")] = "imagenet",
    dropout: Dropout = 0.5,
) -> SqueezeNet:
    """Fire modules behind a 7x7 convolution; the paper's net."""
    return SqueezeNet(features_1_0(stem), num_classes=num_classes, dropout=dropout)


@net(
    "squeezenet1_1",
    source=f"{PAPER}, version 1.1; torchvision squeezenet1_1",
    params=1_235_496,
    macs=349_151_936,
    pretrained=Pretrained("squeezenet1_1-b8a52dc0.pth", top1=58.178, top5=80.624),
)
def squeezenet1_1(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1 and padding 1")] = "imagenet",
    dropout: Dropout = 0.5,
) -> SqueezeNet:
    """Fire modules: squeeze by 1x1, expand by 1x1 and 3x3."""
    return SqueezeNet(features_1_1(stem), num_classes=num_classes, dropout=dropout)
