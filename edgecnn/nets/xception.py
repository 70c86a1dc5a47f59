"""Xception: residual blocks of separable convolutions, a depthwise 3x3 and a 1x1 without an activation between.

Source: Chollet 2017, arXiv:1610.02357, Figure 5; state and initialisation as in timm's `legacy_xception`, which is this
net (timm's and DeepLab's xception41/65/71 are others).

The images are 299x299, scaled to -1...1 (mean and std of 0.5). Batch norm has the epsilon of the author's Keras code;
timm's weights are for 1e-5, which `norm_eps` sets. The strided max pools pad both sides by 1, as timm's do. Keras'
"same" padding does so too where the size is odd, but pads an even one, at 299x299 the second pool's 74 pixels, at the
end alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.layers import init_conv_nets, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Published, net


class SeparableConv2d(nn.Module):
    """A depthwise 3x3 convolution and a 1x1 convolution, nothing between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Both, one after the other."""
        mixed: Tensor = self.pointwise(self.conv1(x))
        return mixed


class Block(nn.Module):
    """Separable convolutions, each behind a ReLU and followed by batch norm, and the input.

    With stride 2 a max pool follows them, and a strided 1x1 convolution brings the input to the same shape.

    Args:
        widths: channels of the input, then of each separable convolution.
        stride: of the block.
        eps: of batch norm.
        starts_with_relu: false in the first block, whose input is activated already.
    """

    def __init__(self, widths: tuple[int, ...], stride: int, *, eps: float, starts_with_relu: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), SeparableConv2d(before, after), nn.BatchNorm2d(after, eps=eps)]
        if not starts_with_relu:
            del layers[0]
        if stride == 2:
            self.skip: nn.Module = nn.Conv2d(widths[0], widths[-1], 1, 2, bias=False)
            self.skipbn: nn.Module = nn.BatchNorm2d(widths[-1], eps=eps)
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        else:
            self.skip, self.skipbn = nn.Identity(), nn.Identity()
        self.rep = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branch and the shortcut, not activated."""
        summed: Tensor = self.rep(x) + self.skipbn(self.skip(x))
        return summed


class Xception(nn.Module):
    """The network: entry flow (blocks 1 to 3), middle flow (4 to 11), exit flow."""

    def __init__(self, *, num_classes: int, stem: Stem, dropout: float, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stem_stride(stem), bias=False)
        self.bn1 = nn.BatchNorm2d(32, eps=eps)
        self.conv2 = nn.Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64, eps=eps)
        self.block1 = Block((64, 128, 128), 2, eps=eps, starts_with_relu=False)
        self.block2 = Block((128, 256, 256), 2, eps=eps)
        self.block3 = Block((256, 728, 728), 2, eps=eps)
        for number in range(4, 12):
            self.add_module(f"block{number}", Block((728, 728, 728, 728), 1, eps=eps))
        self.block12 = Block((728, 728, 1024), 2, eps=eps)
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536, eps=eps)
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        init_conv_nets(self, linear_std=None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        for number in range(1, 13):
            x = self.get_submodule(f"block{number}")(x)
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.relu(self.bn4(self.conv4(x)))
        logits: Tensor = self.fc(self.dropout(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        return logits


@net(
    "xception",
    source="Chollet 2017, arXiv:1610.02357; timm legacy_xception",
    params=22_855_952,
    macs=8_357_403_496,
    input_shape=(3, 299, 299),
    published=(Published(79.0, 94.5, "arXiv:1610.02357, Table 1", "1 crop"),),
)
def xception(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1")] = "imagenet",
    dropout: Dropout = 0.5,
    norm_eps: Annotated[
        float, About("epsilon of batch norm: 0.001 in the author's code, 0.00001 in timm's", above=0)
    ] = 1e-3,
) -> Xception:
    """Residual blocks of depthwise separable convolutions."""
    return Xception(num_classes=num_classes, stem=stem, dropout=dropout, eps=norm_eps)
