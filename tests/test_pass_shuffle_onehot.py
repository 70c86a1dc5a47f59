"""Folding channel shuffles into weights keeps the function exactly."""

from __future__ import annotations

from hypothesis import given
from pass_laws import assert_same, body, dyadic, exact, rewritten
from strategies import graphs

from edgecnn.ir.graph import Graph
from edgecnn.passes.shuffle_onehot import shuffle_onehot

MOVES = ("conv", "depthwise", "channel_shuffle", "slice", "concat", "clip", "add")


def folded(*ops: str, inputs: str = "[N,8,4,4]", result: str = "y") -> tuple[list[str], list[str]]:
    return rewritten(exact(f"graph g(x: {inputs}) {{\n" + "\n".join(ops) + f"\nreturn {result}\n}}"), shuffle_onehot)


@given(graph=graphs(kinds=MOVES, max_ops=8))
def test_folding_keeps_the_function_and_each_shuffle_has_a_note(graph: Graph) -> None:
    graph = dyadic(graph)
    after, notes = shuffle_onehot(graph)
    assert_same(graph, after)
    assert {n.at for n in notes} == {op.output for op in graph.ops if op.kind == "channel_shuffle"}
    left = {op.output for op in after.ops if op.kind == "channel_shuffle"}
    assert left == {n.at for n in notes if not n.did}
    assert body(shuffle_onehot(after)[0]) == body(after)


def test_two_units_of_a_shufflenet_need_no_shuffle_and_no_slice() -> None:
    text, notes = folded(
        "s = channel_shuffle(x) groups=2",
        "left = slice(s) axis=1 start=0 stop=4",
        "right = slice(s) axis=1 start=4 stop=8",
        "c = conv(right, wc[4,4,1,1], bc[4]) clip=(0.0,None)",
        "cat = concat(left, c) axis=1",
        "s2 = channel_shuffle(cat) groups=2",
        "y = conv(s2, wy[6,8,1,1])",
    )
    assert text == [
        "left = conv(x, left_onehot[4,8,1,1])",
        "c = conv(x, wc_2[4,8,1,1], bc[4]) clip=(0.0,None)",
        "cat = concat(left, c) axis=1",
        "y = conv(cat, wy_2[6,8,1,1])",
        "return y",
    ]
    assert notes == [f"shuffle_onehot: {n} (into the weights of its readers)" for n in ("s", "s2")]


def test_a_shuffle_moves_behind_a_depthwise_convolution() -> None:
    text, _ = folded(
        "s = channel_shuffle(x) groups=4", "d = conv(s, wd[8,1,3,3], bd[8]) groups=8", "y = conv(d, wy[6,8,1,1])"
    )
    assert text == ["d = conv(x, wd_2[8,1,3,3], bd_2[8]) groups=8", "y = conv(d, wy_2[6,8,1,1])", "return y"]


def test_a_shuffle_that_something_else_reads_stays() -> None:
    for ops, reason in (
        (["y = channel_shuffle(x) groups=2"], "y: `y` is an output of the graph"),
        (
            ["s = channel_shuffle(x) groups=2", "y = clip(s) lo=0.0 hi=None"],
            "s: `y` (clip) cannot read channels in another order",
        ),
        (
            ["s = channel_shuffle(x) groups=2", "d = conv(s, wd[8,1,3,3]) groups=8", "y = clip(d) lo=0.0 hi=None"],
            "s: what follows `d` cannot read channels in another order",
        ),
    ):
        text, notes = folded(*ops)
        assert "channel_shuffle" in text[0]
        assert notes == [f"shuffle_onehot: left {reason}"]
