"""Batch norms fold into the layers before them, else after them, else become a layer; exactly."""

from __future__ import annotations

import numpy as np
import pytest
from pass_laws import F32_UNIT, assert_same, exact, images, outputs, rewritten

from edgecnn.ir.text import parse
from edgecnn.passes.fold_batchnorm import fold_batchnorm

NORM = "g[4], b[4], m[4], v[4]) eps=0.001"


def test_into_the_convolution_before_which_takes_the_name_of_the_norm() -> None:
    graph = exact(f"""graph g(x: [N,2,6,5]) {{
      c = conv(x, w[4,2,3,3], a[4]) stride=(2,1) pad=(1,0,0,1)
      n = batch_norm(c, {NORM}
      y = clip(n) lo=0.0 hi=None
      return y
    }}""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text == [
        "n = conv(x, w[4,2,3,3], a[4]) stride=(2,1) pad=(1,0,0,1)",
        "y = clip(n) lo=0.0 hi=None",
        "return y",
    ]
    assert notes == ["fold_batchnorm: n (into `c`)"]


def test_a_convolution_without_bias_gets_one_named_after_its_weight() -> None:
    graph = exact(f"""graph g(x: [N,4,6,5]) {{
      c = conv(x, stem.weight[4,1,3,3]) groups=4
      y = batch_norm(c, {NORM}
      return y
    }}""")
    text, _ = rewritten(graph, fold_batchnorm)
    assert text[0] == "y = conv(x, stem.weight[4,1,3,3], stem_bias[4]) groups=4"


def test_eps_and_any_numbers_to_the_rounding_of_float32() -> None:
    graph = parse(f"""graph g(x: [N,3,7,7]) {{
      c = conv(x, w[4,3,3,3], a[4])
      y = batch_norm(c, {NORM}
      return y
    }}""")
    after, _ = fold_batchnorm(graph)
    assert_same(graph, after, roundings=1)
    gamma, beta, mean, var = (graph.const(name).astype(np.float64) for name in "gbmv")
    scale = gamma / np.sqrt(var + 0.001)
    bias = (graph.const("a").astype(np.float64) - mean) * scale + beta
    # The stored numbers are the exact ones rounded once (a unit of float32, and one of float64 for the formula here).
    np.testing.assert_allclose(after.const("w"), graph.const("w") * scale.reshape(-1, 1, 1, 1), rtol=1.01 * F32_UNIT)
    np.testing.assert_allclose(after.const("a"), bias, rtol=1.01 * F32_UNIT, atol=1e-15)


def test_each_call_of_a_shared_convolution_gets_its_own_fold() -> None:
    # pytorch/pytorch#197539: folding in place scaled the weight of both calls twice.
    graph = exact("""graph g(x: [N,2,6,6]) {
      c1 = conv(x, w[2,2,3,3], a[2]) pad=(1,1,1,1)
      n1 = batch_norm(c1, g1[2], b1[2], m1[2], v1[2]) eps=0.001
      c2 = conv(n1, w, a) pad=(1,1,1,1)
      n2 = batch_norm(c2, g2[2], b2[2], m2[2], v2[2]) eps=0.001
      c3 = conv(n2, w, a) pad=(1,1,1,1)
      return c3
    }""")
    text, _ = rewritten(graph, fold_batchnorm)
    assert text[:3] == [
        "n1 = conv(x, w_2[2,2,3,3], a_2[2]) pad=(1,1,1,1)",
        "n2 = conv(n1, w_3[2,2,3,3], a_3[2]) pad=(1,1,1,1)",
        "c3 = conv(n2, w[2,2,3,3], a[2]) pad=(1,1,1,1)",
    ]


def test_a_linear_layer_and_two_norms_in_a_row() -> None:
    graph = exact("""graph g(x: [N,3,2,2]) {
      f = flatten(x)
      l = linear(f, w[4,12])
      n = batch_norm(l, g[4], b[4], m[4], v[4]) eps=0.1
      y = batch_norm(n, g2[4], b2[4], m2[4], v2[4]) eps=0.1
      return y
    }""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text == ["f = flatten(x)", "y = linear(f, w[4,12], w_bias[4])", "return y"]
    assert notes == ["fold_batchnorm: n (into `l`)", "fold_batchnorm: y (into `n`)"]


def test_through_the_sum_of_two_branches_with_the_shift_in_the_first_alone() -> None:
    graph = exact(f"""graph g(x: [N,4,6,6]) {{
      wide = conv(x, w[4,2,3,3]) groups=2 pad=(1,1,1,1)
      point = conv(x, p[4,4,1,1])
      s = add(wide, point)
      y = batch_norm(s, {NORM}
      return y
    }}""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text == [
        "wide = conv(x, w[4,2,3,3], w_bias[4]) pad=(1,1,1,1) groups=2",
        "point = conv(x, p[4,4,1,1])",
        "y = add(wide, point)",
        "return y",
    ]
    assert notes == ["fold_batchnorm: y (into `wide`, `point`)"]


def test_through_a_channel_shuffle() -> None:
    graph = exact("""graph g(x: [N,6,5,5]) {
      c = conv(x, w[6,2,1,1], a[6]) groups=3
      s = channel_shuffle(c) groups=2
      y = batch_norm(s, g[6], b[6], m[6], v[6]) eps=0.001
      return y
    }""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text == ["c = conv(x, w[6,2,1,1], a[6]) groups=3", "y = channel_shuffle(c) groups=2", "return y"]
    assert notes == ["fold_batchnorm: y (into `c`)"]


def test_through_differences_and_concatenations_of_layers() -> None:
    graph = exact("""graph g(x: [N,4,6,6]) {
      a = conv(x, wa[3,4,1,1])
      b = conv(x, wb[3,4,1,1], bb[3])
      d = sub(a, b)
      c = conv(x, wc[2,4,1,1], bc[2])
      k = concat(c, d) axis=1
      y = batch_norm(k, g[5], be[5], m[5], v[5]) eps=0.001
      return y
    }""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text[-2:] == ["y = concat(c, d) axis=1", "return y"]
    assert notes == ["fold_batchnorm: y (into `c`, `a`, `b`)"]


def test_forward_into_convolutions_that_do_not_pad() -> None:
    graph = exact(f"""graph g(x: [N,4,6,6]) {{
      n = batch_norm(x, {NORM}
      c = conv(n, wc[6,2,3,3]) groups=2 stride=(2,2) clip=(0.0,None)
      d = conv(n, wd[6,4,3,3], bd[6]) stride=(2,2)
      y = add(c, d)
      return y
    }}""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text == [
        "c = conv(x, wc[6,2,3,3], wc_bias[6]) stride=(2,2) groups=2 clip=(0.0,None)",
        "d = conv(x, wd[6,4,3,3], bd[6]) stride=(2,2)",
        "y = add(c, d)",
        "return y",
    ]
    assert notes == ["fold_batchnorm: n (forward into `c`, `d`)"]


LAYER = "c = conv(x, w[4,4,1,1])"
PART = "d = conv(x, w[2,4,1,1])"
PADDED = "y = conv(n, u[4,4,3,3]) pad=(1,1,1,1)"
ZEROS = "`y` behind it pads with zeros, which the shift would have to reach"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ([], PADDED, f"`x` is an input of the graph; {ZEROS}"),
        ([], "y = clip(n) lo=0.0 hi=None", "`x` is an input of the graph; `y` behind it is clip"),
        ([LAYER], "y = add(n, c)", "`c` is also read by `y`; `y` behind it is add"),
        ([LAYER + " clip=(0.0,None)"], PADDED, f"`c` has an activation of its own, (0.0, None); {ZEROS}"),
        (["c = max_pool(x) kernel=(2,2) stride=(1,1)"], PADDED, f"`c` is made by max_pool; {ZEROS}"),
        (
            ["d = conv(x, w[4,4,1,1])", "c = add(d, d)"],
            PADDED,
            f"the operands of `c` are not two branches of 4 channels; {ZEROS}",
        ),
        (["d = conv(x, w[4,4,1,1])", "c = mul(d, x)"], PADDED, f"`c` is made by mul; {ZEROS}"),
        (["d = conv(x, w[4,4,1,1])", "c = add(d, q[1,4,1,1])"], PADDED, f"`q` is a constant; {ZEROS}"),
        ([PART, "c = concat(d, d) axis=1"], PADDED, f"`c` reads one value twice; {ZEROS}"),
        (
            ["d = conv(x, w[4,4,1,1])", "c = add(d, x) clip=(0.0,None)"],
            PADDED,
            f"`c` is made by add with an activation; {ZEROS}",
        ),
    ],
)
def test_what_cannot_be_folded_becomes_a_depthwise_layer_and_says_why(before: list[str], after: str, why: str) -> None:
    source = "c" if before else "x"
    ops = "\n".join([*before, f"n = batch_norm({source}, {NORM}", after])
    graph = exact(f"graph g(x: [N,4,6,6]) {{\n{ops}\nreturn y\n}}")
    text, notes = rewritten(graph, fold_batchnorm)
    assert f"n = conv({source}, n_weight[4,1,1,1], n_bias[4]) groups=4" in text
    assert notes == [f"fold_batchnorm: left n: {why}; it becomes a depthwise 1x1 layer of its own"]


def test_outputs_of_the_graph_are_not_folded_away() -> None:
    graph = exact(f"graph g(x: [N,4,6,6]) {{\n{LAYER}\nn = batch_norm(c, {NORM}\nreturn c, n\n}}")
    _, notes = rewritten(graph, fold_batchnorm)
    assert notes == [
        "fold_batchnorm: left n: `c` is an output of the graph; `n` is an output of the graph; "
        "it becomes a depthwise 1x1 layer of its own"
    ]


def test_alone_on_features_it_becomes_a_diagonal_linear_layer() -> None:
    graph = exact(f"""graph g(x: [N,4,3,3]) {{
      p = global_pool(x) keepdims=False
      y = batch_norm(p, {NORM}
      return y
    }}""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text[1] == "y = linear(p, y_weight[4,4], y_bias[4])"
    assert notes == [
        "fold_batchnorm: left y: `p` is made by global_pool; `y` is an output of the graph; "
        "it becomes a diagonal linear layer of its own"
    ]


def test_over_three_axes_it_stays() -> None:
    graph = exact(f"""graph g(x: [N,4,3,3]) {{
      r = reshape(x) shape=(-1,4,9)
      y = batch_norm(r, {NORM}
      return y
    }}""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert text[1].startswith("y = batch_norm(r")
    assert notes[0].endswith("and a value of 3 axes has no layer to become")


def test_a_linear_layer_over_the_last_axis_does_not_take_a_norm_over_channels() -> None:
    graph = exact("""graph g(x: [N,3,2,2]) {
      r = reshape(x) shape=(-1,3,4)
      l = linear(r, w[3,4])
      n = batch_norm(l, g[3], b[3], m[3], v[3]) eps=0.1
      y = linear(n, u[2,3])
      return y
    }""")
    text, notes = rewritten(graph, fold_batchnorm)
    assert len(text) == 5
    assert notes[0].startswith("fold_batchnorm: left n: `l` is a linear layer over its last axis, not over channels;")


def test_where_float32_can_hold_the_folded_numbers_the_outputs_are_bit_identical() -> None:
    graph = exact(f"""graph g(x: [N,4,9,9]) {{
      c = conv(x, w[4,4,3,3], a[4]) pad=(1,1,1,1)
      y = batch_norm(c, {NORM}
      return y
    }}""")
    after, _ = fold_batchnorm(graph)
    # Every product and every partial sum has fewer than 53 bits, so that not even the order of summation can be seen.
    x = images(graph)
    assert (outputs(after, x)[0] == outputs(graph, x)[0]).all()
