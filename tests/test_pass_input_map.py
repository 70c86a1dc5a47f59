"""What a net does to its input channel by channel moves into the first convolutions, exactly, borders included."""

from __future__ import annotations

import numpy as np
import pytest
from pass_laws import F32_UNIT, F64_UNIT, assert_same, body, exact, outputs

from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse
from edgecnn.passes.embed_normalization import embed_normalization
from edgecnn.passes.input_map import fold_input_map
from edgecnn.passes.standard import STANDARD, run_passes

SCALE, SHIFT = (0.5, 2.0, -0.25), (1.0, -0.5, 0.75)


def graph_of(*ops: str, result: str = "y") -> Graph:
    """A graph whose constants `s` and `t` are a scale and a shift by which every step is exact."""
    graph = exact("graph g(x: [N,3,9,8]) {\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    for name, numbers in (("s", SCALE), ("t", SHIFT)):
        if name in graph.values:
            graph.const(name)[...] = np.reshape(numbers, (3, 1, 1))
    return graph


def folded(graph: Graph) -> tuple[list[str], list[str]]:
    after, notes = fold_input_map(graph)
    assert_same(graph, after)
    return body(after), [str(note) for note in notes]


MAP = ("m = mul(x, s[3,1,1])", "n = add(m, t[3,1,1])")


def test_padding_moves_out_with_the_input_that_was_mapped_to_zero() -> None:
    after, notes = folded(graph_of(*MAP, "y = conv(n, w[4,3,3,3], b[4]) stride=(2,2) pad=(1,2,0,1) clip=(0.0,None)"))
    assert after == [
        "x_pad = pad(x) pad=(1,2,0,1) value=(-2.0,0.25,3.0)",
        "y = conv(x_pad, w[4,3,3,3], b[4]) stride=(2,2) pad=(0,0,0,0) clip=(0.0,None)",
        "return y",
    ]
    assert notes == ["fold_input_map: n (into `y`, padded by `x_pad`)"]


def test_without_padding_no_op_is_left_of_the_map() -> None:
    after, notes = folded(graph_of("c = sub(t[3,1,1], x)", "y = conv(c, w[4,3,3,3])"))
    assert after == ["y = conv(x, w[4,3,3,3], w_bias[4]) pad=(0,0,0,0)", "return y"]
    assert notes == ["fold_input_map: c (into `y`)"]


PARTS = (
    "a = slice(x) axis=1 start=0 stop=1",
    "b = slice(x) axis=1 start=1 stop=2",
    "c = slice(x) axis=1 start=2 stop=3",
    "d = mul(a, q[])",
    "e = add(d, r[])",
    "f = mul(c, u[])",
)


def test_channels_that_are_mapped_one_by_one_count_too() -> None:
    graph = graph_of(*PARTS, "n = concat(e, b, f) axis=1", "y = conv(n, w[4,3,3,3]) pad=(1,1,1,1)")
    for name, number in (("q", 0.5), ("r", 1.0), ("u", 2.0)):
        graph.const(name)[...] = number
    after, notes = folded(graph)
    assert after[0] == "x_pad = pad(x) pad=(1,1,1,1) value=(-2.0,0.0,0.0)"
    assert [line.partition(" = ")[2].partition("(")[0] for line in after[:-1]] == ["pad", "conv"]
    assert notes == ["fold_input_map: n (into `y`, padded by `x_pad`)"]


@pytest.mark.parametrize("together", ["n = concat(b, e, f) axis=1", "n = concat(e, b, f, b) axis=1"])
def test_channels_in_another_order_or_number_are_no_map(together: str) -> None:
    width = together.count(",") + 1
    graph = graph_of(*PARTS, together, f"y = conv(n, w[4,{width},3,3])")
    assert folded(graph) == (body(graph), [])


def test_channels_of_which_some_are_missing_are_no_map() -> None:
    graph = graph_of(*PARTS[:2], *PARTS[3:5], "n = concat(e, b) axis=1", "y = conv(n, w[4,2,3,3])")
    assert folded(graph) == (body(graph), [])


def test_several_convolutions_of_any_groups_read_the_map() -> None:
    after, _ = folded(
        graph_of(
            *MAP,
            "a = conv(n, w[6,1,3,3]) groups=3 pad=(1,1,1,1)",
            "b = conv(n, v[6,3,3,3]) pad=(1,1,1,1)",
            "y = add(a, b)",
        )
    )
    assert [line.partition(" = ")[2].partition("(")[0] for line in after[:-1]] == ["pad", "conv", "conv", "add"]


def test_a_batch_norm_on_the_input_is_such_a_map() -> None:
    graph = graph_of("n = batch_norm(x, g[3], be[3], m[3], v[3]) eps=0.0", "y = conv(n, w[4,3,3,3]) pad=(1,1,1,1)")
    for name, numbers in (("g", (1, 2, 4)), ("be", (2, 1, 4)), ("m", (1, 0, 2)), ("v", (4, 1, 16))):
        graph.const(name)[...] = numbers
    after, _ = folded(graph)
    # x where the norm gives 0: mean - beta * sqrt(var) / gamma.
    assert after[0] == "x_pad = pad(x) pad=(1,1,1,1) value=(-3.0,-0.5,-2.0)"
    assert [op.kind for op in run_passes(graph, STANDARD)[0].ops] == ["pad", "conv"]


@pytest.mark.parametrize(
    ("ops", "result", "note"),
    [
        (["y = max_pool(n) kernel=(2,2) stride=(2,2)"], "y", "left n: `y`, which is max_pool, reads it"),
        (["y = conv(n, w[4,3,1,1])"], "y, n", "left n: `n` is also an output of the graph"),
        ([], "n", "left n: `n` is also an output of the graph"),
    ],
)
def test_a_map_that_something_else_reads_stays(ops: list[str], result: str, note: str) -> None:
    graph = graph_of(*MAP, *ops, result=result)
    after, notes = folded(graph)
    assert after == body(graph)
    assert notes == [f"fold_input_map: {note}"]


def test_a_channel_that_is_multiplied_by_zero_has_no_padding_value() -> None:
    graph = graph_of(*MAP, "y = conv(n, w[4,3,3,3]) pad=(1,1,1,1)")
    graph.const("s")[1] = 0
    after, notes = folded(graph)
    assert after == body(graph)
    assert notes == ["fold_input_map: left n: `y` pads, and no input is mapped to zero in every channel"]


def test_an_activation_ends_the_map() -> None:
    graph = graph_of("m = mul(x, s[3,1,1]) clip=(0.0,None)", "y = conv(m, w[4,3,3,3])")
    assert folded(graph) == (body(graph), [])


def test_the_nets_own_map_and_the_normalisation_embed_as_one() -> None:
    graph = graph_of(*MAP, "y = conv(n, w[4,3,3,3]) pad=(1,1,1,1)")
    after, _ = embed_normalization((0.5, 0.25, 0.375), (0.25, 0.5, 0.125), input_scale=256)(graph)
    assert [op.kind for op in after.ops] == ["pad", "conv"]
    pixels = np.random.default_rng(0).integers(0, 257, (2, 3, 9, 8)).astype(np.float64)
    mean, std = np.reshape((0.5, 0.25, 0.375), (3, 1, 1)), np.reshape((0.25, 0.5, 0.125), (3, 1, 1))
    np.testing.assert_array_equal(outputs(after, pixels)[0], outputs(graph, (pixels / 256 - mean) / std)[0])


def test_googlenets_numbers_to_the_rounding_of_float32_borders_included() -> None:
    graph = parse(
        "graph g(x: [N,3,9,8]) {\n m = mul(x, s[3,1,1])\n n = add(m, t[3,1,1])\n"
        " y = conv(n, w[4,3,3,3], b[4]) stride=(2,2) pad=(1,1,1,1)\n return y\n}"
    )
    graph.const("s")[...] = np.reshape((0.458, 0.448, 0.45), (3, 1, 1))
    graph.const("t")[...] = np.reshape((-0.03, -0.088, -0.188), (3, 1, 1))
    x = np.random.default_rng(1).uniform(-2.6, 2.6, (2, 3, 9, 8))
    after, _ = fold_input_map(graph)
    assert [op.kind for op in after.ops] == ["pad", "conv"]
    was, now = outputs(graph, x)[0], outputs(after, x)[0]
    # Each weight, padding value and bias is off by at most 2^-24 of itself. A product of a weight with an input is at
    # most |w| * 0.458 * 2.6, twice for both roundings in the padding; the new bias is at most |b| + |w| * 0.188.
    per_channel = np.abs(graph.const("w")).sum((1, 2, 3)) * (2 * 0.458 * 2.6 + 0.188) + np.abs(graph.const("b"))
    assert (np.abs(now - was).max((0, 2, 3)) < per_channel * (F32_UNIT + 2 * 30 * F64_UNIT)).all()
