"""ResNet-18 whose last stage has deformable 3x3 convolutions.

Source: Dai et al. 2017, arXiv:1703.06211 (v1); Zhu et al. 2019, arXiv:1811.11168 (v2, modulated). The papers have it in
ResNet-50 and deeper for detection and segmentation, and neither published weights for classification: this is a
variant of our own of their construction, with the layers that they begin with (conv5's).

Offsets begin at zero, so that v1 begins as `resnet18` of the same weights, whose names it keeps. Both runtimes read the
moved pixels in float; in LiteRT the net falls into five pieces there.
"""

from __future__ import annotations

from typing import Annotated

from edgecnn.nets.deform import DeformableConv2d, Version
from edgecnn.nets.options import About, Dropout, NumClasses
from edgecnn.nets.registry import net
from edgecnn.nets.resnet import DEPTHS, BasicBlock, ResNet, StemOption

DEFORMED_WIDTH = 512
"""The stage whose convolutions are deformable, by its width."""


class DeformableBasicBlock(BasicBlock):
    """A basic block with two deformable convolutions."""

    def __init__(self, in_channels: int, width: int, stride: int, *, version: Version) -> None:
        super().__init__(in_channels, width, stride)
        self.conv1 = DeformableConv2d(in_channels, width, 3, stride, padding=1, bias=False, version=version)
        self.conv2 = DeformableConv2d(width, width, 3, padding=1, bias=False, version=version)


@net(
    "resnet18_deform",
    source="a variant of ours of Dai et al. 2017, arXiv:1703.06211, and Zhu et al. 2019, arXiv:1811.11168",
    params=12_125_076,
    macs=1_835_410_688,
)
def resnet18_deform(
    *,
    num_classes: NumClasses = 1000,
    stem: StemOption = "imagenet",
    dropout: Dropout = 0.0,
    version: Annotated[
        Version, About("1: taps are moved by offsets; 2: and weighted by a mask, which begins at 1/2")
    ] = 2,
) -> ResNet:
    """ResNet-18 with deformable convolutions in its last stage."""

    def block(in_channels: int, width: int, stride: int) -> BasicBlock:
        if width != DEFORMED_WIDTH:
            return BasicBlock(in_channels, width, stride)
        return DeformableBasicBlock(in_channels, width, stride, version=version)

    network = ResNet(block, DEPTHS[18], num_classes=num_classes, stem=stem, dropout=dropout)
    for module in network.modules():
        if isinstance(module, DeformableConv2d):
            module.reset_offsets()  # the net has initialised all its convolutions alike
    return network
