"""The text form: what is written is read back, and what cannot be read is explained."""

from __future__ import annotations

import contextlib
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import CONV_BN_RELU, TEXTS, assert_same_graph, graphs, with_random_q

from edgecnn.errors import InputError
from edgecnn.ir.graph import BATCH, Graph, Op, QParams, Source
from edgecnn.ir.text import dumps, parse

TINY = """graph tiny(x: [N,3,32,32]) {
  c1 = conv(x, w1[2,3,3,3], b1[2]) stride=(2,2) pad=(1,1,1,1) clip=(0.0,None)  # features.0 my_net.py:7
  y = global_pool(c1)
  return y
  x: int8 scale=0.0235 zero=-128
  w1: int8 axis=0 qmin=-127 scale=(0.01,0.02) zero=0
}
"""


def reread(graph: Graph) -> Graph:
    constants = {v.name: v.data for v in graph.values.values() if v.data is not None}
    return parse(dumps(graph), constants=constants)


def test_canonical_text_is_written_as_it_was_read() -> None:
    assert dumps(parse(TINY)) == TINY


@pytest.mark.parametrize("name", TEXTS)
def test_ready_made_graphs_are_canonical(name: str) -> None:
    assert dumps(parse(TEXTS[name])).strip() == TEXTS[name]


@given(graphs(), st.integers(0, 5))
def test_reading_back_is_the_identity(graph: Graph, seed: int) -> None:
    assert_same_graph(reread(graph), graph)
    quantised = with_random_q(graph, seed=seed)
    assert_same_graph(reread(quantised), quantised)


@given(st.integers(1, 0x7F7F_FFFF))
def test_every_float32_scale_survives(bits: int) -> None:
    scale = np.uint32(bits).view(np.float32)
    editor = parse(TINY).edit()
    editor.set_q("x", QParams(np.asarray(scale), np.asarray(0, np.int32), "int16", None, -32768, 32767))
    q = reread(editor.finish()).value("x").q
    assert q is not None
    assert q.scale.view(np.uint32) == bits


def test_attributes_of_every_type_survive() -> None:
    text = """graph g(x: [N,3,4,4]) {
  p = pad(x) pad=(1,0,0,1) value=(0.5,-1.5,3.0)
  c = clip(p) lo=-1e999 hi=6.0
  r = reshape(c) shape=(-1,75)
  return p, r
}
"""
    graph = parse(text)
    assert dumps(graph) == text
    assert graph.ops[1].attrs["lo"] == -np.inf
    assert graph.outputs == ("p", "r")


def test_numpy_attributes_are_written_as_numbers() -> None:
    graph = parse("graph g(x: [N,2]) {\n y = clip(x) lo=0.0 hi=1.0\n return y\n}")
    op = graph.ops[0].with_attrs(hi=np.float32(0.5))
    text = dumps(Graph("g", (op,), graph.values, graph.inputs, graph.outputs))
    assert "y = clip(x) lo=0.0 hi=0.5\n" in text


def test_abridged_text_gives_the_span_of_the_scales() -> None:
    assert "  w1: int8 axis=0 qmin=-127 scale=0.01..0.02\n" in dumps(parse(TINY), abridged=True)


def test_sources_and_shapes() -> None:
    graph = parse(TINY)
    assert graph.ops[0].source == Source("features.0", "my_net.py:7")
    assert graph.ops[1].source == Source()
    assert graph.shape("c1") == (BATCH, 2, 16, 16)
    assert graph.shape("w1") == (2, 3, 3, 3)


def test_constants_depend_on_the_seed_and_their_name_only() -> None:
    first, again, other = parse(CONV_BN_RELU), parse(CONV_BN_RELU), parse(CONV_BN_RELU, seed=1)
    assert np.array_equal(first.const("w"), again.const("w"))
    assert not np.array_equal(first.const("w"), other.const("w"))
    longer = CONV_BN_RELU.replace("  c = conv", "  z = clip(x) lo=0.0 hi=None\n  c = conv")
    assert np.array_equal(first.const("w"), parse(longer).const("w"))
    assert (first.const("var") > 0).all()


def test_a_shared_constant_is_one_value() -> None:
    text = """graph g(x: [N,4,5,5]) {
  a = conv(x, w[4,4,1,1])
  b = conv(a, w)
  return b
}
"""
    graph = parse(text)
    assert [op.inputs[1] for op in graph.ops] == ["w", "w"]
    assert dumps(graph) == text


HEAD = "graph g(x: [N,3,8,8]) {\n"
CASES = {
    "y = covn(x, w[4,3,3,3])": """InputError: unknown op kind `covn`
  at       line 2 of the graph: y = covn(x, w[4,3,3,3])
  expected one of add, avg_pool, batch_norm, channel_shuffle, clip, concat, conv, deform_conv, flatten, gelu, \
global_pool, hard_sigmoid, hard_swish, leaky_relu, linear, lrn, max_pool, mul, pad, reshape, sigmoid, silu, slice, \
softmax, sub, tanh, transpose, upsample
  do       did you mean `conv` or `concat`?""",
    "y = conv(x, w[4,3,3,3]) strid=(2,2)": """InputError: `conv` has no attribute `strid`
  at       line 2 of the graph: y = conv(x, w[4,3,3,3]) strid=(2,2)
  expected one of stride, pad, dilation, groups, clip, dynamic
  do       did you mean `stride`?""",
    "y = clip(X) lo=0.0 hi=None": """InputError: `X` is not defined above this line
  at       line 2 of the graph: y = clip(X) lo=0.0 hi=None
  do       did you mean `x`?""",
    "y = conv(x, w[4,5,3,3])": """InputError: `y` is not a legal conv: conv of 3 channels in 1 groups with a weight \
of shape (4, 5, 3, 3)
  at       line 2 of the graph: y = conv(x, w[4,5,3,3])""",
    "y = clip(x) lo=0.0": """InputError: `y` is not a legal clip: hi must be given
  at       line 2 of the graph: y = clip(x) lo=0.0""",
    "y = slice(x) axis=1 start=0": """InputError: `y` is not a legal slice: stop must be given
  at       line 2 of the graph: y = slice(x) axis=1 start=0""",
    "y = conv(x, w[4,3,3,3]) stride=(2,)": """InputError: `y` is not a legal conv: an attribute is not of the right form
  at       line 2 of the graph: y = conv(x, w[4,3,3,3]) stride=(2,)""",
    "y = add(x)": """InputError: `y` is not a legal add: 1 inputs, expected 2
  at       line 2 of the graph: y = add(x)""",
    "x = add(x, x)": """InputError: `x` is defined twice
  at       line 2 of the graph: x = add(x, x)""",
    "y = add(x, c[N,1])": """InputError: the constant `c` has a batch
  at       line 2 of the graph: y = add(x, c[N,1])""",
    "y = add(x, c[1,b])": """InputError: [1,b] is no shape
  at       line 2 of the graph: y = add(x, c[1,b])
  expected whole numbers, and N for the batch""",
    "y = clip(x) lo=zero hi=None": """InputError: `zero` is no value
  at       line 2 of the graph: y = clip(x) lo=zero hi=None
  expected a number, True, False, None or a tuple""",
    "y = clip(x) 0 6": """InputError: cannot read `0 6`
  at       line 2 of the graph: y = clip(x) 0 6
  expected ATTRIBUTE=VALUE""",
    "clip x": """InputError: this line is no op
  at       line 2 of the graph: clip x
  expected NAME = KIND(OPERANDS) ATTRIBUTE=VALUE ...""",
    "x: int9 scale=1.0": """InputError: unknown type `int9`
  at       line 2 of the graph: x: int9 scale=1.0
  expected one of int8, uint8, int16, int32, int64""",
    "x: int8 zero=1": """InputError: the scale is missing
  at       line 2 of the graph: x: int8 zero=1
  expected scale=NUMBER, or a tuple with axis=AXIS""",
    "x: int8 axis=1 scale=(1.0,2.0)": """InputError: the parameters of `x` do not fit its shape [N,3,8,8]
  at       line 2 of the graph: x: int8 axis=1 scale=(1.0,2.0)
  expected one positive scale for each index of axis 1""",
    "x: int8 scale=-1e999": """InputError: the parameters of `x` do not fit its shape [N,3,8,8]
  at       line 2 of the graph: x: int8 scale=-1e999
  expected one positive scale""",
    "x: int8 scale=(1.0,2.0)": """InputError: the parameters of `x` do not fit its shape [N,3,8,8]
  at       line 2 of the graph: x: int8 scale=(1.0,2.0)
  expected one positive scale""",
    "y = conv(x, w[4,3,9,9])": """InputError: `y` is not a legal conv: nothing is left of its input, the shape is \
(-1, 4, 0, 0)
  at       line 2 of the graph: y = conv(x, w[4,3,9,9])""",
    "y = conv(x, w[4,3,3,3]) stride=(0,0)": """InputError: `y` is not a legal conv: an attribute is not of the \
right form
  at       line 2 of the graph: y = conv(x, w[4,3,3,3]) stride=(0,0)""",
}


@pytest.mark.parametrize("line", CASES)
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(f"{HEAD}  {line}\n  return y\n}}\n")
    assert str(caught.value) == CASES[line]


@given(st.sampled_from(sorted(TEXTS)), st.randoms(use_true_random=False))
def test_damaged_text_is_refused_and_never_crashes(name: str, random: Random) -> None:
    text = dumps(with_random_q(parse(TEXTS[name])))
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(text))
        text = text[:at] + random.choice(["", "(", ")", "[", "=", ",", ":", "0", "-", ".", "x", " "]) + text[at + 1 :]
    with contextlib.suppress(InputError):
        assert dumps(parse(text))  # a harmless change, such as another digit, is still a graph


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "InputError: the text does not begin with a graph\n"
            "  at       line 0 of the graph: (empty)\n"
            "  expected graph NAME(INPUT: [N,C,H,W]) {",
        ),
        (
            "graph g(x: [1,3,8,8]) {\n}",
            "InputError: input `x` does not begin with the batch\n"
            "  at       line 1 of the graph: graph g(x: [1,3,8,8]) {\n"
            "  expected [N,...]",
        ),
        (
            HEAD + "  y = clip(x) lo=0.0 hi=6.0\n",
            "InputError: the text ends before the closing `}`\n"
            "  at       line 2 of the graph: y = clip(x) lo=0.0 hi=6.0\n"
            "  do       the text may have been cut off",
        ),
        (
            HEAD + "  y = clip(x) lo=0.0 hi=6.0\n}",
            "InputError: the graph returns nothing\n  at       line 3 of the graph: }\n  expected a line `return NAME`",
        ),
        (
            HEAD + "  y = clip(x) lo=0.0 hi=6.0\n  return y\n}\nmore",
            "InputError: text after the end of the graph\n  at       line 5 of the graph: more",
        ),
    ],
)
def test_a_wrong_frame_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_data_of_another_shape_is_refused() -> None:
    text = HEAD + "  y = conv(x, w[4,3,3,3])\n  return y\n}"
    with pytest.raises(InputError) as caught:
        parse(text, constants={"w": np.zeros((4, 3, 1, 1), np.float32)})
    assert str(caught.value) == (
        "InputError: the data of `w` has another shape\n"
        "  at       line 2 of the graph: y = conv(x, w[4,3,3,3])\n"
        "  expected [4,3,3,3]\n"
        "  got      [4,3,1,1]"
    )


def test_nan_attributes_cannot_be_written() -> None:
    graph = parse(HEAD + "  y = clip(x) lo=0.0 hi=6.0\n  return y\n}")
    op = Op("clip", ("x",), "y", {"lo": float("nan"), "hi": 6.0})
    with pytest.raises(ValueError, match="an attribute is NaN"):
        dumps(Graph("g", (op,), graph.values, graph.inputs, graph.outputs))
