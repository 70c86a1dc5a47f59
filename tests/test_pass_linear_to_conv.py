"""Linear layers become convolutions, and values stay maps up to the output."""

from __future__ import annotations

from pass_laws import exact, rewritten

from edgecnn.passes.linear_to_conv import linear_to_conv


def converted(inputs: str, *ops: str, result: str = "y") -> tuple[list[str], list[str]]:
    graph = exact(f"graph g(x: {inputs}) {{\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    text, notes = rewritten(graph, linear_to_conv)
    return text, [note for note in notes if note.startswith("linear_to_conv")]


def test_a_classifier_behind_a_global_pool_keeps_its_names_and_ends_in_one_flatten() -> None:
    text, notes = converted(
        "[N,6,3,3]",
        "p = global_pool(x) keepdims=False",
        "fc1 = linear(p, w1[5,6], b1[5])",
        "a = hard_swish(fc1)",
        "y = linear(a, w2[4,5], b2[4]) clip=(0.0,None)",
    )
    assert text == [
        "p = global_pool(x) keepdims=True",
        "fc1 = conv(p, w1[5,6,1,1], b1[5])",
        "a = hard_swish(fc1)",
        "y_map = conv(a, w2[4,5,1,1], b2[4]) clip=(0.0,None)",
        "y = flatten(y_map)",
        "return y",
    ]
    assert notes == ["linear_to_conv: fc1 (a 1x1 convolution)", "linear_to_conv: y (a 1x1 convolution)"]


def test_a_flattened_map_is_read_by_a_kernel_of_its_size() -> None:
    text, notes = converted("[N,2,3,4]", "f = flatten(x)", "a = clip(f) lo=0.0 hi=None", "y = linear(a, w[5,24])")
    assert text[:2] == ["a = clip(x) lo=0.0 hi=None", "y_map = conv(a, w[5,2,3,4])"]
    assert notes == ["linear_to_conv: y (a 3x4 convolution)"]


def test_the_gate_of_a_squeeze_and_excitation_block_written_with_linear_layers() -> None:
    text, _ = converted(
        "[N,4,3,3]",
        "p = global_pool(x)",
        "f = flatten(p)",
        "l1 = linear(f, w1[2,4]) clip=(0.0,None)",
        "l2 = linear(l1, w2[4,2])",
        "g = sigmoid(l2)",
        "r = reshape(g) shape=(-1,4,1,1)",
        "y = mul(x, r)",
    )
    assert text == [
        "p = global_pool(x)",
        "l1 = conv(p, w1[2,4,1,1]) clip=(0.0,None)",
        "l2 = conv(l1, w2[4,2,1,1])",
        "g = sigmoid(l2)",
        "y = mul(x, g)",
        "return y",
    ]


def test_features_that_others_read_too_stay_flat_for_them() -> None:
    text, _ = converted(
        "[N,4,2,2]", "f = flatten(x)", "s = softmax(f) axis=1", "y = linear(f, w[3,16])", result="y, s, f"
    )
    assert "s = softmax(f) axis=1" in text
    assert "y_map = conv(x, w[3,4,2,2])" in text


def test_an_input_of_features() -> None:
    text, _ = converted("[N,6]", "y = linear(x, w[3,6])")
    assert text == [
        "y_in = reshape(x) shape=(-1,6,1,1)",
        "y_map = conv(y_in, w[3,6,1,1])",
        "y = flatten(y_map)",
        "return y",
    ]


def test_a_weight_of_two_layers_stays_whole_for_both() -> None:
    text, _ = converted("[N,4]", "a = linear(x, w[4,4])", "b = sigmoid(a)", "y = linear(b, w)")
    assert [line for line in text if "conv" in line] == ["a = conv(a_in, w_2[4,4,1,1])", "y_map = conv(b, w[4,4,1,1])"]


def test_a_layer_over_the_last_of_three_axes_stays_and_says_why() -> None:
    text, notes = converted("[N,3,2,2]", "r = reshape(x) shape=(-1,3,4)", "y = linear(r, w[5,4])")
    assert text[1] == "y = linear(r, w[5,4])"
    assert notes == ["linear_to_conv: left y: it is over the last of 3 axes, not over channels"]


def test_a_graph_without_linear_layers_is_returned_as_it_is() -> None:
    graph = exact("graph g(x: [N,3,2,2]) {\n y = global_pool(x) keepdims=False\n return y\n}")
    after, notes = linear_to_conv(graph)
    assert after is graph
    assert notes == []
