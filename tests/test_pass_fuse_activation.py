"""Clips become the activation of the op before them."""

from __future__ import annotations

import pytest
from pass_laws import exact, rewritten

from edgecnn.passes.fuse_activation import fuse_activation


def fused(*ops: str, result: str = "y") -> tuple[list[str], list[str]]:
    graph = exact("graph g(x: [N,4,6,6]) {\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    return rewritten(graph, fuse_activation)


@pytest.mark.parametrize("op", ["conv(x, w[4,1,3,3], b[4]) groups=4", "add(x, x)", "sub(x, q[4,1,1])", "mul(x, x)"])
@pytest.mark.parametrize("bounds", [("0.0", "None"), ("0.0", "6.0"), ("-1.0", "1.0"), ("None", "0.5")])
def test_a_clip_goes_into_the_op_before_it_which_takes_its_name(op: str, bounds: tuple[str, str]) -> None:
    lo, hi = bounds
    text, notes = fused(f"c = {op}", f"y = clip(c) lo={lo} hi={hi}")
    assert text == [f"y = {op} clip=({lo},{hi})", "return y"]
    assert notes == ["fuse_activation: y (into `c`)"]


def test_clips_in_a_row_compose_with_one_that_is_there() -> None:
    text, notes = fused(
        "c = conv(x, w[4,4,1,1]) clip=(-1.0,None)", "r = clip(c) lo=0 hi=None", "y = clip(r) lo=None hi=6"
    )
    assert text == ["y = conv(x, w[4,4,1,1]) clip=(0.0,6.0)", "return y"]
    assert notes == ["fuse_activation: r (into `c`)", "fuse_activation: y (into `r`)"]


RELU = "y = clip(c) lo=0.0 hi=None"


@pytest.mark.parametrize(
    ("ops", "result", "why"),
    [
        (["c = add(x, x)", RELU, "d = sigmoid(c)"], "y, d", "`c` is also read by `d`"),
        (["c = add(x, x)", RELU], "y, c", "`c` is an output of the graph"),
        (["c = concat(x, x) axis=1", RELU], "y", "`c` is made by concat, which has no activation"),
        (["y = clip(x) lo=0.0 hi=None"], "y", "`x` is an input of the graph"),
    ],
)
def test_a_clip_that_stays_says_why(ops: list[str], result: str, why: str) -> None:
    text, notes = fused(*ops, result=result)
    assert text[:-1] == ops
    assert notes == [f"fuse_activation: left y: {why}"]
