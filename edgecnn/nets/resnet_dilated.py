"""ResNet-18 that keeps its resolution in the last stages: dilation instead of stride.

No published net, but the one way to trade stride for dilation under which every convolution still sees the pixels
that it sees in ResNet-18: from where a stride of 2 is gone, everything behind it is dilated by 2 more. So ResNet-18's
weights fit, and the activations at every second (fourth) pixel are ResNet-18's. torchvision's
`replace_stride_with_dilation` follows the same rule and has it for bottleneck blocks only. The released code of Dilated
Residual Networks (Yu, Koltun and Funkhouser 2017, arXiv:1705.09914) also dilates the convolution that had the stride;
this does not.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from edgecnn.nets.options import About, Dropout, NumClasses
from edgecnn.nets.registry import net
from edgecnn.nets.resnet import DEPTHS, BasicBlock, ResNet, StemOption


def stride_to_dilation(stage: nn.Module, dilation: int) -> int:
    """Takes the strides of 2 out of `stage` in place and dilates its 3x3 convolutions, to see the same pixels.

    Args:
        stage: residual blocks in the order of execution.
        dilation: how far apart the pixels of the stage's input are, which used to be neighbours.

    Returns:
        How far apart they are in its output.
    """
    inside = dilation
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        if conv.kernel_size == (3, 3):
            conv.padding = conv.dilation = (inside, inside)
        if conv.stride == (2, 2):
            conv.stride = (1, 1)
            inside = 2 * dilation
    return inside


@net(
    "resnet18_dilated",
    source="ResNet-18 of arXiv:1512.03385, strides of the last stages replaced by dilation (no published net)",
    params=11_689_512,
    macs=9_212_825_600,
)
def resnet18_dilated(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    output_stride: Annotated[
        Literal[8, 16], About("image pixels per pixel of the last stage: `8` dilates two stages, `16` the last one")
    ] = 8,
) -> ResNet:
    """ResNet-18 with dilated last stages, for an output of higher resolution."""
    built = ResNet(BasicBlock, DEPTHS[18], num_classes=num_classes, stem=stem, dropout=dropout)
    dilation = 1
    for stage in (built.layer3, built.layer4) if output_stride == 8 else (built.layer4,):
        dilation = stride_to_dilation(stage, dilation)
    return built
