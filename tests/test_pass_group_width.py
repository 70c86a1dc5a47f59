"""Merging groups: the same numbers, exactly, in fewer groups; and only where groups are narrow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.passes.group_width import widen_groups


def grouped(channels: int, out: int, groups: int) -> Graph:
    conv = f"conv(x, w[{out},{channels // groups},3,3], b[{out}]) stride=(2,2) pad=(1,1,1,1) groups={groups}"
    return parse(f"graph g(x: [N,{channels},7,7]) {{\n  y = {conv} clip=(0.0,None)\n  return y\n}}")


@given(
    st.sampled_from([2, 3, 4, 6, 12]),
    st.sampled_from([(1, 2), (1, 3), (2, 1), (2, 2), (3, 3), (4, 1)]),
    st.integers(2, 20),
)
def test_the_numbers_stay_and_groups_are_wide_enough(groups: int, form: tuple[int, int], width: int) -> None:
    per_group, filters = form  # one channel in and several out is no depthwise convolution for an integer kernel
    before = grouped(groups * per_group, groups * filters, groups)
    after, notes = widen_groups(width)(before)
    x = np.random.default_rng(0).standard_normal((2, groups * per_group, 7, 7))
    # Sums of products in float64, some with zeros in between: nothing is rounded otherwise than in another order.
    expected, found = (run(g, x, dtype=torch.float64)[0] for g in (before, after))
    assert np.allclose(found, expected, rtol=0, atol=1e-12)
    (op,) = after.ops
    left = attrs_of(op)["groups"]
    assert left == 1 or groups * per_group // left >= width
    assert len(notes) == (per_group < width)
    assert widen_groups(width)(after)[1] == []


@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (16, 1), (64, 4)], ids=["depthwise", "dense", "wide"])
def test_others_stay(channels: int, groups: int) -> None:
    before = grouped(channels, channels, groups)
    after, notes = widen_groups(16)(before)
    assert notes == []
    assert after.ops[0].inputs == before.ops[0].inputs
