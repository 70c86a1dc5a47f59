"""Parallel convolutions in a sum become one where the widest holds the others; exactly, and no others do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pass_laws import dyadic, exact, rewritten
from torch import Tensor, nn

from edgecnn.ir.from_torch import import_module
from edgecnn.ir.ops import macs_of
from edgecnn.passes.hetconv import find_hetconv
from edgecnn.passes.merge_branches import merge_branches
from edgecnn.passes.standard import STANDARD, run_passes


def merged(lines: str, *, image: str = "[N,4,6,5]") -> tuple[list[str], list[str]]:
    return rewritten(exact(f"graph g(x: {image}) {{\n{lines}\n return y\n}}"), merge_branches)


def test_the_three_branches_of_repvgg_are_one_convolution() -> None:
    text, notes = merged("""
      a = conv(x, wa[4,4,3,3], ba[4]) pad=(1,1,1,1)
      b = conv(x, wb[4,4,1,1], bb[4])
      i = conv(x, wi[4,1,1,1], bi[4]) groups=4
      ab = add(b, a)
      y = add(ab, i) clip=(0.0,None)
    """)
    assert text == ["y = conv(x, y_weight[4,4,3,3], y_bias[4]) pad=(1,1,1,1) clip=(0.0,None)", "return y"]
    (note,) = notes
    assert note.startswith("merge_branches: y (3 convolutions as one: ")


@pytest.mark.parametrize(
    "other",
    [
        "conv(x, w[6,2,1,1]) groups=2 stride=(2,1)",
        "conv(x, w[6,2,1,3], b[6]) groups=2 pad=(0,0,1,1) stride=(2,1)",
        "conv(x, w[6,2,3,1]) groups=2 pad=(1,1,0,0) stride=(2,1)",
        "conv(x, w[6,2,2,2]) groups=2 pad=(1,0,0,1) stride=(2,1)",
    ],
    ids=["pointwise", "row", "column", "off-centre"],
)
def test_kernels_of_any_place_and_groups(other: str) -> None:
    text, _ = merged(f"""
      a = conv(x, wa[6,2,3,3]) groups=2 pad=(1,1,1,1) stride=(2,1)
      o = {other}
      y = sub(o, a)
    """)
    assert text[0].startswith("y = conv(x, y_weight[6,2,3,3]")
    assert text[1:] == ["return y"]


def test_a_dilated_kernel_meets_a_wider_one() -> None:
    text, _ = merged("""
      a = conv(x, wa[2,4,5,5]) pad=(2,2,2,2)
      d = conv(x, wd[2,4,3,3]) pad=(2,2,2,2) dilation=(2,2)
      y = add(a, d)
    """)
    assert text == ["y = conv(x, y_weight[2,4,5,5]) pad=(2,2,2,2)", "return y"]


@pytest.mark.parametrize("groups", [1, 2, 4], ids=lambda g: f"{g}-groups")
def test_finer_groups_lie_in_coarser_ones(groups: int) -> None:
    text, _ = merged(
        f"""
      a = conv(x, wa[16,{8 // groups},3,3]) groups={groups} pad=(1,1,1,1)
      d = conv(x, wd[16,1,3,3], bd[16]) groups=8 pad=(1,1,1,1)
      y = add(d, a)
    """,
        image="[N,8,5,4]",
    )
    assert len(text) == 2
    assert f"y_weight[16,{8 // groups},3,3]" in text[0]


def test_what_else_is_summed_stays_in_the_sum() -> None:
    text, _ = merged("""
      a = conv(x, wa[4,4,3,3]) pad=(1,1,1,1)
      h = hard_swish(x)
      s = sub(h, a)
      b = conv(x, wb[4,4,1,1], bb[4])
      t = sub(b, x)
      y = sub(s, t) clip=(0.0,6.0)
    """)
    assert text == [
        "h = hard_swish(x)",
        "y_merged = conv(x, y_merged_weight[4,4,3,3], y_merged_bias[4]) pad=(1,1,1,1)",
        "y_sum = add(y_merged, h)",
        "y = add(y_sum, x) clip=(0.0,6.0)",
        "return y",
    ]


def test_two_families_in_one_sum() -> None:
    text, notes = merged("""
      a = conv(x, wa[4,4,3,3]) pad=(1,1,1,1)
      h = hard_swish(x)
      c = conv(h, wc[4,4,3,3]) pad=(1,1,1,1)
      b = conv(x, wb[4,4,1,1])
      d = conv(h, wd[4,4,1,1])
      ac = add(a, c)
      bd = add(b, d)
      y = add(ac, bd)
    """)
    assert sum(" = conv(" in line for line in text) == 2
    assert len(notes) == 2


@pytest.mark.parametrize(
    "other",
    [
        "conv(h, w[4,4,1,1])",
        "conv(x, w[4,4,1,1]) clip=(0.0,None)",
        "conv(x, w[4,4,2,2]) pad=(1,0,1,0) dilation=(1,1) groups=1\n r = hard_swish(o)",
        "conv(x, w[4,1,5,5]) pad=(2,2,2,2) groups=4",
        "conv(x, w[4,4,3,3]) pad=(2,2,2,2) dilation=(2,2)",
    ],
    ids=["another-value", "activation", "read-elsewhere", "depthwise-wider", "taps-do-not-meet"],
)
def test_left_alone(other: str) -> None:
    lines = ["h = hard_swish(x)", "a = conv(x, wa[4,4,3,3]) pad=(1,1,1,1)", f"o = {other}"]
    total = "y = add(a, o)" if " r = " not in other else "s = add(a, o)\n y = add(s, r)"
    _, notes = merged("\n".join([*lines, "z = add(h, x)", total]))
    assert notes == []


def test_a_heterogeneous_convolution_is_left_to_its_own_pass() -> None:
    graph = exact("""graph g(x: [N,8,6,6]) {
      a = conv(x, wa[8,2,3,3]) groups=4 pad=(1,1,1,1)
      b = conv(x, wb[8,8,1,1], bb[8])
      y = add(a, b)
      return y
    }""")
    after, _ = run_passes(graph, STANDARD)
    assert len(find_hetconv(after)) == 1


# All 72 taps of a channel are 2 after merging, but the central one, p, is 2 + i. Steps of p / 127 make a noise of
# 72 p^2 / 127^2 / 12 in a power of 71 * 4 + p^2: 36 dB at p = 24.3.
@pytest.mark.parametrize(("identity", "left"), [(22.0, 1), (22.6, 2)], ids=["within", "beyond"])
def test_in_8_bits_a_branch_stays_if_the_others_would_drown_in_its_rounding(identity: float, left: int) -> None:
    graph = exact("""graph g(x: [N,8,6,5]) {
      a = conv(x, wa[8,8,3,3], ba[8]) pad=(1,1,1,1)
      b = conv(x, wb[8,8,3,3], bb[8]) pad=(1,1,1,1)
      i = conv(x, wi[8,1,1,1], bi[8]) groups=8
      ab = add(a, b)
      y = add(ab, i)
      return y
    }""")
    values = dict(graph.values)
    for name, number in {"wa": 1.0, "wb": 1.0, "wi": identity}.items():
        values[name] = replace(values[name], data=np.full(values[name].shape, number, np.float32))
    graph = replace(graph, values=values)
    text, _ = rewritten(graph, partial(merge_branches, least_db=36.0), roundings=1)
    assert sum(" = conv(" in line for line in text) == left
    assert len(rewritten(graph, merge_branches, roundings=1)[0]) == 2


class TrainedBlock(nn.Module):
    """RepVGG's block as it is trained: three branches, each with a batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.point = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        identity, wide, point = self.norms
        return torch.relu(wide(self.wide(x)) + point(self.point(x)) + identity(x))


def test_a_net_of_trained_blocks_is_a_plain_chain_of_convolutions() -> None:
    torch.manual_seed(0)
    blocks = [TrainedBlock(4) for _ in range(3)]
    for norm in (m for block in blocks for m in block.norms):
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_()
    imported = import_module(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), *blocks), (3, 8, 8), name="net")
    passes = (*STANDARD, merge_branches)  # as the float targets have it
    text, _ = rewritten(dyadic(imported), lambda graph: run_passes(graph, passes))
    assert len(text) == 5
    assert all(" = conv(" in line and "clip=(0.0,None)" in line for line in text[:-1])
    after, _ = run_passes(imported, passes)
    assert sum(macs_of(after, op) for op in after.ops) == 64 * (3 * 4 + 3 * 9 * 4 * 4)
