"""Shuffles around grouped convolutions: into rows, or spared by a dense convolution, and always the same function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from pass_laws import assert_same, body, dyadic, exact, rewritten
from strategies import graphs

from edgecnn.ir.graph import Graph
from edgecnn.passes.channel_shuffle import fold_channel_shuffle
from edgecnn.passes.group_shuffle import Shuffle, block_diagonal, shuffle_into_rows, ungroup
from edgecnn.passes.shuffle_onehot import MOST_CHANNELS, shuffle_onehot

MOVES = ("conv", "depthwise", "channel_shuffle", "slice", "concat", "clip", "add")
always, never = ungroup(lambda added, shuffles: True), ungroup(lambda added, shuffles: False)

UNIT = (
    "a = conv(x, wa[6,4,1,1], ba[6]) groups=3 clip=(0.0,None)",
    "s = channel_shuffle(a) groups=3",
    "d = conv(s, wd[6,1,3,3], bd[6]) groups=6 pad=(1,1,1,1)",
    "y = conv(d, wy[12,2,1,1], by[12]) groups=3",
)
INTERLEAVED = (
    "p = conv(x, wp[12,3,3,3]) groups=4 pad=(1,1,1,1)",
    "s = channel_shuffle(p) groups=4",
    "q = conv(s, wq[12,4,1,1], bq[12]) groups=3 clip=(0.0,None)",
    "y = channel_shuffle(q) groups=3",
)


def graph_of(*ops: str) -> Graph:
    return exact("graph g(x: [N,12,4,4]) {\n" + "\n".join(ops) + "\nreturn y\n}")


@given(graph=graphs(kinds=MOVES, max_ops=8))
@pytest.mark.parametrize("rewrite", [shuffle_into_rows, always, never])
def test_every_pass_keeps_the_function_and_finds_nothing_in_a_second_run(rewrite, graph: Graph) -> None:
    graph = dyadic(graph)
    after, _ = rewrite(graph)
    assert (after.inputs, after.outputs) == (graph.inputs, graph.outputs)
    assert_same(graph, after)
    assert body(rewrite(after)[0]) == body(after)


def test_a_shuffle_behind_a_dense_convolution_is_an_order_of_its_rows() -> None:
    text, notes = rewritten(
        graph_of(
            "c = conv(x, wc[8,12,1,1], bc[8]) clip=(0.0,None)",
            "d = conv(c, wd[8,1,3,3], bd[8]) groups=8",
            "h = hard_swish(d)",
            "y = channel_shuffle(h) groups=2",
        ),
        shuffle_into_rows,
    )
    assert text == [
        "c = conv(x, wc_ordered[8,12,1,1], bc_ordered[8]) clip=(0.0,None)",
        "d = conv(c, wd_ordered[8,1,3,3], bd_ordered[8]) groups=8",
        "y = hard_swish(d)",
        "return y",
    ]
    assert notes == ["shuffle_into_rows: y (into the rows of `wc`)"]


@pytest.mark.parametrize(
    "ops",
    [
        ("c = conv(x, wc[8,12,1,1])", "s = channel_shuffle(c) groups=2", "y = concat(s, c) axis=1"),
        ("c = conv(x, wc[8,6,1,1]) groups=2", "y = channel_shuffle(c) groups=4"),
        ("c = conv(x, wc[8,12,1,1])", "p = pad(c) pad=(1,1,1,1)", "y = channel_shuffle(p) groups=2"),
        ("y = channel_shuffle(x) groups=3",),
    ],
    ids=["read twice", "grouped", "another kind between", "an input"],
)
def test_any_other_shuffle_stays(ops: tuple[str, ...]) -> None:
    graph = graph_of(*ops)
    after, notes = shuffle_into_rows(graph)
    assert body(after) == body(graph)
    assert notes == []


def test_the_second_convolution_of_a_unit_becomes_dense_and_the_first_keeps_its_groups() -> None:
    text, notes = rewritten(graph_of(*UNIT), always)
    assert text[-2] == "y = conv(d, wy_dense[12,6,1,1], by[12]) groups=1"
    assert text[0] == "a = conv(x, wa[6,4,1,1], ba[6]) groups=3 clip=(0.0,None)"
    # 12 * 2 weights at 16 pixels, and as much again for each of two further groups.
    assert notes == ["ungroup: y (3 groups as one: 768 more multiply-adds for 1 fewer shuffles)"]


@pytest.mark.parametrize("fold", [fold_channel_shuffle, shuffle_onehot])
@pytest.mark.parametrize("ops", [UNIT, INTERLEAVED], ids=["ShuffleNetV1", "IGCV1"])
def test_no_shuffle_is_left_around_a_dense_convolution(ops: tuple[str, ...], fold) -> None:
    graph = graph_of(*ops)
    after = graph
    for rewrite in (shuffle_into_rows, always, shuffle_into_rows, fold):
        after, _ = rewrite(after)
    assert_same(graph, after)
    assert {op.kind for op in after.ops} == {"conv"}
    assert len(after.ops) == len([op for op in graph.ops if op.kind == "conv"])


def test_the_target_is_asked_about_the_products_and_the_shuffles_between() -> None:
    asked: list[tuple[int, list[Shuffle]]] = []

    def worth(added: int, shuffles: list[Shuffle]) -> bool:
        asked.append((added, shuffles))
        return False

    graph = graph_of(*INTERLEAVED)
    after, notes = ungroup(worth)(graph)
    assert body(after) == body(graph)
    # Secondary: 12 * 4 weights, two more groups, two shuffles. Primary: 12 * 27 weights, three more, the first shuffle.
    assert asked == [(2 * 48 * 16, [Shuffle(12, 16), Shuffle(12, 16)]), (3 * 324 * 16, [Shuffle(12, 16)])]
    assert [note.did for note in notes] == [False, False]


def test_a_shuffle_that_stays_before_groups_is_a_one_hot_convolution() -> None:
    text, notes = rewritten(graph_of(*UNIT), shuffle_onehot)
    assert text[1] == "s = conv(a, s_onehot[6,6,1,1])"
    assert notes == ["shuffle_onehot: s (a 1x1 convolution with one-hot weights)"]


def test_a_wide_shuffle_before_groups_is_moved_not_multiplied() -> None:
    channels = MOST_CHANNELS + 2
    ops = f"s = channel_shuffle(x) groups=2\ny = conv(s, w[{channels},{channels // 2},1,1]) groups=2"
    graph = exact(f"graph g(x: [N,{channels},1,1]) {{\n{ops}\nreturn y\n}}")
    after, _ = shuffle_onehot(graph)
    assert [op.kind for op in after.ops] == ["channel_shuffle", "conv"]


def test_a_block_diagonal_weight_has_the_groups_on_its_diagonal() -> None:
    grouped = np.arange(1.0, 9.0).reshape(4, 2, 1, 1)
    dense = block_diagonal(grouped, 2)[:, :, 0, 0]
    assert dense.tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 5, 6], [0, 0, 7, 8]]
