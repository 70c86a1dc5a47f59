"""The normalisation of the input moves into the first convolutions, exactly, borders included."""

from __future__ import annotations

import numpy as np
import pytest
from pass_laws import F32_UNIT, F64_UNIT, body, exact, outputs

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse
from edgecnn.passes.embed_normalization import embed_normalization

# In these units every step is exact: pixels of 0...256, means in 256ths, standard deviations powers of two.
MEAN, STD, SCALE = (0.5, 0.25, 0.375), (0.25, 0.5, 0.125), 256
PIXELS = np.random.default_rng(0).integers(0, 257, (2, 3, 9, 8)).astype(np.float64)


def normalized(pixels: np.ndarray) -> np.ndarray:
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (MEAN, STD))
    return (pixels / SCALE - mean) / std


def embedded(*ops: str, result: str = "y", pad_per_channel: bool = True) -> tuple[Graph, list[str]]:
    """The graph after the pass, proved to give for pixels what it gave for the normalised image, bit for bit."""
    graph = exact("graph g(x: [N,3,9,8]) {\n" + "\n".join(ops) + f"\nreturn {result}\n}}")
    after, notes = embed_normalization(MEAN, STD, input_scale=SCALE, pad_per_channel=pad_per_channel)(graph)
    for was, now in zip(outputs(graph, normalized(PIXELS)), outputs(after, PIXELS), strict=True):
        np.testing.assert_array_equal(now, was)
    return after, [str(note) for note in notes]


def test_padding_moves_out_with_the_pixel_that_was_zero() -> None:
    after, notes = embedded("y = conv(x, w[4,3,3,3], b[4]) stride=(2,2) pad=(0,1,2,1) clip=(0.0,None)")
    assert body(after) == [
        "x_pad = pad(x) pad=(0,1,2,1) value=(128.0,64.0,96.0)",
        "y = conv(x_pad, w[4,3,3,3], b[4]) stride=(2,2) pad=(0,0,0,0) clip=(0.0,None)",
        "return y",
    ]
    assert notes == ["embed_normalization: x (into `y`, padded by `x_pad`)"]


def test_a_pad_op_in_front_of_the_convolution_counts_as_its_padding() -> None:
    after, notes = embedded("p = pad(x) pad=(1,0,1,0)", "y = conv(p, w[4,3,3,3]) pad=(0,1,0,1)")
    assert body(after)[0] == "x_pad = pad(x) pad=(1,1,1,1) value=(128.0,64.0,96.0)"
    assert notes[-1] == "embed_normalization: x (into `y`, padded by `x_pad`)"


def test_without_padding_no_op_is_added() -> None:
    after, notes = embedded("y = conv(x, w[4,3,3,3]) stride=(2,2)")
    assert body(after) == ["y = conv(x, w[4,3,3,3], w_bias[4]) stride=(2,2) pad=(0,0,0,0)", "return y"]
    assert notes == ["embed_normalization: x (into `y`)"]


def test_depthwise_and_dilated_convolutions() -> None:
    after, _ = embedded("y = conv(x, w[6,1,3,3]) groups=3 pad=(2,2,2,2) dilation=(2,2)")
    assert [op.kind for op in after.ops] == ["pad", "conv"]


def test_convolutions_with_the_same_padding_share_one_pad_even_if_they_share_a_weight() -> None:
    after, _ = embedded(
        "a = conv(x, w[4,3,3,3]) pad=(1,1,1,1)",
        "b = conv(x, w) pad=(1,1,1,1) clip=(0.0,None)",
        "c = conv(x, v[4,3,5,5]) pad=(2,2,2,2)",
        "d = conv(x, u[4,3,1,1])",
        "s = add(a, b)",
        "t = add(c, d)",
        "y = add(s, t)",
    )
    pads = {op.output: op.attrs["pad"] for op in after.ops if op.kind == "pad"}
    assert pads == {"x_pad": (1, 1, 1, 1), "x_pad_2": (2, 2, 2, 2)}
    assert [after.makers[name].inputs[0] for name in "abcd"] == ["x_pad", "x_pad", "x_pad_2", "x"]


@pytest.mark.parametrize(
    ("ops", "result", "options", "why"),
    [
        (["y = max_pool(x) kernel=(2,2) stride=(2,2)"], "y", {}, "`y`, which is max_pool, reads it"),
        (["c = conv(x, w[3,3,1,1])", "y = add(c, x)"], "y", {}, "`y`, which is add, reads it"),
        (["y = conv(x, w[3,3,1,1])"], "y, x", {}, "`x` is also an output of the graph"),
        (
            ["y = conv(x, w[3,3,3,3]) pad=(1,1,1,1)"],
            "y",
            {"pad_per_channel": False},
            "`y` pads, and the target cannot pad with a value per channel",
        ),
    ],
)
def test_otherwise_a_depthwise_layer_normalises(ops: list[str], result: str, options: dict, why: str) -> None:
    after, notes = embedded(*ops, result=result, **options)
    assert body(after)[0] == "x_normalized = conv(x, x_normalized_weight[3,1,1,1], x_normalized_bias[3]) groups=3"
    assert notes == [f"embed_normalization: x (by a depthwise 1x1 convolution `x_normalized`, because {why})"]


def test_a_target_that_cannot_pad_still_embeds_where_nothing_pads() -> None:
    after, _ = embedded("y = conv(x, w[4,3,3,3])", pad_per_channel=False)
    assert [op.output for op in after.ops] == ["y"]


def test_imagenet_numbers_to_the_rounding_of_float32_borders_included() -> None:
    graph = parse("graph g(x: [N,3,9,8]) {\n y = conv(x, w[4,3,3,3], b[4]) stride=(2,2) pad=(1,1,1,1)\n return y\n}")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    after, _ = embed_normalization(mean, std)(graph)
    pixels = np.minimum(PIXELS, 255)
    x = (pixels / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    was, now = outputs(graph, x)[0], outputs(after, pixels)[0]
    # Each weight and bias is off by at most 2^-24 of itself. The product of a weight with a pixel (padding is a pixel
    # too) is at most |w| times the largest p / (255 std); the new bias is at most |b| + |w| mean / std.
    largest_pixel = np.max(1 / np.array(std))
    per_channel = np.abs(graph.const("w")).sum((1, 2, 3)) * (largest_pixel + np.max(np.divide(mean, std)))
    bound = (per_channel + np.abs(graph.const("b"))) * (F32_UNIT + 2 * 30 * F64_UNIT)
    assert (np.abs(now - was).max((0, 2, 3)) < bound).all()


def test_one_number_serves_all_channels() -> None:
    graph = exact("graph g(x: [N,3,9,8]) {\n y = conv(x, w[4,3,3,3]) pad=(1,1,1,1)\n return y\n}")
    after, _ = embed_normalization([0.5], [0.5], input_scale=SCALE)(graph)
    assert after.ops[0].attrs["value"] == (128.0, 128.0, 128.0)
    np.testing.assert_array_equal(outputs(after, PIXELS)[0], outputs(graph, PIXELS / 128 - 1)[0])


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (
            (0.5, 0.5),
            (1.0,),
            "UsageError: `mean` does not fit the input `x` of `g`\n"
            "  expected 1 or 3 numbers\n"
            "  got      2: (0.5, 0.5)\n"
            "  do       give one number per channel of the image",
        ),
        (
            (0.5,),
            (1.0, 0.0, 1.0),
            "UsageError: `std` must be positive\n  at       g\n  expected numbers above 0\n  got      (1.0, 0.0, 1.0)",
        ),
    ],
)
def test_wrong_numbers(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    graph = exact("graph g(x: [N,3,9,8]) {\n y = conv(x, w[4,3,3,3])\n return y\n}")
    with pytest.raises(UsageError) as caught:
        embed_normalization(mean, std)(graph)
    assert str(caught.value) == message


def test_only_images_can_be_normalised() -> None:
    graph = exact("graph g(x: [N,3]) {\n y = linear(x, w[4,3])\n return y\n}")
    with pytest.raises(UsageError, match="only images can be normalised inside the graph"):
        embed_normalization((0.5,), (1.0,))(graph)
