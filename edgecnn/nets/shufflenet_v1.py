"""ShuffleNetV1: grouped 1x1 convolutions, and a shuffle so that the groups hear of each other.

Source: Zhang et al. 2018, arXiv:1707.01083, Tables 1, 2 and 5; megvii-model/ShuffleNet-Series (ShuffleNetV1), whose
`state_dict` names, pooling and initialisation are used here.

The paper and its authors' code are not the same net, so `layout` names which one is meant:

- `paper`: the shuffle stands between the first grouped convolution and the depthwise one; the classifier has a bias.
- `megvii`: the shuffle stands behind the depthwise convolution and goes the other way round (channel k * groups + g
  goes to g * C / groups + k); the classifier has no bias. The released checkpoints need exactly this.

In both, the first 1x1 convolution of stage 2 is not grouped (it reads the 24 channels of the stem), and a unit of
stride 2 joins its branch to a 3x3 average of its input, padding counted. The paper activates what was joined; here, as
in the authors' code, only the branch is: means of activated values are not negative, so it is the same.

Table 1's complexity leaves out the classifier: 142.5, 140.0, 136.5, 133.3 and 136.8 M are its 143, 140, 137, 133 and
137 for 1, 2, 3, 4 and 8 groups.

Some variants of the tables are not here, because no source says what they are. With two and four groups, 0.5x and
0.25x give a bottleneck of 25, 34, 12.5 and 17 channels, which the groups do not divide. At 0.25x with eight groups they
do not divide what the first unit adds to 12 channels, and with 8 or 16 the net has 12.0 or 15.3 M, not 13. And 2x with
squeeze-and-excitation (527 M) is given without the reduction or the place of its gates.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.errors import UsageError
from edgecnn.nets.layers import channel_shuffle, stem_stride
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Published, net

Layout = Literal["paper", "megvii"]
BLOCKS = (4, 8, 4)
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Channels of stage 2 at full width, by groups; each later stage has twice as many. Source: Table 1."""
STEM_CHANNELS = {0.25: 12, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}
"""Channels of the first convolution by width, which make the published 13, 38, 140, 292 and 524 M.

From 0.5x on they are those of the authors' code; at 0.25x they are inferred: 12 give 13.0 M, 6 would give 10.9.
"""
STEM_OF_EIGHT_GROUPS = 16
"""Channels of the first convolution at 0.5x with eight groups, which 12 would not suit. Source: the authors' code."""


class ShuffleUnit(nn.Module):
    """The unit: reduce by 1x1 to a quarter, shuffle, filter per channel, expand by 1x1; at stride 2 joined, not added.

    Shapes: [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride].
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, first_groups: int, stride: int, layout: Layout
    ) -> None:
        super().__init__()
        middle = out_channels // 4
        branch_channels = out_channels - in_channels if stride == 2 else out_channels
        self.stride = stride
        self.shuffle_behind = 2 if layout == "paper" else 4
        self.shuffle_rows = groups if layout == "paper" else middle // groups
        self.shuffles = groups > 1
        self.branch_main_1 = nn.Sequential(
            nn.Conv2d(in_channels, middle, 1, groups=first_groups, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
        )
        self.branch_main_2 = nn.Sequential(
            nn.Conv2d(middle, branch_channels, 1, groups=groups, bias=False), nn.BatchNorm2d(branch_channels)
        )
        self.branch_proj = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The activated sum of `x` and the branch; at stride 2 the pooled `x` and the activated branch, joined."""
        branch = x
        for place, layer in enumerate(self.branch_main_1):
            branch = layer(branch)
            if self.shuffles and place == self.shuffle_behind:
                branch = channel_shuffle(branch, self.shuffle_rows)
        branch = self.branch_main_2(branch)
        if self.stride == 2:
            return torch.cat((self.branch_proj(x), F.relu(branch)), dim=1)
        return F.relu(x + branch)


class ShuffleNetV1(nn.Module):
    """The network; `channels` are those of the stem and of the three stages."""

    def __init__(
        self, channels: tuple[int, ...], *, groups: int, layout: Layout, num_classes: int, stem: Stem, dropout: float
    ) -> None:
        super().__init__()
        before, *stages = channels
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, before, 3, stem_stride(stem), padding=1, bias=False), nn.BatchNorm2d(before), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        units: list[nn.Module] = []
        for after, blocks in zip(stages, BLOCKS, strict=True):
            for i in range(blocks):
                first_groups = groups if units else 1
                stride = 2 if i == 0 else 1
                units.append(
                    ShuffleUnit(before, after, groups=groups, first_groups=first_groups, stride=stride, layout=layout)
                )
                before = after
        self.features = nn.Sequential(*units)
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(before, num_classes, bias=layout == "paper"))
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.features(self.maxpool(self.first_conv(x)))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.globalpool(x), 1)))
        return logits

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.01 if name.startswith("first") else 1.0 / module.weight.shape[1])
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 0.0001)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def channels_of(width: float, groups: int) -> tuple[int, ...]:
    """The channels of the stem and of the three stages.

    Raises:
        UsageError: a width the paper does not have, or one that it does not define for this number of groups.

    Example:
        >>> channels_of(1.0, 3), channels_of(0.5, 8)
        ((24, 240, 480, 960), (16, 192, 384, 768))
    """
    where = "net shufflenet_v1"
    if width not in STEM_CHANNELS:
        widths = ", ".join(map(str, STEM_CHANNELS))
        raise UsageError(
            f"option `width` cannot be `{width}`", where=where, expected=f"one of {widths}", got=repr(width)
        )
    stem = STEM_OF_EIGHT_GROUPS if (width, groups) == (0.5, 8) else STEM_CHANNELS[width]
    middle = CHANNELS[groups] * width / 4
    added = 4 * middle - stem
    if middle % groups or added % groups:
        raise UsageError(
            f"{groups} groups at width {width} are not defined",
            where=where,
            expected=f"channels that {groups} groups divide",
            got=f"{middle:g} in the first bottleneck, {added:g} that its unit adds; the paper does not round them",
            do="take another width, or 3 groups, which go with all",
        )
    first = int(4 * middle)
    return stem, first, 2 * first, 4 * first


PAPER = "arXiv:1707.01083"
RELEASED = "megvii-model/ShuffleNet-Series, ShuffleNetV1/README.md"


@net(
    "shufflenet_v1",
    source=f"Zhang et al. 2018, {PAPER}; megvii-model/ShuffleNet-Series",
    params=1_865_728,
    macs=137_460_672,
    published=(
        Published(67.4, None, f"{PAPER}, Table 2"),
        Published(66.4, None, f"{PAPER}, Table 2", "groups=1"),
        Published(67.3, None, f"{PAPER}, Table 2", "groups=2"),
        Published(67.2, None, f"{PAPER}, Table 2", "groups=4"),
        Published(67.6, None, f"{PAPER}, Table 2", "groups=8"),
        Published(54.9, None, f"{PAPER}, Table 2", "width=0.5 groups=1"),
        Published(56.8, None, f"{PAPER}, Table 2", "width=0.5"),
        Published(57.7, None, f"{PAPER}, Table 2", "width=0.5 groups=8"),
        Published(42.9, None, f"{PAPER}, Table 2", "width=0.25 groups=1"),
        Published(45.0, None, f"{PAPER}, Table 2", "width=0.25"),
        Published(71.5, None, f"{PAPER}, Table 5", "width=1.5"),
        Published(73.7, None, f"{PAPER}, Table 5", "width=2.0"),
        Published(57.3, 80.0, RELEASED, "layout=megvii width=0.5"),
        Published(58.8, 81.0, RELEASED, "layout=megvii width=0.5 groups=8"),
        Published(67.8, 87.7, RELEASED, "layout=megvii"),
        Published(68.0, 86.4, RELEASED, "layout=megvii groups=8"),
        Published(71.6, 90.2, RELEASED, "layout=megvii width=1.5"),
        Published(71.0, 89.6, RELEASED, "layout=megvii width=1.5 groups=8"),
        Published(74.1, 91.4, RELEASED, "layout=megvii width=2.0"),
        Published(72.9, 90.8, RELEASED, "layout=megvii width=2.0 groups=8"),
    ),
)
def shufflenet_v1(
    *,
    num_classes: NumClasses = 1000,
    width: Annotated[float, About("multiplier on the number of channels: 0.25, 0.5, 1.0, 1.5 or 2.0", above=0)] = 1.0,
    groups: Annotated[Literal[1, 2, 3, 4, 8], About("groups of the 1x1 convolutions")] = 3,
    layout: Annotated[
        Layout, About("`paper`: shuffle before the depthwise convolution; `megvii`: as in the released checkpoints")
    ] = "paper",
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1 and no max pool follows")] = "imagenet",
    dropout: Dropout = 0.0,
) -> ShuffleNetV1:
    """Grouped 1x1 convolutions and channel shuffle."""
    channels = channels_of(width, groups)
    return ShuffleNetV1(channels, groups=groups, layout=layout, num_classes=num_classes, stem=stem, dropout=dropout)
