"""Heterogeneous convolutions are found, counted, and brought into each form without changing a value."""

from __future__ import annotations

import pytest
from pass_laws import assert_same, exact, rewritten

from edgecnn.errors import UsageError
from edgecnn.passes.hetconv import FORMS, find_hetconv, hetconv
from edgecnn.passes.standard import STANDARD, run_passes

LAYER = """graph g(x: [N,8,7,6]) {
  wide = conv(x, w[4,2,3,3], b[4]) groups=4 pad=(1,1,1,1)
  point = conv(x, p[4,8,1,1], c[4])
  y = add(wide, point) clip=(0.0,None)
  return y
}"""


def test_the_layer_is_found_with_its_part_and_what_each_form_executes() -> None:
    [layer] = find_hetconv(exact(LAYER))
    assert (layer.part, layer.tap, layer.sum.output) == (4, (1, 1), "y")
    pixels = 7 * 6
    assert layer.macs == {
        "grouped": pixels * (9 * 8 * 4 // 4 + 8 * 4),
        "split": pixels * (9 * 8 * 4 // 4 + 8 * 4),
        "dense": pixels * 9 * 8 * 4,
    }
    assert str(layer) == "HetConv P=4: multiply-adds grouped 0.00 M, split 0.00 M, dense 0.01 M"


def test_grouped_leaves_it_as_it_is() -> None:
    text, notes = rewritten(exact(LAYER), hetconv("grouped"))
    assert len(text) == 4
    assert notes == ["hetconv: left y: P=4 stays grouped"]


def test_dense_is_one_convolution() -> None:
    text, notes = rewritten(exact(LAYER), hetconv("dense"))
    assert text == ["y = conv(x, y_weight[4,8,3,3], y_bias[4]) pad=(1,1,1,1) groups=1 clip=(0.0,None)", "return y"]
    assert notes == ["hetconv: y (P=4 as dense)"]


def test_split_is_slices_convolutions_and_a_concatenation() -> None:
    text, notes = rewritten(exact(LAYER.replace("groups=4", "groups=2").replace("w[4,2", "w[4,4")), hetconv("split"))
    assert text == [
        "wide_in0 = slice(x) axis=1 start=0 stop=4",
        "wide_part0 = conv(wide_in0, w_0[2,4,3,3], b_0[2]) pad=(1,1,1,1) groups=1",
        "wide_in1 = slice(x) axis=1 start=4 stop=8",
        "wide_part1 = conv(wide_in1, w_1[2,4,3,3], b_1[2]) pad=(1,1,1,1) groups=1",
        "wide = concat(wide_part0, wide_part1) axis=1",
        "point = conv(x, p[4,8,1,1], c[4])",
        "y = add(wide, point) clip=(0.0,None)",
        "return y",
    ]
    assert notes == ["hetconv: y (P=2 as split)"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("wide", "point"),
    [
        ("w[4,2,3,3]) groups=4 pad=(1,1,1,1) stride=(2,2)", "p[4,8,1,1]) stride=(2,2)"),
        ("w[4,2,3,3], d[4]) groups=4 pad=(2,2,2,2) dilation=(2,2)", "p[4,8,1,1])"),
        ("w[4,2,5,3]) groups=4 pad=(2,2,1,1)", "p[4,8,1,1], c[4])"),
        ("w[4,2,3,3]) groups=4 pad=(0,2,2,0)", "p[4,8,1,1])"),
        ("w[4,2,3,3]) groups=4 pad=(2,1,1,2)", "p[4,8,1,1]) pad=(1,0,0,1)"),
        ("w[8,1,3,3]) groups=8 pad=(1,1,1,1)", "p[8,8,1,1])"),
    ],
)
def test_each_form_computes_the_same(form: str, wide: str, point: str) -> None:
    lines = [f"a = conv(x, {wide}", f"b = conv(x, {point}", "y = add(b, a)", "return y"]
    graph = exact("graph g(x: [N,8,7,6]) {\n" + "\n".join(lines) + "\n}")
    assert len(find_hetconv(graph)) == 1
    rewritten(graph, hetconv(form))


@pytest.mark.parametrize(
    ("wide", "point", "join"),
    [
        ("a = conv(x, w[4,8,3,3]) pad=(1,1,1,1)", "b = conv(x, p[4,8,1,1])", "y = add(a, b)"),  # P = 1
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(x, p[4,4,1,1]) groups=2", "y = add(a, b)"),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(a, p[4,4,1,1])", "y = add(a, b)"),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(x, p[4,8,1,1])", "y = sub(a, b)"),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(x, p[4,8,1,1]) clip=(0.0,None)", "y = add(a, b)"),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(x, p[4,8,3,3]) pad=(1,1,1,1)", "y = add(a, b)"),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = sigmoid(a)", "y = add(a, b)"),
        (
            "a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1) dilation=(2,2)",
            "b = conv(x, p[4,8,1,1])",
            "y = concat(a, a) axis=1",
        ),
        ("a = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)", "b = conv(x, p[4,8,1,1])", "y = add(a, a)"),
        # Dilated by two and padded by one, no tap falls on the pixel of the pointwise kernel.
        ("a = conv(x, w[4,2,2,2]) groups=4 pad=(1,1,1,1) dilation=(2,2)", "b = conv(x, p[4,8,1,1])", "y = add(a, b)"),
        # The taps begin at the next pixel.
        ("a = conv(x, w[4,2,2,2]) groups=4 pad=(2,-1,2,-1)", "b = conv(x, p[4,8,1,1])", "y = add(a, b)"),
    ],
)
def test_what_is_no_hetconv(wide: str, point: str, join: str) -> None:
    graph = exact(f"graph g(x: [N,8,7,6]) {{\n{wide}\n{point}\n{join}\nreturn y\n}}")
    assert find_hetconv(graph) == []


def test_a_branch_that_is_needed_elsewhere_is_left() -> None:
    graph = exact(LAYER.replace("return y", "return y, wide"))
    assert find_hetconv(graph) == []


def test_with_batch_norm_and_activation_all_folds_into_one_dense_convolution() -> None:
    graph = exact("""graph g(x: [N,8,7,6]) {
      wide = conv(x, w[4,2,3,3]) groups=4 pad=(1,1,1,1)
      point = conv(x, p[4,8,1,1])
      s = add(wide, point)
      n = batch_norm(s, g[4], be[4], m[4], v[4]) eps=0.001
      y = clip(n) lo=0.0 hi=None
      return y
    }""")
    after, _ = run_passes(graph, (*STANDARD, hetconv("dense")))
    assert [op.kind for op in after.ops] == ["conv"]
    assert_same(graph, after)


def test_an_unknown_form() -> None:
    with pytest.raises(UsageError) as caught:
        hetconv("denes")
    assert str(caught.value) == (
        "UsageError: unknown HetConv form `denes`\n"
        "  expected one of dense, grouped, split\n"
        "  do       did you mean `dense`?"
    )
