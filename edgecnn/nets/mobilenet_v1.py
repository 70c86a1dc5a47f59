"""MobileNetV1: a plain stack of depthwise-separable convolutions.

Source: Howard et al. 2017, "MobileNets", arXiv:1704.04861, Table 1.

Table 1 prints stride 2 for the last depthwise convolution; its input is 7x7 already and the published 569 million
multiply-adds need stride 1 there, as every implementation has it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import Activation, ConvNormAct, init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import net

BLOCKS = (
    # output channels, stride
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
SHALLOW_BLOCKS = BLOCKS[:6] + BLOCKS[11:]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class DepthwiseSeparable(nn.Sequential):
    """A 3x3 convolution per channel, then a 1x1 convolution over all channels; norm and activation after each."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: Activation) -> None:
        super().__init__(
            ConvNormAct(in_channels, in_channels, stride=stride, groups=in_channels, activation=activation),
            ConvNormAct(in_channels, out_channels, kernel=1, activation=activation),
        )


class MobileNetV1(nn.Module):
    """The network; `full_convs` replaces each separable block by one 3x3 convolution (the paper's Table 4)."""

    def __init__(
        self,
        *,
        blocks: tuple[tuple[int, int], ...],
        width: float,
        activation: Activation,
        full_convs: bool,
        num_classes: int,
        stem: Stem,
        dropout: float,
    ) -> None:
        super().__init__()
        channels = make_divisible(32 * width)
        features: list[nn.Module] = [ConvNormAct(3, channels, stride=stem_stride(stem), activation=activation)]
        for out_channels, stride in blocks:
            out_channels = make_divisible(out_channels * width)
            if full_convs:
                block: nn.Module = ConvNormAct(channels, out_channels, stride=stride, activation=activation)
            else:
                block = DepthwiseSeparable(channels, out_channels, stride, activation)
            features.append(block)
            channels = out_channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        init_conv_nets(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


@net(
    "mobilenet_v1",
    source="Howard et al. 2017, arXiv:1704.04861",
    params=4_231_976,
    macs=568_740_352,
)
def mobilenet_v1(
    *,
    num_classes: NumClasses = 1000,
    width: Width = 1.0,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1")] = "imagenet",
    dropout: Dropout = 0.001,
    activation: Annotated[
        Literal["relu", "relu6"], About("`relu` as in the paper, `relu6` as in the released checkpoints")
    ] = "relu",
    shallow: Annotated[bool, About("without the five blocks of 512 channels at 14x14 (the paper's Table 5)")] = False,
    full_convs: Annotated[bool, About("3x3 convolutions instead of separable ones (the paper's Table 4)")] = False,
) -> MobileNetV1:
    """Depthwise-separable convolutions in a plain stack."""
    return MobileNetV1(
        blocks=SHALLOW_BLOCKS if shallow else BLOCKS,
        width=width,
        activation=ACTIVATIONS[activation],
        full_convs=full_convs,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
    )
