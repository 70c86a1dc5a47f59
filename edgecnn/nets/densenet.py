"""DenseNet: every layer of a block reads the outputs of all layers before it, side by side.

Source: Huang et al. 2017, arXiv:1608.06993 (the BC form: 1x1 bottlenecks, and half of the channels after a block);
state and initialisation as in torchvision.

Batch norm and ReLU stand before a convolution. Where a concatenation comes before them, no convolution can take the
batch norm in: it becomes a layer of its own in deployment (`passes.fold_batchnorm`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import SMALL_INPUT, Pretrained, Published, net

BOTTLENECK = 4
"""Output channels of a 1x1 convolution, in multiples of the growth."""

OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names in files from before PyTorch forbade dots in them, torchvision's official ones among them."""


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 1x1 convolution, then the same with a 3x3 convolution to `growth` channels."""

    def __init__(self, in_channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The new channels alone."""
        out = self.conv1(F.relu(self.norm1(x)))
        grown: Tensor = self.dropout(self.conv2(F.relu(self.norm2(out))))
        return grown


class DenseBlock(nn.ModuleDict):
    """Layers that each add `growth` channels to their input; the output has all of them."""

    def __init__(self, layers: int, in_channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        for index in range(layers):
            self[f"denselayer{index + 1}"] = DenseLayer(in_channels + index * growth, growth, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The input's channels, then each layer's."""
        parts = [x]
        for layer in self.values():
            parts.append(layer(torch.cat(parts, dim=1)))
        return torch.cat(parts, dim=1)


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """What is between two blocks: fewer channels, half the resolution."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


class DenseNet(nn.Module):
    """The network.

    Args:
        blocks: how many layers each block has.
        growth: channels that a layer adds.
        stem_channels: of the first convolution; 2 * growth in the paper.
        num_classes: outputs of the last layer.
        stem: `imagenet`, a 7x7 convolution with stride 2, batch norm and a max pool; `small`, the net starts with a
            3x3 convolution alone.
        dropout: after every layer of a block.
    """

    def __init__(
        self, blocks: tuple[int, ...], *, growth: int, stem_channels: int, num_classes: int, stem: Stem, dropout: float
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if stem == "imagenet":
            layers["conv0"] = nn.Conv2d(3, stem_channels, 7, 2, padding=3, bias=False)
            layers["norm0"] = nn.BatchNorm2d(stem_channels)
            layers["relu0"] = nn.ReLU()
            layers["pool0"] = nn.MaxPool2d(3, 2, padding=1)
        else:
            layers["conv0"] = nn.Conv2d(3, stem_channels, 3, padding=1, bias=False)
        channels = stem_channels
        for number, count in enumerate(blocks, start=1):
            layers[f"denseblock{number}"] = DenseBlock(count, channels, growth, dropout)
            channels += count * growth
            if number < len(blocks):
                layers[f"transition{number}"] = transition(channels, channels // 2)
                channels //= 2
        # torchvision's name for the norm behind the last of four blocks; one name for any number keeps it simple.
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = F.adaptive_avg_pool2d(F.relu(self.features(x)), 1)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits

    @staticmethod
    def current_name(name: str) -> str:
        """What a tensor called `name` in an old file is called today."""
        return OLD_NAME.sub(r"\1\2", name)


PAPER = "Huang et al. 2017, arXiv:1608.06993"
README = "liuzhuang13/DenseNet README"
StemOption = Annotated[
    Stem, About("`small`: a 3x3 convolution with stride 1 alone, as the paper's nets for CIFAR begin")
]
DropoutOption = Annotated[Dropout, About("probability of dropping a new channel's value in training", 0, below=1)]


@net(
    "densenet121",
    source=f"{PAPER}; torchvision densenet121",
    params=7_978_856,
    macs=2_834_161_664,
    pretrained=Pretrained("densenet121-a639ec97.pth", top1=74.434, top5=91.972),
    published=(Published(74.98, 92.29, f"{PAPER}, Table 3", "1 crop"),),
)
def densenet121(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: DropoutOption = 0.0
) -> DenseNet:
    """Densely connected layers that add 32 channels each, 121 layers."""
    return DenseNet((6, 12, 24, 16), growth=32, stem_channels=64, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "densenet161",
    source=f"{PAPER}; torchvision densenet161",
    params=28_681_000,
    macs=7_727_907_072,
    pretrained=Pretrained("densenet161-8d451a50.pth", top1=77.138, top5=93.56),
    published=(Published(77.8, None, README, "1 crop"),),
)
def densenet161(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: DropoutOption = 0.0
) -> DenseNet:
    """Densely connected layers that add 48 channels each, 161 layers."""
    return DenseNet((6, 12, 36, 24), growth=48, stem_channels=96, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "densenet169",
    source=f"{PAPER}; torchvision densenet169",
    params=14_149_480,
    macs=3_359_843_328,
    pretrained=Pretrained("densenet169-b2777c0a.pth", top1=75.6, top5=92.806),
    published=(Published(76.2, 93.15, f"{PAPER}, Table 3", "1 crop"),),
)
def densenet169(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: DropoutOption = 0.0
) -> DenseNet:
    """Densely connected layers that add 32 channels each, 169 layers."""
    return DenseNet((6, 12, 32, 32), growth=32, stem_channels=64, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "densenet201",
    source=f"{PAPER}; torchvision densenet201",
    params=20_013_928,
    macs=4_291_365_888,
    pretrained=Pretrained("densenet201-c1103571.pth", top1=76.896, top5=93.37),
    published=(Published(77.42, 93.66, f"{PAPER}, Table 3", "1 crop"),),
)
def densenet201(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: DropoutOption = 0.0
) -> DenseNet:
    """Densely connected layers that add 32 channels each, 201 layers."""
    return DenseNet((6, 12, 48, 32), growth=32, stem_channels=64, num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "densenet_bc100_k12",
    source=f"{PAPER}, DenseNet-BC for CIFAR, L = 100, k = 12",
    params=769_162,
    macs=287_929_692,
    input_shape=SMALL_INPUT,
    published=(Published(95.49, None, README, "CIFAR-10 with augmentation"),),
)
def densenet_bc100_k12(
    *,
    num_classes: NumClasses = 10,
    stem: Annotated[Literal["small"], About("the net is for small images only")] = "small",
    dropout: DropoutOption = 0.0,
) -> DenseNet:
    """Densely connected layers that add 12 channels each, 100 layers, for CIFAR."""
    return DenseNet((16, 16, 16), growth=12, stem_channels=24, num_classes=num_classes, stem=stem, dropout=dropout)
