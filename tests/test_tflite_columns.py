"""Columns read as channels: no code changes, whatever the shape, and the choice follows the cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litert_runs import TARGETS, emitted, images, load, quantised

from edgecnn.ir.graph import Graph
from edgecnn.ir.quantized import run_codes
from edgecnn.ir.text import parse
from edgecnn.passes.standard import run_passes
from edgecnn.targets import tflite_columns
from edgecnn.targets.tflite_columns import Grouping


def conv(channels: int, height: int, width: int, outputs: int, kernel: int, stride: int, pad: tuple[int, ...]) -> Graph:
    return parse(
        f"graph one(x: [N,{channels},{height},{width}]) {{\n"
        f"  y = conv(x, w[{outputs},{channels},{kernel},{kernel}], b[{outputs}]) stride=({stride},{stride}) pad={pad}\n"
        "  return y\n}"
    )


@st.composite
def convolutions(draw: st.DrawFn) -> Graph:
    kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([1, 2]))
    channels, outputs = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    height, width = draw(st.integers(5, 9)), draw(st.sampled_from([8, 12, 16, 24]))
    pad = tuple(draw(st.integers(0, kernel // 2)) for _ in range(4))
    return conv(channels, height, width, outputs, kernel, stride, pad)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(convolutions())
def test_no_code_changes(graph: Graph) -> None:
    codes_graph = quantised(graph)
    x = codes_graph.value("x").q.quantize(images(graph, n=1))
    found = load(emitted(codes_graph, cpu="x86-amx").data)
    assert found.partitions == 1
    assert np.array_equal(found.run(x), run_codes(codes_graph, x)[0])


@pytest.mark.parametrize("columns", [2, 4, 8, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_grouping_is_the_same_convolution(columns: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_columns, "_cheapest", lambda *_: columns)
    graph = quantised(conv(5, 6, 32, 7, 3, stride, (1, 1, 1, 1)))
    x = graph.value("x").q.quantize(images(graph, n=1))
    made = emitted(graph, cpu="x86-amx")
    assert f"32 columns of 5 channels read as {32 // columns} of {5 * columns}" in str(made.notes[0])
    assert np.array_equal(load(made.data).run(x), run_codes(graph, x)[0])


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        ((3, 224, 224, 16, 3, 2, (1, 0, 1, 0)), 8),  # measured 835, 431 (2), 213 (4), 160 us (8)
        ((16, 56, 56, 16, 1, 1, (0, 0, 0, 0)), 4),  # 58, 30 (2), 17 us (4)
        ((16, 56, 56, 72, 1, 1, (0, 0, 0, 0)), 4),  # 114, 65 (2), 53 us (4)
        ((240, 14, 14, 40, 1, 1, (0, 0, 0, 0)), 1),  # 10, 19 us (2)
        ((40, 14, 14, 240, 1, 1, (0, 0, 0, 0)), 1),  # 12, 15 us (2)
        ((64, 56, 56, 64, 3, 1, (1, 1, 1, 1)), 1),  # nothing is idle
    ],
)
def test_choice_follows_what_was_measured(shape: tuple, columns: int) -> None:
    graph = quantised(conv(*shape))
    notes = [str(n) for n in emitted(graph, cpu="x86-amx").notes if n.rule == "columns"]
    assert len(notes) == (columns > 1)
    assert all(f"read as {shape[2] // columns} of {columns * shape[0]}" in note for note in notes)


def test_other_cores_and_off_keep_the_pairs_of_the_stem_only() -> None:
    stem, point = quantised(conv(3, 32, 32, 16, 3, 2, (1, 0, 1, 0))), quantised(conv(16, 8, 32, 16, 1, 1, (0, 0, 0, 0)))
    for options in ({"cpu": "x86"}, {"cpu": "armv8"}, {"cpu": "x86-amx", "settings": {"columns": "off"}}):
        assert "32 columns of 3 channels read as 16 of 6" in str(emitted(stem, **options).notes[0])
        assert not emitted(point, **options).notes
    assert not emitted(stem, cpu="x86-amx", settings={"stem": "plain"}).notes
    assert not emitted(stem, cpu="armv8-a53").notes
    assert emitted(quantised(conv(3, 32, 32, 16, 7, 2, (3, 2, 3, 2))), cpu="armv8-a53").notes
    assert emitted(stem, cpu="armv8-a53", settings={"stem": "pair"}).notes


def test_grouping_of_a_stem() -> None:
    """Stride 2, one column of padding: an output reads the last column of the group before and two of its own."""
    pair = Grouping(2, 2, 1, 3)
    assert (pair.outputs, pair.first, pair.taps) == (1, -1, 2)
    kernel = pair.kernel(np.arange(3.0).reshape(1, 1, 1, 3))
    assert kernel.shape == (1, 1, 2, 2)
    assert kernel.reshape(-1).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("channels", "size", "part", "ops"),
    [
        (64, 32, 4, ["conv"]),
        (256, 14, 16, ["conv"]),
        (256, 28, 4, ["conv", "conv", "add"]),
        (512, 14, 4, ["conv", "conv", "add"]),
    ],
)
def test_heterogeneous_convolutions_take_the_form_that_was_faster(
    channels: int, size: int, part: int, ops: list[str]
) -> None:
    graph = parse(
        f"graph het(x: [N,{channels},{size},{size}]) {{\n"
        f"  g = conv(x, w[{channels},{channels // part},3,3]) pad=(1,1,1,1) groups={part}\n"
        f"  p = conv(x, v[{channels},{channels},1,1], b[{channels}])\n"
        "  y = add(g, p)\n  return y\n}"
    )
    for cpu, kinds in (("x86-amx", ops), ("x86", ["conv", "conv", "add"])):
        made, _ = run_passes(graph, TARGETS["tflite-int8"].passes(cpu, {}))
        assert [op.kind for op in made.ops] == kinds
