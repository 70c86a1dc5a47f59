"""Measuring: exact under any cut into batches, refuses what is not finite, and its file knows what it belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.errors import InputError
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.text import parse
from edgecnn.quant.measure import measure
from edgecnn.quant.ranges import BINS, Histogram, Ranges, Stats, bin_of, exponent_for, load, save
from tests.strategies import RESIDUAL, SHUFFLE_UNIT, TEXTS, graphs, image_batch

FLOATS = st.floats(-1e6, 1e6, allow_nan=False, width=32)


def same(a: Ranges, b: Ranges) -> bool:
    return (a.graph, a.images, set(a.stats)) == (b.graph, b.images, set(b.stats)) and all(
        same_stats(a.stats[name], b.stats[name]) for name in a.stats
    )


def same_stats(a: Stats, b: Stats) -> bool:
    def numbers(s: Stats) -> tuple[object, ...]:
        return s.images, s.mean_min, s.mean_max, s.min, s.max, s.histogram.exponent, s.histogram.first

    return numbers(a) == numbers(b) and np.array_equal(a.histogram.counts, b.histogram.counts)


def test_the_input_has_the_statistics_of_its_numbers() -> None:
    graph = parse(RESIDUAL)
    x = image_batch(graph, n=5)
    stats = measure(graph, [x]).stats["x"]
    flat = x.reshape(5, -1).astype(np.float64)
    assert stats.images == 5
    assert (stats.min, stats.max) == (flat.min(), flat.max())
    assert stats.mean_min == pytest.approx(flat.min(1).mean(), abs=1e-15)
    assert stats.mean_max == pytest.approx(flat.max(1).mean(), abs=1e-15)
    edges = (stats.histogram.first + np.arange(len(stats.histogram.counts) + 1)) * stats.histogram.width
    assert np.array_equal(stats.histogram.counts, np.histogram(flat, edges)[0])


@pytest.mark.parametrize("cut", [(1, 5), (3,), (2, 4)])
def test_batches_may_be_cut_anywhere(cut: tuple[int, ...]) -> None:
    """Only of the input, whose numbers do not depend on how the arithmetic of a batch is split up."""
    graph = parse(TEXTS["conv_bn_relu"])
    x = image_batch(graph, n=6) * np.arange(1, 7, dtype=np.float32).reshape(-1, 1, 1, 1)
    whole, parts = measure(graph, [x]), measure(graph, np.split(x, cut))
    assert same_stats(whole.stats["x"], parts.stats["x"])
    assert whole.stats["y"].images == parts.stats["y"].images == 6


@given(graphs())
def test_measuring_twice_gives_the_same(graph: Graph) -> None:
    x = image_batch(graph)
    assert same(measure(graph, [x]), measure(graph, [x]))


def test_values_that_are_only_moved_have_no_range_of_their_own() -> None:
    graph = parse(SHUFFLE_UNIT)
    assert set(measure(graph, [image_batch(graph)]).stats) == {"x", "c"}


@given(st.lists(FLOATS, min_size=1, max_size=40), st.lists(FLOATS, min_size=1, max_size=40))
def test_histograms_merge_to_the_histogram_of_all(first: list[float], second: list[float]) -> None:
    def histogram(numbers: list[float]) -> Histogram:
        exponent = exponent_for(min(numbers), max(numbers))
        bins = np.array([bin_of(x, exponent) for x in numbers])
        return Histogram(exponent, int(bins.min()), np.bincount(bins - bins.min()))

    merged, whole = histogram(first).merge(histogram(second)), histogram(first + second)
    assert len(merged.counts) <= BINS
    assert (merged.exponent, merged.first) == (whole.exponent, whole.first)
    assert np.array_equal(merged.counts, whole.counts)


OVERFLOW = """graph overflow(x: [N,1,4,4]) {
  c = conv(x, w[1,1,1,1])  # body.0 my_net.py:7
  y = mul(c, c)  # body.1 my_net.py:8
  return y
}"""


def with_weight(graph: Graph, w: float) -> Graph:
    edit = graph.edit()
    name = edit.const("w_new", np.full((1, 1, 1, 1), w, np.float32))
    edit.redirect("w", name)
    return edit.finish()


def test_an_activation_that_is_not_finite_names_its_layer_and_image() -> None:
    graph = with_weight(parse(OVERFLOW), 1e30)
    x: Array = np.zeros((2, 1, 4, 4), np.float32)
    x[1] = 1.0
    with pytest.raises(InputError) as failure:
        measure(graph, [x[:1], x])
    assert str(failure.value) == (
        "InputError: `y` (mul) is NaN or infinite\n"
        "  at       my_net.py:8  (body.1)\n"
        "  got      a number that is not finite, first in calibration image 2\n"
        "  do       check the preprocessing and the weights of this layer"
    )


def test_a_weight_that_is_not_finite_names_its_layer() -> None:
    graph = with_weight(parse(OVERFLOW), float("nan"))
    with pytest.raises(InputError) as failure:
        measure(graph, [np.zeros((1, 1, 4, 4), np.float32)])
    assert str(failure.value) == (
        "InputError: constant `w_new` of `c` (conv) is not finite\n"
        "  at       my_net.py:7  (body.0)\n"
        "  got      1 of 1 numbers are NaN or infinite\n"
        "  do       check the weights: the training may have diverged, or the file is damaged"
    )


def test_an_image_that_is_not_finite_is_the_inputs_fault() -> None:
    graph = parse(OVERFLOW)
    with pytest.raises(InputError, match="`x` \\(input\\) is NaN or infinite"):
        measure(graph, [np.full((1, 1, 4, 4), np.inf, np.float32)])


def test_no_images_and_wrong_shapes_are_refused() -> None:
    graph = parse(RESIDUAL)
    with pytest.raises(InputError, match="there are no calibration images"):
        measure(graph, [])
    with pytest.raises(InputError) as failure:
        measure(graph, [np.zeros((2, 3, 10, 10), np.float32)])
    assert str(failure.value) == (
        "InputError: a calibration batch has the wrong shape\n"
        "  at       residual\n"
        "  expected (N, 8, 10, 10)\n"
        "  got      (2, 3, 10, 10)"
    )


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_saved_file_reads_back_the_same(name: str, tmp_path: Path) -> None:
    graph, path = parse(TEXTS[name]), tmp_path / "ranges.json"
    ranges = measure(graph, [image_batch(graph)], images="list")
    save(ranges, path)
    first = path.read_bytes()
    assert same(load(path, graph=graph, images="list"), ranges)
    save(load(path), path)
    assert path.read_bytes() == first


def test_a_file_of_another_graph_or_other_images_is_refused(tmp_path: Path) -> None:
    graph, other = parse(RESIDUAL), parse(RESIDUAL, seed=1)
    path = tmp_path / "ranges.json"
    save(measure(graph, [image_batch(graph)], images="a" * 64), path)
    with pytest.raises(InputError, match=r"`ranges\.json` was measured on another graph"):
        load(path, graph=other)
    with pytest.raises(InputError) as failure:
        load(path, graph=graph, images="b" * 64)
    assert str(failure.value) == (
        "InputError: the ranges file `ranges.json` was measured on another image list\n"
        f"  at       {path}\n"
        "  expected image list bbbbbbbbbbbb\n"
        "  got      image list aaaaaaaaaaaa\n"
        "  do       measure again, or give the file that belongs to this graph and these images"
    )


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"format": "else"}', b"\xff\xfe"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(damage)
    with pytest.raises(InputError, match=r"cannot read the ranges file `ranges\.json`"):
        load(path)


def test_a_truncated_histogram_is_refused(tmp_path: Path) -> None:
    graph, path = parse(RESIDUAL), tmp_path / "ranges.json"
    save(measure(graph, [image_batch(graph)]), path)
    path.write_text(path.read_text().replace('"bins": ', '"bins": 1'))
    with pytest.raises(InputError, match="says it has"):
        load(path)
