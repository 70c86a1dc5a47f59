"""NASNet-A: two cells that a search found, repeated.

Source: Zoph et al. 2018, arXiv:1707.07012, Figure 4; tensorflow/models research/slim/nets/nasnet. State as in Cadene's
`nasnetamobile` (pretrained-models.pytorch) and timm's `nasnetalarge`.

A cell reads the output h of the cell before it and the output p of the one before that, both brought to the cell's
width by ReLU, 1x1 convolution and batch norm. It makes five sums of two branches and concatenates them. A separable
convolution is ReLU, depthwise, 1x1 and batch norm, all that twice. Where p has twice the resolution of h, every second
pixel of it goes through one 1x1 convolution and every second pixel of it, shifted by one, through another.

Padding is TensorFlow's "SAME" by the size of the map at hand: where a window of stride 2 needs one more row on one
side, it is below. The ports say the same by padding above and cutting off the first row. Averages do not count padding.

The net's mobile setting drops no paths in training (`drop_path` 0); the large one drops 30 % in its last cell. The
auxiliary classifier, which the ports leave out, is not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.nets.layers import StochasticDepth
from edgecnn.nets.options import About, Dropout, NumClasses, Stem
from edgecnn.nets.registry import Published, net

BN_EPS = 1e-3

Branch = tuple[str, str]
"""What a branch does and what it reads: `sep5` of `h`, for example; `h`, `p` or the number of a sum."""

Reads = Literal["same", "conv", "halved"]
"""How a cell reads p: as it is, by ReLU, 1x1 convolution and batch norm, or at half the resolution."""

NORMAL: tuple[tuple[Branch, Branch], ...] = (
    (("sep5", "h"), ("sep3", "p")),
    (("sep5", "p"), ("sep3", "p")),
    (("avg", "h"), ("same", "p")),
    (("avg", "p"), ("avg", "p")),
    (("sep3", "h"), ("same", "h")),
)
NORMAL_JOINED = ("p", "0", "1", "2", "3", "4")

REDUCTION: tuple[tuple[Branch, Branch], ...] = (
    (("sep5/2", "h"), ("sep7/2", "p")),
    (("max/2", "h"), ("sep7/2", "p")),
    (("avg/2", "h"), ("sep5/2", "p")),
    (("same", "1"), ("avg", "0")),
    (("sep3", "0"), ("max/2", "h")),
)
REDUCTION_JOINED = ("1", "2", "3", "4")


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows before and after a map of `size` rows so that `ceil(size / stride)` windows fit: TensorFlow's "SAME".

    Example:
        >>> same_padding(7, 3, 2), same_padding(8, 3, 2)
        ((1, 1), (0, 1))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _pool(x: Tensor, kind: str, stride: int) -> Tensor:
    """A 3x3 pool with "SAME" padding, which is in no window's average or maximum."""
    pads = [same_padding(size, 3, stride) for size in x.shape[2:]]
    before = (pads[0][0], pads[1][0])
    # With `ceil_mode` a window may reach beyond the last row; what is beyond does not count.
    if kind == "max":
        return F.max_pool2d(x, 3, stride, before, ceil_mode=True)
    return F.avg_pool2d(x, 3, stride, before, ceil_mode=True, count_include_pad=False)


class Separable(nn.Module):
    """A depthwise convolution with "SAME" padding, then a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise_conv2d = nn.Conv2d(
            in_channels, in_channels, kernel, stride, padding=padding, groups=in_channels, bias=False
        )
        self.pointwise_conv2d = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """The filtered and mixed channels."""
        if self.stride > 1:
            top, bottom = same_padding(x.shape[2], self.kernel, self.stride)
            left, right = same_padding(x.shape[3], self.kernel, self.stride)
            x = F.pad(x, (left, right, top, bottom))
        mixed: Tensor = self.pointwise_conv2d(self.depthwise_conv2d(x))
        return mixed


class SeparableBranch(nn.Module):
    """ReLU, separable convolution and batch norm, twice; the stride is the first one's."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        # Only in the first cell do the two differ; its first convolution already has the cell's channels.
        self.separable_1 = Separable(in_channels, out_channels, kernel, stride)
        self.bn_sep_1 = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.separable_2 = Separable(out_channels, out_channels, kernel, 1)
        self.bn_sep_2 = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """The normalised branch, not activated."""
        x = self.bn_sep_1(self.separable_1(F.relu(x)))
        out: Tensor = self.bn_sep_2(self.separable_2(F.relu(x)))
        return out


class ActConvNorm(nn.Module):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """The mixed channels."""
        out: Tensor = self.bn(self.conv(F.relu(x)))
        return out


class Cell(nn.Module):
    """A cell: five sums of two branches each.

    Shapes: h [N, h_channels, H, W] and p to [N, 6 * width, H, W], a reduction to [N, 4 * width, H / 2, W / 2], up.
    """

    def __init__(
        self,
        h_channels: int,
        p_channels: int,
        width: int,
        *,
        reduction: bool,
        reads: Reads,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.sums = REDUCTION if reduction else NORMAL
        self.joined = REDUCTION_JOINED if reduction else NORMAL_JOINED
        self.reads = reads
        self.drop = StochasticDepth(drop_path)
        if reads == "conv":
            self.conv_prev_1x1 = ActConvNorm(p_channels, width)
        self.conv_1x1 = ActConvNorm(h_channels, width)
        if reads == "halved":
            self.path_1, self.path_2 = (
                nn.ModuleDict({"conv": nn.Conv2d(p_channels, width // 2, 1, stride=2, bias=False)}) for _ in range(2)
            )
            self.final_path_bn = nn.BatchNorm2d(width, eps=BN_EPS)
        for i, branches in enumerate(self.sums):
            for side, (kind, source) in zip(("left", "right"), branches, strict=True):
                if kind.startswith("sep"):
                    in_channels = p_channels if source == "p" and reads == "same" else width
                    stride = 2 if kind.endswith("/2") else 1
                    branch = SeparableBranch(in_channels, width, int(kind[3]), stride)
                    self.add_module(f"comb_iter_{i}_{side}", branch)

    def forward(self, h: Tensor, p: Tensor) -> Tensor:
        """The joined sums, not activated."""
        if self.reads == "conv":
            p = self.conv_prev_1x1(p)
        elif self.reads == "halved":
            p = self._halved(p)
        made = {"h": self.conv_1x1(h), "p": p}
        pooled: dict[Branch, Tensor] = {}  # two sums read the same pool
        for i, branches in enumerate(self.sums):
            terms = []
            for side, (kind, source) in zip(("left", "right"), branches, strict=True):
                if kind == "same":
                    terms.append(made[source])
                    continue
                if kind.startswith("sep"):
                    term = self.get_submodule(f"comb_iter_{i}_{side}")(made[source])
                else:
                    if (kind, source) not in pooled:
                        pooled[kind, source] = _pool(made[source], kind[:3], 2 if kind.endswith("/2") else 1)
                    term = pooled[kind, source]
                terms.append(self.drop(term))
            made[str(i)] = terms[0] + terms[1]
        return torch.cat([made[name] for name in self.joined], dim=1)

    def _halved(self, p: Tensor) -> Tensor:
        """Every second pixel by one convolution, every second one from (1, 1) on by another, joined."""
        p = F.relu(p)
        height, width = p.shape[2:]
        # Only a map of odd size has no row 1 below its last row.
        shifted = F.pad(p, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        halves = torch.cat((self.path_1["conv"](p), self.path_2["conv"](shifted)), dim=1)
        out: Tensor = self.final_path_bn(halves)
        return out


class NasNetA(nn.Module):
    """The network: two reductions of the stem, then three stages of `cells` cells with reductions between them.

    Args:
        cells: N, the normal cells of a stage.
        width: F, the width of the cells of the first stage; the last layer has 24 F channels.
        stem_channels: of the first convolution.
        skips_reduction: whether the first cell of a stage reads, for p, what the reduction before it read for p instead
            of what it read for h.
        drop_path: probability of dropping a branch in training, in the last cell; it grows linearly with depth.
        num_classes: outputs of the last layer.
        stem: `small`: the first convolution has stride 1 and padding.
        dropout: probability of dropping an input of the classifier in training.
    """

    def __init__(
        self,
        cells: int,
        width: int,
        *,
        stem_channels: int,
        skips_reduction: bool,
        drop_path: float,
        num_classes: int,
        stem: Stem,
        dropout: float,
    ) -> None:
        super().__init__()
        self.skips_reduction = skips_reduction
        stride, padding = (2, 0) if stem == "imagenet" else (1, 1)
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, stem_channels, 3, stride, padding=padding, bias=False))
        self.conv0.add_module("bn", nn.BatchNorm2d(stem_channels, eps=BN_EPS))
        count = 3 * cells + 4
        rates = (drop_path * (i + 1) / count for i in range(count))
        self.cell_stem_0 = Cell(
            stem_channels, stem_channels, width // 4, reduction=True, reads="same", drop_path=next(rates)
        )
        self.cell_stem_1 = Cell(width, stem_channels, width // 2, reduction=True, reads="halved", drop_path=next(rates))
        h, p = 2 * width, width
        self.stages: list[list[str]] = []
        for stage in range(3):
            wide = width << stage
            names = []
            if stage:
                names.append(f"reduction_cell_{stage - 1}")
                self.add_module(names[-1], Cell(h, p, wide, reduction=True, reads="conv", drop_path=next(rates)))
                h, p = 4 * wide, p if skips_reduction else h
            for i in range(cells):
                names.append(f"cell_{6 * stage + i}")
                reads: Reads = "conv" if i else "halved"
                self.add_module(names[-1], Cell(h, p, wide, reduction=False, reads=reads, drop_path=next(rates)))
                h, p = 6 * wide, h
            self.stages.append(names)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(h, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]."""
        x = self.conv0(x)
        p = self.cell_stem_0(x, x)
        h = self.cell_stem_1(p, x)
        for names in self.stages:
            for name in names:
                out = self.get_submodule(name)(h, p)
                if not (self.skips_reduction and name.startswith("reduction")):
                    p = h
                h = out
        logits: Tensor = self.last_linear(self.dropout(torch.flatten(self.avg_pool(F.relu(h)), 1)))
        return logits


SLIM = "tensorflow/models research/slim/nets/nasnet/README.md"


@net(
    "nasnet_a_mobile",
    source="Zoph et al. 2018, arXiv:1707.07012; Cadene/pretrained-models.pytorch nasnetamobile",
    params=5_289_978,
    macs=563_638_816,
    aliases=("nasnetamobile",),
    published=(
        Published(74.0, 91.6, SLIM, "564 M multiply-adds"),
        Published(74.32, 91.84, "osmr/imgclsmob pytorch/README.md", "the PyTorch port"),
    ),
)
def nasnet_a_mobile(
    *,
    num_classes: NumClasses = 1000,
    stem: Annotated[Stem, About("`small`: the first convolution has stride 1 and padding")] = "imagenet",
    dropout: Dropout = 0.5,
    drop_path: Annotated[
        float, About("probability of dropping a branch of the last cell in training", at_least=0, below=1)
    ] = 0.0,
) -> NasNetA:
    """Searched cells, 4 in each of three stages (4 @ 1056)."""
    return NasNetA(
        4,
        44,
        stem_channels=32,
        skips_reduction=False,
        drop_path=drop_path,
        num_classes=num_classes,
        stem=stem,
        dropout=dropout,
    )
