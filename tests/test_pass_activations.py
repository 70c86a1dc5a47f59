"""Hard sigmoids fold into layers; gates are split off; the one rewrite that changes values says so."""

from __future__ import annotations

import numpy as np
import pytest
from pass_laws import F32_UNIT, exact, outputs, rewritten

from edgecnn.ir.text import parse
from edgecnn.passes.activations import expand_hard_swish, fold_hard_sigmoid, silu_to_hard_swish, split_silu


@pytest.mark.parametrize(
    ("layer", "folded"),
    [
        ("conv(x, w[4,4,1,1], b[4])", "conv(x, w[4,4,1,1], b[4]) clip=(0.0,1.0)"),
        (
            "conv(x, w[4,1,3,3]) groups=4 pad=(1,1,1,1)",
            "conv(x, w[4,1,3,3], w_bias[4]) pad=(1,1,1,1) groups=4 clip=(0.0,1.0)",
        ),
    ],
)
def test_a_hard_sigmoid_folds_into_the_layer_which_takes_its_name(layer: str, folded: str) -> None:
    graph = exact(f"graph g(x: [N,4,5,5]) {{\n c = {layer}\n gate = hard_sigmoid(c)\n y = mul(x, gate)\n return y\n}}")
    text, notes = rewritten(graph, fold_hard_sigmoid, roundings=1)
    assert text == [f"gate = {folded}", "y = mul(x, gate)", "return y"]
    assert notes == ["fold_hard_sigmoid: gate (into `c`)"]


def test_the_folded_numbers_are_a_sixth_rounded_once() -> None:
    graph = parse(
        "graph g(x: [N,3,1,1]) {\n f = flatten(x)\n l = linear(f, w[4,3], b[4])\n y = hard_sigmoid(l)\n return y\n}"
    )
    after, _ = fold_hard_sigmoid(graph)
    for name, exact_value in (("w", graph.const("w") / 6.0), ("b", (graph.const("b").astype(np.float64) + 3) / 6)):
        np.testing.assert_allclose(after.const(name), exact_value, rtol=2.01 * F32_UNIT)


@pytest.mark.parametrize(
    ("ops", "result", "why"),
    [
        (["y = hard_sigmoid(x)"], "y", "`x` is an input of the graph"),
        (["c = sigmoid(x)", "y = hard_sigmoid(c)"], "y", "`c` is made by sigmoid"),
        (["c = add(x, x)", "y = hard_sigmoid(c)"], "y", "`c` is made by add"),
        (["c = conv(x, w[4,4,1,1])", "g = hard_sigmoid(c)", "y = mul(c, g)"], "y", "`c` is also read by `y`"),
        (["c = conv(x, w[4,4,1,1])", "y = hard_sigmoid(c)"], "y, c", "`c` is an output of the graph"),
        (
            ["c = conv(x, w[4,4,1,1]) clip=(0.0,None)", "y = hard_sigmoid(c)"],
            "y",
            "`c` has an activation of its own, (0.0, None)",
        ),
    ],
)
def test_a_hard_sigmoid_that_stays_says_why(ops: list[str], result: str, why: str) -> None:
    graph = exact("graph g(x: [N,4,5,5]) {\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    text, notes = rewritten(graph, fold_hard_sigmoid)
    assert text[:-1] == ops
    assert [note.partition(": left ")[2].partition(": ")[2] for note in notes] == [why]


@pytest.mark.parametrize(
    ("rewrite", "kind", "gate"), [(split_silu, "silu", "sigmoid"), (expand_hard_swish, "hard_swish", "hard_sigmoid")]
)
def test_a_gated_activation_becomes_its_gate_and_a_product_which_keeps_the_name(rewrite, kind: str, gate: str) -> None:
    graph = exact(f"graph g(x: [N,4,5,5]) {{\n a = conv(x, w[4,4,1,1])\n y = {kind}(a)\n return y\n}}")
    text, notes = rewritten(graph, rewrite)
    assert text == ["a = conv(x, w[4,4,1,1])", f"y_{gate} = {gate}(a)", f"y = mul(a, y_{gate})", "return y"]
    assert notes == [f"{rewrite.__name__}: y (x * {gate}(x))"]


def test_hard_swish_for_silu_changes_values_and_says_so() -> None:
    graph = exact("graph g(x: [N,1,1,1]) {\n y = silu(x)\n return y\n}")
    after, notes = silu_to_hard_swish(graph)
    assert [str(note) for note in notes] == ["silu_to_hard_swish: y (CHANGES VALUES: tune the net after this)"]
    x = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(5, 1, 1, 1)
    # x * clip(x + 3, 0, 6) / 6, by hand; one product and one quotient in float64.
    np.testing.assert_allclose(outputs(after, x)[0].ravel(), [0, -1 / 3, 0, 2 / 3, 3], rtol=2**-51)
    assert abs(outputs(after, x)[0] - outputs(graph, x)[0]).max() > 0.01
