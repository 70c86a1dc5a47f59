"""GoogLeNet, twice: as torchvision has it, and as it was published.

Source: Szegedy et al. 2015, "Going deeper with convolutions", arXiv:1409.4842, Table 1 and Figure 3.

| | `googlenet` (torchvision) | `googlenet_paper` |
|---|---|---|
| the branch of 5x5 kernels | 3x3 kernels | 5x5 kernels |
| convolutions | without bias, batch norm | with bias |
| local response normalisation | none | after the first pool and after conv3 |
| the last max pool | 2x2 | 3x3 |
| pool before an auxiliary classifier | adaptive, to 4x4 | 5x5 with stride 3 |
| dropout | 0.2 | 0.4 |

What the paper leaves open is as in BVLC/caffe's `bvlc_googlenet`: the constants of the normalisation (5 channels,
alpha 1e-4 on the mean of the squares, beta 0.75, k = 1), initial weights (Caffe's Xavier: even, of variance 1 / inputs)
and initial biases (0.2, and 0 in the classifiers). Of the parameters, 6,379,984 (`googlenet`) and 6,379,728
(`googlenet_paper`) are of the two auxiliary classifiers, which no artifact has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from edgecnn.nets.auxiliary import AuxiliaryClassifier, TrainingOutputs
from edgecnn.nets.inception_layers import (
    Auxiliary,
    BasicConv2d,
    BiasedConv2d,
    InputTransform,
    TransformInput,
    init_truncated,
)
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Pretrained, Published, net

AUXILIARY_WEIGHT = 0.3
"""Of the loss of each auxiliary classifier. Source: Szegedy et al. 2015, section 5."""

StemOption = Annotated[Stem, About("`small`: the first convolution is 3x3 with stride 1 and no max pool follows it")]


@dataclass(frozen=True)
class _Form:
    """In what the two nets differ, apart from options."""

    conv: type[BasicConv2d | BiasedConv2d]
    large_kernel: int
    last_pool: int
    normalised: bool

    def norm(self) -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if self.normalised else nn.Identity()


TORCHVISION = _Form(BasicConv2d, large_kernel=3, last_pool=2, normalised=False)
PAPER = _Form(BiasedConv2d, large_kernel=5, last_pool=3, normalised=True)


class Inception(nn.Module):
    """Four branches side by side: 1x1, 3x3 and larger kernels behind a 1x1 each, and a max pool before a 1x1.

    Args:
        form: which of the two nets.
        in_channels: of the input.
        one: outputs of the 1x1 branch.
        three: outputs of the 1x1 and of the 3x3 convolution.
        five: outputs of the 1x1 and of the larger convolution.
        pool: outputs of the 1x1 behind the pool.
    """

    def __init__(
        self, form: _Form, in_channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int
    ) -> None:
        super().__init__()
        conv, kernel = form.conv, form.large_kernel
        self.branch1 = conv(in_channels, one, 1)
        self.branch2 = nn.Sequential(conv(in_channels, three[0], 1), conv(*three, 3, padding=1))
        self.branch3 = nn.Sequential(conv(in_channels, five[0], 1), conv(*five, kernel, padding=kernel // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(in_channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the branches, one after the other along the channels."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNetAuxiliary(AuxiliaryClassifier):
    """A pool to 4x4, a 1x1 convolution and two linear layers."""

    def __init__(self, form: _Form, in_channels: int, *, num_classes: int, stem: Stem) -> None:
        super().__init__()
        # 14x14 maps, which 224x224 images have here, come to 4x4 by both pools, but not by the same windows.
        published = form is PAPER and stem == "imagenet"
        self.pool = nn.AvgPool2d(5, 3) if published else nn.AdaptiveAvgPool2d(4)
        self.conv = form.conv(in_channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of maps in the middle of the net."""
        hidden = torch.relu(self.fc1(torch.flatten(self.conv(self.pool(x)), 1)))
        logits: Tensor = self.fc2(self.dropout(hidden))
        return logits


class GoogLeNet(nn.Module):
    """The net; in training mode with auxiliary classifiers it returns `TrainingOutputs`, else logits."""

    aux1: GoogLeNetAuxiliary | None
    aux2: GoogLeNetAuxiliary | None

    def __init__(
        self, form: _Form, *, num_classes: int, stem: Stem, dropout: float, aux: bool, transform_input: bool
    ) -> None:
        super().__init__()
        self.transform = InputTransform() if transform_input else nn.Identity()
        imagenet = stem == "imagenet"
        self.conv1 = form.conv(3, 64, 7, stride=2, padding=3) if imagenet else form.conv(3, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True) if imagenet else nn.Identity()
        self.norm1 = form.norm()
        self.conv2 = form.conv(64, 64, 1)
        self.conv3 = form.conv(64, 192, 3, padding=1)
        self.norm2 = form.norm()
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(form, 192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(form, 256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(form, 480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(form, 512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(form, 512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(form, 512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(form, 528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(form.last_pool, 2, ceil_mode=True)
        self.inception5a = Inception(form, 832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(form, 832, 384, (192, 384), (48, 128), 128)
        self.aux1 = GoogLeNetAuxiliary(form, 512, num_classes=num_classes, stem=stem) if aux else None
        self.aux2 = GoogLeNetAuxiliary(form, 528, num_classes=num_classes, stem=stem) if aux else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        if form is PAPER:
            self._initialise()
        else:
            init_truncated(self, std=0.01)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Logits [N, num_classes] of images [N, 3, H, W]; in training mode those of the auxiliary classifiers too."""
        x = self.norm1(self.maxpool1(self.conv1(self.transform(x))))
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(x))))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        after_4a = self.inception4a(x)
        after_4d = self.inception4d(self.inception4c(self.inception4b(after_4a)))
        x = self.maxpool4(self.inception4e(after_4d))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(x, 1)))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return TrainingOutputs(logits, (self.aux1(after_4a), self.aux2(after_4d)), AUXILIARY_WEIGHT)
        return logits

    def _initialise(self) -> None:
        classifiers = {self.fc, *(aux.fc2 for aux in (self.aux1, self.aux2) if aux is not None)}
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
                nn.init.constant_(module.bias, 0.0 if module in classifiers else 0.2)  # type: ignore[arg-type]


@net(
    "googlenet",
    source="Szegedy et al. 2015, arXiv:1409.4842; torchvision googlenet",
    params=13_004_888,
    macs=1_498_376_192,
    pretrained=Pretrained("googlenet-1378be20.pth", top1=69.778, top5=89.53, fixed=("transform_input",)),
    published=(Published(69.8, 89.6, "tensorflow/models research/slim, Inception V1", "with batch norm"),),
)
def googlenet(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.2,
    aux: Auxiliary = True,
    transform_input: TransformInput = True,
) -> GoogLeNet:
    """Inception modules with batch norm, 3x3 in the 5x5 branch; deployed without auxiliary classifiers: 6,624,904."""
    return GoogLeNet(
        TORCHVISION, num_classes=num_classes, stem=stem, dropout=dropout, aux=aux, transform_input=transform_input
    )


@net(
    "googlenet_paper",
    source="Szegedy et al. 2015, arXiv:1409.4842",
    params=13_378_280,
    macs=1_582_671_872,
    published=(Published(None, 89.93, "Szegedy et al. 2015, Table 3", "one net, one crop"),),
)
def googlenet_paper(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.4,
    aux: Auxiliary = True,
) -> GoogLeNet:
    """Inception modules as published; deployed without auxiliary classifiers: 6,998,552."""
    return GoogLeNet(PAPER, num_classes=num_classes, stem=stem, dropout=dropout, aux=aux, transform_input=False)
