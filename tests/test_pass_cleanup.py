"""Idle, repeated and mergeable ops go; constant arithmetic moves into layers; nothing changes its value."""

from __future__ import annotations

import pytest
from pass_laws import exact, rewritten

from edgecnn.passes.cleanup import cleanup


def cleaned(inputs: str, *ops: str, result: str = "y") -> tuple[list[str], list[str]]:
    return rewritten(exact(f"graph g(x: {inputs}) {{\n" + "\n".join(ops) + f"\nreturn {result}\n}}"), cleanup)


@pytest.mark.parametrize(
    "idle",
    [
        "reshape(a) shape=(-1,4,3,3)",
        "transpose(a) perm=(0,1,2,3)",
        "slice(a) axis=2 start=0 stop=3",
        "pad(a) pad=(0,0,0,0)",
        "concat(a) axis=1",
        "channel_shuffle(a) groups=1",
        "channel_shuffle(a) groups=4",
    ],
)
def test_an_idle_op_goes(idle: str) -> None:
    kind = idle.partition("(")[0]
    text, notes = cleaned("[N,4,3,3]", "a = sigmoid(x)", f"i = {idle}", "y = tanh(i)")
    assert text == ["a = sigmoid(x)", "y = tanh(a)", "return y"]
    assert notes == [f"cleanup: i ({kind} without effect)"]


def test_a_clip_without_bounds_goes() -> None:
    # Not run before: PyTorch refuses a clamp without bounds.
    after, _ = cleanup(exact("graph g(x: [N,4,3,3]) {\n a = clip(x) lo=None hi=None\n y = tanh(a)\n return y\n}"))
    assert [op.output for op in after.ops] == ["y"]


def test_an_idle_op_at_the_end_gives_its_name_to_the_op_before() -> None:
    assert cleaned("[N,4,3,3]", "a = sigmoid(x)", "y = pad(a) pad=(0,0,0,0)")[0] == ["y = sigmoid(x)", "return y"]


def test_an_idle_output_stays_where_its_source_is_needed_under_its_own_name() -> None:
    text, notes = cleaned("[N,4,3,3]", "a = sigmoid(x)", "y = pad(a) pad=(0,0,0,0)", result="a, y")
    assert len(text) == 3
    assert notes == []
    assert cleaned("[N,4,3,3]", "y = pad(x) pad=(0,0,0,0)")[1] == []


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("reshape(x) shape=(-1,2,18)", "reshape(a) shape=(-1,9,4)", "reshape(x) shape=(-1,9,4)"),
        ("reshape(x) shape=(-1,2,18)", "flatten(a)", "flatten(x)"),
        ("flatten(x)", "reshape(a) shape=(-1,6,6)", "reshape(x) shape=(-1,6,6)"),
        ("transpose(x) perm=(0,2,3,1)", "transpose(a) perm=(0,2,1,3)", "transpose(x) perm=(0,3,2,1)"),
        ("slice(x) axis=1 start=1 stop=4", "slice(a) axis=1 start=1 stop=2", "slice(x) axis=1 start=2 stop=3"),
        ("pad(x) pad=(1,0,2,0) value=0.5", "pad(a) pad=(0,1,1,1) value=0.5", "pad(x) pad=(1,1,3,1) value=0.5"),
        ("clip(x) lo=0.0 hi=None", "clip(a) lo=None hi=6.0", "clip(x) lo=0.0 hi=6.0"),
        ("clip(x) lo=-1.0 hi=0.5", "clip(a) lo=0.0 hi=6.0", "clip(x) lo=0.0 hi=0.5"),
        ("clip(x) lo=-1.0 hi=-0.5", "clip(a) lo=0.0 hi=6.0", "clip(x) lo=0.0 hi=0.0"),
    ],
)
def test_two_ops_of_a_kind_become_one(first: str, second: str, merged: str) -> None:
    text, notes = cleaned("[N,4,3,3]", f"a = {first}", f"y = {second}")
    assert text == [f"y = {merged}", "return y"]
    assert notes == [f"cleanup: y ({first.partition('(')[0]} `a` merged into it)"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("slice(x) axis=1 start=1 stop=4", "slice(a) axis=2 start=1 stop=2"),
        ("pad(x) pad=(1,0,2,0) value=0.5", "pad(a) pad=(0,1,1,1) value=0.0"),
        ("pad(x) pad=(1,1,1,1)", "pad(a) pad=(-1,0,0,0)"),
        ("pad(x) pad=(1,1,1,1) value=(0.0,0.0,0.5,0.0)", "conv(a, w[2,4,3,3])"),
        ("pad(x) pad=(1,1,-1,0)", "conv(a, w[2,4,3,2])"),
        ("pad(x) pad=(1,1,1,1)", "max_pool(a) kernel=(2,2) stride=(1,1)"),
    ],
)
def test_what_does_not_merge_stays(first: str, second: str) -> None:
    assert cleaned("[N,4,3,3]", f"a = {first}", f"y = {second}")[1] == []


def test_a_merged_op_that_others_read_stays_for_them() -> None:
    text, _ = cleaned("[N,4,3,3]", "a = flatten(x)", "b = reshape(a) shape=(-1,6,6)", "y = sigmoid(a)", result="b, y")
    assert text == ["a = flatten(x)", "b = reshape(x) shape=(-1,6,6)", "y = sigmoid(a)", "return b, y"]


def test_zero_padding_moves_into_each_convolution_that_reads_it() -> None:
    text, _ = cleaned(
        "[N,4,6,6]",
        "p = pad(x) pad=(0,1,0,1)",
        "a = conv(p, w[4,1,3,3]) pad=(1,0,0,1) stride=(2,2) groups=4",
        "b = conv(p, u[4,4,3,3]) pad=(1,0,0,1) stride=(2,2)",
        "y = add(a, b)",
    )
    assert text[0].startswith("a = conv(x, w[4,1,3,3]) stride=(2,2) pad=(1,1,0,2) groups=4")
    assert text[1].startswith("b = conv(x, u[4,4,3,3]) stride=(2,2) pad=(1,1,0,2)")


def test_repeated_ops_are_computed_once_unless_they_are_outputs() -> None:
    half = "slice(x) axis=1 start=0 stop=2"
    text, notes = cleaned("[N,4,3,3]", f"a = {half}", f"b = {half}", "y = mul(a, b)")
    assert text == [f"a = {half}", "y = mul(a, a)", "return y"]
    assert notes == ["cleanup: b (the same as `a`)"]
    assert cleaned("[N,4,3,3]", f"a = {half}", f"b = {half}", result="a, b")[1] == []


def test_ops_that_differ_in_an_attribute_are_not_the_same() -> None:
    ops = ("a = slice(x) axis=1 start=0 stop=2", "b = slice(x) axis=1 start=2 stop=4", "y = mul(a, b)")
    assert cleaned("[N,4,3,3]", *ops) == ([*ops, "return y"], [])


def test_a_default_that_is_written_out_does_not_hide_a_repetition() -> None:
    text, _ = cleaned("[N,4,3,3]", "a = conv(x, w[4,4,1,1])", "b = conv(x, w) groups=1 stride=(1,1)", "y = mul(a, b)")
    assert text[1:] == ["y = mul(a, a)", "return y"]


@pytest.mark.parametrize("constant", ["q[]", "q[1]", "q[4,1,1]", "q[1,4,1,1]"])
@pytest.mark.parametrize(
    "formula", ["mul(c, {})", "mul({}, c)", "add(c, {})", "add({}, c)", "sub(c, {})", "sub({}, c)"]
)
def test_constant_arithmetic_moves_into_the_layer(constant: str, formula: str) -> None:
    line = formula.format(constant)
    text, notes = cleaned("[N,3,5,5]", "c = conv(x, w[4,3,3,3], b[4])", f"y = {line} clip=(-1.0,None)")
    assert text == ["y = conv(x, w[4,3,3,3], b[4]) clip=(-1.0,None)", "return y"]
    assert notes == ["cleanup: y (constant into `c`)"]


def test_constant_arithmetic_behind_a_linear_layer() -> None:
    text, _ = cleaned("[N,3,1,1]", "f = flatten(x)", "c = linear(f, w[4,3])", "y = mul(c, q[4])")
    assert text == ["f = flatten(x)", "y = linear(f, w[4,3])", "return y"]


def test_a_positive_factor_scales_the_activation_of_the_layer_along() -> None:
    # The hard sigmoid as some write it: relu6(x + 3) / 6; a power of two instead of six, to be exact.
    graph = exact("""graph g(x: [N,3,5,5]) {
      c = conv(x, w[4,3,3,3], b[4]) clip=(0.0,8.0)
      y = mul(c, q[])
      return y
    }""")
    factor = abs(float(graph.const("q")))
    graph.const("q")[...] = factor
    text, _ = rewritten(graph, cleanup)
    assert text == [f"y = conv(x, w[4,3,3,3], b[4]) clip=(0.0,{8.0 * factor})", "return y"]
    graph.const("q")[...] = -factor
    text, notes = rewritten(graph, cleanup)
    assert len(text) == 3
    assert notes == ["cleanup: left y: `c` has an activation of its own, (0.0, 8.0)"]


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        (["y = mul(x, q[4,1,1])"], "`x` is an input of the graph"),
        (["c = conv(x, w[4,4,1,1])", "y = mul(c, q[3])"], "the constant `q` is not one number per channel"),
        (["c = conv(x, w[4,4,1,1])", "y = mul(c, q[4,3,3])"], "the constant `q` is not one number per channel"),
        (["c = conv(x, w[1,4,1,1])", "y = mul(c, q[4,1,1])"], "the constant `q` widens `c`"),
        (["c = conv(x, w[4,4,1,1])", "d = sigmoid(c)", "e = add(c, q[])", "y = mul(d, e)"], "`c` is also read by `d`"),
    ],
)
def test_constant_arithmetic_that_stays_says_why(ops: list[str], why: str) -> None:
    text, notes = cleaned("[N,4,3,3]", *ops)
    assert text[:-1] == ops
    [note] = notes
    assert note.endswith(f": {why}")


def test_one_rewrite_makes_way_for_the_next() -> None:
    text, _ = cleaned(
        "[N,3,5,5]",
        "c = conv(x, w[4,3,3,3])",
        "i = slice(c) axis=1 start=0 stop=4",
        "a = add(i, q[])",
        "j = reshape(a) shape=(-1,4,3,3)",
        "y = mul(j, s[4,1,1])",
    )
    assert text == ["y = conv(x, w[4,3,3,3], w_bias[4])", "return y"]
