"""MobileNetV1: a plain stack of depthwise-separable convolutions.

Source: Howard et al. 2017, "MobileNets", arXiv:1704.04861, Table 1.

Table 1 prints stride 2 for the last depthwise convolution; its input is 7x7 already and the published 569 million
multiply-adds need stride 1 there, as every implementation has it. The option `last_stride` has both.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from edgecnn.nets.layers import Activation, ConvNormAct, init_conv_nets, make_divisible, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem, Width
from edgecnn.nets.registry import Published, net

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


PAPER = "Howard et al. 2017, arXiv:1704.04861"
PAGE = "tensorflow/models slim mobilenet_v1"
RELEASED = (
    # width, side, top-1 and top-5, the same in 8 bits
    (1.0, 224, 70.9, 89.9, 69.7, 89.5),
    (1.0, 192, 70.0, 89.2, 69.0, 88.9),
    (1.0, 160, 68.0, 87.7, 67.3, 87.7),
    (1.0, 128, 65.2, 85.8, 64.0, 85.5),
    (0.75, 224, 68.4, 88.2, 67.9, 88.1),
    (0.75, 192, 67.2, 87.3, 66.2, 87.1),
    (0.75, 160, 65.3, 86.0, 63.9, 85.5),
    (0.75, 128, 62.1, 83.9, 59.8, 82.8),
    (0.5, 224, 63.3, 84.9, 62.2, 84.5),
    (0.5, 192, 61.7, 83.6, 60.4, 83.2),
    (0.5, 160, 59.1, 81.9, 57.7, 81.3),
    (0.5, 128, 56.3, 79.4, 54.9, 78.9),
    (0.25, 224, 49.8, 74.2, 48.2, 73.8),
    (0.25, 192, 47.7, 72.3, 45.8, 71.9),
    (0.25, 160, 45.5, 70.3, 43.5, 69.1),
    (0.25, 128, 41.5, 66.3, 39.9, 65.8),
)


@net(
    "mobilenet_v1",
    source=PAPER,
    params=4_231_976,
    macs=568_740_352,
    published=(
        Published(70.6, None, f"{PAPER}, Table 6"),
        Published(68.4, None, f"{PAPER}, Table 6", "width 0.75"),
        Published(63.7, None, f"{PAPER}, Table 6", "width 0.5"),
        Published(50.6, None, f"{PAPER}, Table 6", "width 0.25"),
        Published(69.1, None, f"{PAPER}, Table 7", "192x192"),
        Published(67.2, None, f"{PAPER}, Table 7", "160x160"),
        Published(64.4, None, f"{PAPER}, Table 7", "128x128"),
        Published(60.2, None, PAPER, "width 0.5, 160x160"),
        Published(71.7, None, f"{PAPER}, Table 4", "full_convs"),
        Published(65.3, None, f"{PAPER}, Table 5", "shallow"),
        *(Published(t1, t5, PAGE, f"width {w:g}, {side}x{side}") for w, side, t1, t5, _, _ in RELEASED),
        *(Published(t1, t5, PAGE, f"width {w:g}, {side}x{side}, in 8 bits") for w, side, _, _, t1, t5 in RELEASED),
    ),
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
    last_stride: Annotated[
        Literal[1, 2], About("of the last depthwise convolution; 2 is what the paper's Table 1 prints")
    ] = 1,
) -> MobileNetV1:
    """Depthwise-separable convolutions in a plain stack."""
    blocks = SHALLOW_BLOCKS if shallow else BLOCKS
    return MobileNetV1(
        blocks=(*blocks[:-1], (blocks[-1][0], last_stride)),
        width=width,
        activation=ACTIVATIONS[activation],
        full_convs=full_convs,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
    )
