"""Folding channel shuffles keeps the function, leaves no shuffle, and moves few channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_laws import assert_same, exact, outputs

from edgecnn.ir.graph import Graph
from edgecnn.passes.channel_shuffle import fold_channel_shuffle, runs, shuffled

UNIT = """
  a{i} = slice({x}) axis=1 start=0 stop=8
  b{i} = slice({x}) axis=1 start=8 stop=16
  p{i} = conv(b{i}, wp{i}[8,8,1,1], bp{i}[8]) clip=(0.0,None)
  d{i} = conv(p{i}, wd{i}[8,1,3,3], bd{i}[8]) pad=(1,1,1,1) groups=8
  q{i} = conv(d{i}, wq{i}[8,8,1,1], bq{i}[8]) clip=(0.0,None)
  c{i} = concat(a{i}, q{i}) axis=1
  s{i} = channel_shuffle(c{i}) groups=2
"""


def units(count: int) -> Graph:
    """A stage of ShuffleNetV2 with its classifier."""
    names = ["x", *(f"s{i}" for i in range(count))]
    body = "".join(UNIT.format(i=i, x=names[i]) for i in range(count))
    tail = f"  g = global_pool({names[-1]}) keepdims=False\n  y = linear(g, wl[5,16], bl[5])\n  return y\n"
    return exact(f"graph stage(x: [N,16,6,6]) {{\n{body}{tail}}}")


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_stage_of_shufflenet_has_no_shuffle_left_and_is_the_same_function(count: int) -> None:
    graph = units(count)
    folded, notes = fold_channel_shuffle(graph)
    assert_same(graph, folded)
    assert "channel_shuffle" not in kinds(folded)
    assert [str(note) for note in notes] == [
        f"fold_channel_shuffle: s{i} (into the weights around it)" for i in range(count)
    ]


def test_neighbouring_halves_keep_the_copies_few() -> None:
    """The channels a unit keeps, and those it reads, stay together: at most 4 runs each, 3 inputs in the median."""
    folded, _ = fold_channel_shuffle(units(6))
    concats = [len(op.inputs) for op in folded.ops if op.kind == "concat"]
    assert max(concats) <= 5
    assert float(np.median(concats)) <= 3


def test_a_graph_without_shuffles_is_left_alone() -> None:
    graph = exact("graph g(x: [N,4,3,3]) {\n  a = slice(x) axis=1 start=0 stop=2\n  return a\n}")
    assert fold_channel_shuffle(graph) == (graph, [])


READERS = {
    "an output": "  y = channel_shuffle(x) groups=4\n",
    "an output that is sliced": "  s = channel_shuffle(x) groups=2\n  y = slice(s) axis=1 start=3 stop=9\n",
    "a grouped convolution": "  s = channel_shuffle(x) groups=2\n  y = conv(s, w[8,3,1,1], b[8]) groups=4\n",
    "a depthwise convolution with multiplier": (
        "  s = channel_shuffle(x) groups=3\n  d = conv(s, w[24,1,3,3], b[24]) groups=12\n  y = conv(d, v[4,24,1,1])\n"
    ),
    "a transpose": "  s = channel_shuffle(x) groups=2\n  y = transpose(s) perm=(0,2,3,1)\n",
    "a flatten of pixels": "  s = channel_shuffle(x) groups=2\n  f = flatten(s)\n  y = linear(f, w[3,192], b[3])\n",
    "a sum of two orders": "  s = channel_shuffle(x) groups=2\n  a = add(s, x)\n  y = conv(a, w[4,12,1,1])\n",
    "a sum with itself": "  s = channel_shuffle(x) groups=2\n  a = add(s, s)\n  y = conv(a, w[4,12,1,1])\n",
    "a constant per channel": (
        "  s = channel_shuffle(x) groups=2\n  a = mul(s, c[12,1,1])\n  y = conv(a, w[4,12,1,1])\n"
    ),
    "a constant": "  s = channel_shuffle(x) groups=2\n  a = mul(s, c[1,1,1])\n  y = conv(a, w[4,12,1,1])\n",
    "a gate": (
        "  s = channel_shuffle(x) groups=2\n  g = global_pool(s)\n  h = hard_sigmoid(g)\n  m = mul(s, h)\n"
        "  y = conv(m, w[4,12,1,1])\n"
    ),
    "a pad per channel": (
        "  z = channel_shuffle(x) groups=6\n  s = slice(z) axis=1 start=0 stop=2\n"
        "  y = pad(s) pad=(1,0,0,1) value=(0.5,-0.25)\n"
    ),
    "a slice of rows": (
        "  s = channel_shuffle(x) groups=2\n  r = slice(s) axis=2 start=1 stop=3\n  y = clip(r) lo=0.0 hi=1.0\n"
    ),
    "a concat of rows": "  s = channel_shuffle(x) groups=2\n  y = concat(s, x) axis=2\n",
    "a concat with what it was made of": (
        "  s = channel_shuffle(x) groups=2\n  c = concat(s, x, s) axis=1\n  y = conv(c, w[4,36,1,1], b[4])\n"
    ),
    "a convolution that is an output too": (
        "  s = channel_shuffle(x) groups=2\n  y = conv(s, w[6,12,1,1])\n  c = concat(y, s) axis=1\n"
        "  t = channel_shuffle(c) groups=2\n  z = conv(t, v[5,18,1,1])\n"
    ),
    "two outputs of one convolution": (
        "  s = channel_shuffle(x) groups=2\n  y = conv(s, w[6,12,1,1])\n  k = clip(y) lo=0.0 hi=1.0\n"
        "  c = concat(y, k) axis=1\n  t = channel_shuffle(c) groups=2\n  z = conv(t, v[5,12,1,1])\n"
    ),
}


@pytest.mark.parametrize("body", READERS.values(), ids=READERS)
def test_every_kind_of_reader_sees_its_channels_in_order(body: str) -> None:
    last = "y, z" if "  z = conv" in body else "y"
    graph = exact(f"graph g(x: [N,12,4,4]) {{\n{body}  return {last}\n}}")
    folded, _ = fold_channel_shuffle(graph)
    assert_same(graph, folded)
    assert folded.outputs == graph.outputs


@pytest.mark.parametrize(
    ("body", "left", "why"),
    [
        (READERS["a grouped convolution"], ["channel_shuffle", "conv"], "s_ordered: {} a shuffle in 2 groups"),
        ("  s = channel_shuffle(x) groups=6\n  y = slice(s) axis=1 start=1 stop=2\n", ["slice"], "y: {} a slice"),
        (
            "  s = channel_shuffle(x) groups=6\n  y = slice(s) axis=1 start=0 stop=2\n",
            ["slice", "slice", "concat"],
            "y: {} 2 runs of channels",
        ),
    ],
)
def test_an_order_that_must_be_made_is_noted(body: str, left: list[str], why: str) -> None:
    graph = exact(f"graph g(x: [N,12,4,4]) {{\n{body}  return y\n}}")
    folded, notes = fold_channel_shuffle(graph)
    assert_same(graph, folded)
    assert kinds(folded) == left
    assert str(notes[-1]) == f"fold_channel_shuffle: left {why.format('read in its logical order, which takes')}"


def test_runs_are_the_channels_again() -> None:
    assert runs([4, 5, 6, 0, 1, 9]) == [(4, 7), (0, 2), (9, 10)]
    assert runs([3, 2, 1]) == [(3, 4), (2, 3), (1, 2)]


MOVES = ["shuffle2", "shuffle3", "swap", "double", "conv"]


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 11)), max_size=6))
def test_any_chain_of_moves_is_the_same_function(moves: list[tuple[str, int]]) -> None:
    lines, now = [], "x"
    for i, (move, at) in enumerate(moves):
        line = {
            "shuffle2": "  v{i} = channel_shuffle({x}) groups=2\n",
            "shuffle3": "  v{i} = channel_shuffle({x}) groups=3\n",
            "swap": (
                "  h{i} = slice({x}) axis=1 start={cut} stop=12\n  t{i} = slice({x}) axis=1 start=0 stop={cut}\n"
                "  v{i} = concat(h{i}, t{i}) axis=1\n"
            ),
            "double": "  e{i} = concat({x}, {x}) axis=1\n  v{i} = slice(e{i}) axis=1 start={at} stop={end}\n",
            "conv": "  v{i} = conv({x}, w{i}[12,12,1,1]) clip=(0.0,None)\n",
        }[move]
        lines.append(line.format(i=i, x=now, at=at, cut=max(at, 1), end=at + 12))
        now = f"v{i}"
    graph = exact(
        f"graph g(x: [N,12,2,2]) {{\n{''.join(lines)}  f = channel_shuffle({now}) groups=4\n"
        "  y = conv(f, wy[3,12,1,1])\n  return f, y\n}"
    )
    folded, _ = fold_channel_shuffle(graph)
    assert_same(graph, folded)


def test_shuffled_is_the_meaning_of_the_op() -> None:
    graph = exact("graph g(x: [N,12,1,1]) {\n  y = channel_shuffle(x) groups=3\n  return y\n}")
    channels = np.arange(12.0).reshape(1, 12, 1, 1)
    assert outputs(graph, channels)[0].reshape(-1).tolist() == shuffled(12, 3)
