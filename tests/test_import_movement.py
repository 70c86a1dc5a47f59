"""Any chain of views, permutes and slices is read back as ops that move the same numbers."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.ir.graph import BATCH, Array, Graph, Op, Value
from edgecnn.ir.movement import Move, per_image, plan
from edgecnn.ir.ops import infer_shape
from edgecnn.ir.reference import run


def applied(moves: list[Move], shape: tuple[int, ...]) -> Array:
    """Where the numbers of an image lie after `moves`, by the reference."""
    image = np.arange(prod(shape), dtype=np.float32).reshape(1, *shape)
    values, ops = {"v0": Value("v0", (BATCH, *shape))}, []
    for i, (kind, attrs) in enumerate(moves):
        op = Op(kind, (f"v{i}",), f"v{i + 1}", attrs)
        values[op.output] = Value(op.output, infer_shape(Graph("", (), values, (), ()), op))
        ops.append(op)
    return run(Graph("", tuple(ops), values, ("v0",), (f"v{len(moves)}",)), image)[0][0].astype(np.int64)


@st.composite
def moved(draw: st.DrawFn) -> tuple[tuple[int, ...], Array]:
    """The shape of an image and its indices after one to three moves that keep the batch apart."""
    shape = (draw(st.sampled_from([2, 4, 6, 12])), draw(st.integers(1, 4)), draw(st.integers(2, 5)))
    index = np.arange(prod(shape)).reshape(shape)
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["shuffle", "slice", "flatten"]))
        if what == "shuffle" and index.ndim == 3 and index.shape[0] % 2 == 0:
            index = index.reshape(2, -1, *index.shape[1:]).swapaxes(0, 1).reshape(index.shape)
        elif what == "slice":
            axis = draw(st.integers(0, index.ndim - 1))
            start = draw(st.integers(0, index.shape[axis] - 1))
            stop = draw(st.integers(start + 1, index.shape[axis]))
            index = index.take(np.arange(start, stop), axis)
        elif what == "flatten":
            index = index.reshape(-1)
    return shape, index


@given(moved())
def test_a_plan_moves_as_it_was_told(case: tuple[tuple[int, ...], Array]) -> None:
    shape, index = case
    moves = plan(index, shape)
    if moves is not None:  # not every chain has a short plan; the importer then takes fewer steps at once
        assert np.array_equal(applied(moves, shape), index)


@given(st.permutations([0, 1, 2]), st.tuples(*[st.integers(1, 5)] * 3))
def test_every_permutation_has_a_plan(order: list[int], shape: tuple[int, int, int]) -> None:
    index = np.arange(prod(shape)).reshape(shape).transpose(order)
    moves = plan(index, shape)
    assert moves is not None
    assert np.array_equal(applied(moves, shape), index)


@given(st.sampled_from([(4, 2), (6, 2), (6, 3), (12, 4), (12, 6)]))
def test_a_shuffle_is_one_op(case: tuple[int, int]) -> None:
    channels, groups = case
    index = np.arange(channels * 4).reshape(groups, -1, 2, 2).swapaxes(0, 1).reshape(channels, 2, 2)
    assert plan(index, (channels, 2, 2)) == [("channel_shuffle", {"groups": groups})]


def test_what_no_op_does_has_no_plan() -> None:
    index = np.arange(12).reshape(3, 2, 2)
    assert plan(index[::-1], (3, 2, 2)) is None
    assert plan(index[[0, 0, 1]], (3, 2, 2)) is None


def test_mixed_images_are_seen() -> None:
    index = np.arange(3 * 8).reshape(3, 2, 4)
    assert np.array_equal(per_image(index, 3, 8), np.arange(8).reshape(2, 4))
    assert per_image(index[::-1], 3, 8) is None
    assert per_image(index.swapaxes(0, 1), 3, 8) is None
    assert per_image(index.reshape(-1), 3, 8) is None
