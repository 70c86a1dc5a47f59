"""Padding channel spaces keeps the function exactly and widens what integer kernels want wide."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from pass_laws import assert_same, body, dyadic, exact, rewritten
from strategies import graphs

from edgecnn.ir.graph import Graph
from edgecnn.passes.fold_batchnorm import fold_batchnorm
from edgecnn.passes.pad_channels import pad_channels

by4 = partial(pad_channels, multiple=4)


def padded(*ops: str, inputs: str = "[N,4,6,6]", result: str = "y", **options) -> tuple[list[str], list[str]]:
    graph = exact(f"graph g(x: {inputs}) {{\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    return rewritten(graph, partial(pad_channels, **options))


@given(graph=graphs())
def test_padding_keeps_the_function_and_the_ends(graph: Graph) -> None:
    graph, _ = fold_batchnorm(dyadic(graph))
    after, notes = by4(graph)
    assert (after.inputs, after.outputs) == (graph.inputs, graph.outputs)
    assert [after.shape(n) for n in (*after.inputs, *after.outputs)] == [
        graph.shape(n) for n in (*graph.inputs, *graph.outputs)
    ]
    assert_same(graph, after)
    assert bool(body(after) != body(graph)) == any(note.did for note in notes)


@given(graph=graphs())
def test_a_second_run_finds_nothing_to_do(graph: Graph) -> None:
    once, _ = by4(fold_batchnorm(graph)[0])
    twice, notes = by4(once)
    assert body(twice) == body(once)
    assert not [note for note in notes if note.did]


def test_a_depthwise_space_grows_with_its_gate() -> None:
    text, notes = padded(
        "e = conv(x, we[10,4,1,1], be[10]) clip=(0.0,6.0)",
        "d = conv(e, wd[10,1,3,3], bd[10]) pad=(1,1,1,1) groups=10",
        "h = hard_swish(d)",
        "g = global_pool(h)",
        "f1 = conv(g, w1[3,10,1,1], b1[3])",
        "f2 = conv(f1, w2[10,3,1,1], b2[10])",
        "s = sigmoid(f2)",
        "m = mul(h, s)",
        "y = conv(m, wy[6,10,1,1], by[6])",
    )
    assert text == [
        "e = conv(x, we_2[16,4,1,1], be_2[16]) clip=(0.0,6.0)",
        "d = conv(e, wd_2[16,1,3,3], bd_2[16]) pad=(1,1,1,1) groups=16",
        "h = hard_swish(d)",
        "g = global_pool(h)",
        "f1 = conv(g, w1_2[3,16,1,1], b1[3])",
        "f2 = conv(f1, w2_2[16,3,1,1], b2_2[16])",
        "s = sigmoid(f2)",
        "m = mul(h, s)",
        "y = conv(m, wy_2[6,16,1,1], by[6])",
        "return y",
    ]
    assert notes == ["pad_channels: m (10 to 16 channels)"]


def test_a_dense_space_stays_as_it_is() -> None:
    text, notes = padded("a = conv(x, wa[10,4,1,1])", "y = conv(a, wy[6,10,1,1])")
    assert text == ["a = conv(x, wa[10,4,1,1])", "y = conv(a, wy[6,10,1,1])", "return y"]
    assert notes == []


def test_concat_inputs_are_padded_and_their_readers_skip_the_new_channels() -> None:
    text, notes = padded(
        "a = conv(x, wa[10,4,1,1])",
        "b = conv(x, wb[12,4,1,1])",
        "c = concat(a, b) axis=1",
        "d = conv(c, wd[22,1,3,3]) groups=22",
        "y = conv(d, wy[6,22,1,1])",
    )
    assert text == [
        "a = conv(x, wa_2[16,4,1,1])",
        "b = conv(x, wb_2[16,4,1,1])",
        "c = concat(a, b) axis=1",
        "d = conv(c, wd_2[32,1,3,3]) groups=32",
        "y = conv(d, wy_2[6,32,1,1])",
        "return y",
    ]
    assert notes == ["pad_channels: a (10 to 16 channels)", "pad_channels: b (12 to 16 channels)"]


def test_a_flattened_pool_and_a_linear_layer_follow() -> None:
    text, _ = padded(
        "e = conv(x, we[10,4,1,1])",
        "d = conv(e, wd[10,1,3,3]) groups=10",
        "g = global_pool(d)",
        "f = reshape(g) shape=(-1,10)",
        "y = linear(f, wy[5,10], by[5])",
    )
    assert text[3:5] == ["f = reshape(g) shape=(-1,16)", "y = linear(f, wy_2[5,16], by[5])"]


def test_an_image_of_one_channel_does_not_bind_the_stem() -> None:
    text, _ = padded(
        "a = conv(x, wa[10,1,3,3])",
        "d = conv(a, wd[10,1,3,3]) groups=10",
        "y = conv(d, wy[2,10,1,1])",
        inputs="[N,1,8,8]",
    )
    assert text[0] == "a = conv(x, wa_2[16,1,3,3])"


def test_what_cannot_grow_is_named_with_the_reason() -> None:
    assert padded("y = conv(x, w[4,1,3,3]) groups=4")[1] == [
        "pad_channels: left y: `x` is an input or output of the graph"
    ]
    small = ("e = conv(x, we[6,4,1,1])", "d = conv(e, wd[6,1,3,3]) groups=6", "y = conv(d, wy[2,6,1,1])")
    assert padded(*small)[1] == ["pad_channels: left d: 6 channels would become 16"]
    assert padded(*small, growth=3.0)[1] == ["pad_channels: d (6 to 16 channels)"]
    sliced = (
        "e = conv(x, we[10,4,1,1])",
        "d = conv(e, wd[10,1,3,3]) groups=10",
        "s = slice(d) axis=1 start=0 stop=5",
        "y = conv(s, wy[2,5,1,1])",
    )
    assert padded(*sliced)[1] == ["pad_channels: left d: `s` (slice) does not work channel by channel"]


def test_a_concat_that_must_keep_its_width_keeps_its_inputs() -> None:
    text, notes = padded(
        "a = conv(x, wa[10,4,1,1])",
        "b = conv(x, wb[12,4,1,1])",
        "c = concat(a, b) axis=1",
        "r = conv(x, wr[22,4,1,1])",
        "s = add(c, r)",
        "y = conv(s, wy[6,22,1,1])",
    )
    assert text[:2] == ["a = conv(x, wa[10,4,1,1])", "b = conv(x, wb[12,4,1,1])"]
    assert notes == [f"pad_channels: left {n}: `c` (concat) is added to something else" for n in "ab"]
