"""AlexNet, twice: the net of one column that torchvision has, and the net of 2012 with groups and normalisation.

Source: Krizhevsky 2014, "One weird trick", arXiv:1404.5997 (`alexnet`); Krizhevsky, Sutskever and Hinton 2012,
"ImageNet classification with deep convolutional neural networks", NeurIPS (`alexnet_2012`). They share no weights.

Both have their published classifier only for images whose last maps are 6x6, such as 224x224; the stem for small images
has the global mean in its place.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

StemOption = Annotated[
    Stem,
    About("`small`: the first convolution is 3x3 with stride 1, and the classifier reads the global mean"),
]


class AlexNet(nn.Module):
    """Five convolutions, with ReLU and at times a max pool of overlapping windows, and three linear layers.

    Initialised as torch initialises layers. State as in torchvision's `alexnet`, also for small images, where
    `features.0` and `classifier.1` are smaller.
    """

    def __init__(self, *, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _first_conv(64, stem),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        side = _last_side(stem)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * side * side, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


class AlexNet2012(nn.Module):
    """The net of 2012: conv2, conv4 and conv5 in two groups, and local response normalisation after conv1 and conv2.

    The paper divides by (k + alpha * sum of n squares) ** beta with k = 2, n = 5, alpha = 1e-4 and beta = 0.75. Torch's
    layer has the mean of the squares where the paper has their sum, so it gets alpha * n = 5e-4. The sum runs over all
    channels as in the paper's formula, also where the channels came from two processors.

    Initialised as in section 5 of the paper: weights from N(0, 0.01), biases 1 in conv2, conv4, conv5 and the hidden
    linear layers, and 0 elsewhere. An image of 224x224 gives 55x55 maps with two pixels of padding, which the paper
    does not mention.
    """

    def __init__(self, *, num_classes: int, stem: Stem, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _first_conv(96, stem),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        side = _last_side(stem)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(256 * side * side, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits

    def _initialise(self) -> None:
        layers = [m for m in self.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        # conv1 to conv5, then the three linear layers.
        for layer, bias in zip(layers, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)


def _first_conv(channels: int, stem: Stem) -> nn.Conv2d:
    if stem == "imagenet":
        return nn.Conv2d(3, channels, 11, 4, padding=2)
    return nn.Conv2d(3, channels, 3, 1, padding=1)


def _last_side(stem: Stem) -> int:
    """The side of the maps that the classifier reads, in pixels."""
    return 6 if stem == "imagenet" else 1


@net(
    "alexnet",
    source="Krizhevsky 2014, arXiv:1404.5997; torchvision alexnet",
    params=61_100_840,
    macs=714_188_480,
    pretrained=Pretrained("alexnet-owt-7be5be79.pth", top1=56.522, top5=79.066),
)
def alexnet(*, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5) -> AlexNet:
    """Five convolutions and three linear layers in one column."""
    return AlexNet(num_classes=num_classes, stem=stem, dropout=dropout)


@net(
    "alexnet_2012",
    source="Krizhevsky et al. 2012, NeurIPS; doi:10.1145/3065386",
    params=60_965_224,
    macs=724_406_816,
    published=(
        Published(59.3, 81.8, "Krizhevsky et al. 2012, Table 2", "one net; validation, mean over 10 crops of an image"),
    ),
)
def alexnet_2012(
    *, num_classes: NumClasses = 1000, stem: StemOption = "imagenet", dropout: Dropout = 0.5
) -> AlexNet2012:
    """The net of 2012: two groups, and local response normalisation."""
    return AlexNet2012(num_classes=num_classes, stem=stem, dropout=dropout)
