"""An average pool goes in front of a 1x1 convolution where the values stay and the work shrinks."""

from __future__ import annotations

import pytest
from pass_laws import exact, rewritten

from edgecnn.ir.ops import macs_of
from edgecnn.passes.pool_first import pool_first


def pooled_first(inputs: str, *ops: str) -> tuple[list[str], list[str]]:
    return rewritten(exact(f"graph g(x: {inputs}) {{\n" + "\n".join(ops) + "\nreturn y\n}"), pool_first)


def test_a_densenet_transition_convolves_a_quarter_of_the_pixels() -> None:
    before = exact("""graph g(x: [N,8,6,6]) {
      c = conv(x, w[8,8,1,1], b[8])
      y = avg_pool(c) kernel=(2,2) stride=(2,2)
      return y
    }""")
    text, notes = rewritten(before, pool_first)
    assert text == [
        "y_in = avg_pool(x) kernel=(2,2) stride=(2,2)",
        "y = conv(y_in, w[8,8,1,1], b[8])",
        "return y",
    ]
    assert notes == ["pool_first: y (in front of `c`)"]
    after, _ = pool_first(before)
    assert sum(macs_of(after, op) for op in after.ops) * 4 == sum(macs_of(before, op) for op in before.ops)


def test_windows_cut_off_at_the_border_and_groups_go_too() -> None:
    text, _ = pooled_first(
        "[N,8,6,6]",
        "c = conv(x, w[8,4,1,1], b[8]) groups=2",
        "y = avg_pool(c) kernel=(2,2) stride=(2,2) pad=(1,1,1,1)",  # the divisor is what is inside the image
    )
    assert text == [
        "y_in = avg_pool(x) kernel=(2,2) stride=(2,2) pad=(1,1,1,1)",
        "y = conv(y_in, w[8,4,1,1], b[8]) groups=2",
        "return y",
    ]


def test_means_of_the_whole_image_go_too() -> None:
    text, _ = pooled_first("[N,8,6,6]", "c = conv(x, w[8,8,1,1])", "y = global_pool(c)")
    assert text == ["y_in = global_pool(x)", "y = conv(y_in, w[8,8,1,1])", "return y"]


@pytest.mark.parametrize(
    ("conv", "pool", "why"),
    [
        ("conv(x, w[6,8,1,1]) clip=(0.0,None)", "kernel=(2,2) stride=(2,2)", "`c` has an activation, (0.0, None)"),
        ("conv(x, w[6,8,3,3]) pad=(1,1,1,1)", "kernel=(2,2) stride=(2,2)", "`c` is no 1x1 convolution with stride 1"),
        ("conv(x, w[6,8,1,1]) stride=(2,2)", "kernel=(2,2) stride=(2,2)", "`c` is no 1x1 convolution with stride 1"),
        (
            "conv(x, w[6,8,1,1], b[6])",
            "kernel=(2,2) stride=(2,2) pad=(1,1,1,1) counted=(1,1,1,1)",
            "zeros of the padding count in its means",
        ),
        ("conv(x, w[8,8,1,1])", "kernel=(2,2) stride=(1,1) pad=(1,0,1,0)", "it has as many pixels behind it"),
        (
            "conv(x, w[1,8,1,1])",
            "kernel=(2,2) stride=(2,2)",
            "pooling 8 channels instead of 1 costs more than it saves",
        ),
    ],
)
def test_what_would_change_values_or_cost_more_stays(conv: str, pool: str, why: str) -> None:
    text, notes = pooled_first("[N,8,6,6]", f"c = {conv}", f"y = avg_pool(c) {pool}")
    assert text[0].startswith("c = conv")
    assert notes == [f"pool_first: left y: {why}"]


def test_a_convolution_that_something_else_reads_stays() -> None:
    text, notes = pooled_first(
        "[N,8,6,6]",
        "c = conv(x, w[8,8,1,1])",
        "p = avg_pool(c) kernel=(2,2) stride=(2,2)",
        "q = max_pool(c) kernel=(2,2) stride=(2,2)",
        "y = add(p, q)",
    )
    assert text[0].startswith("c = conv")
    assert notes == ["pool_first: left p: `c` is also read by `q`"]
