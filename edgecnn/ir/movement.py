"""Reads views, permutes, slices and splits back as the simplest ops that move the same numbers.

A net can spell a channel shuffle or a flatten in many ways. So the importer does not match spellings: it lets PyTorch
run the chain of moving operators on the indices of the input, and `plan` finds the ops that give the same indices.
"""

from __future__ import annotations

from itertools import permutations
from math import prod
from typing import Any

import numpy as np

from edgecnn.ir.graph import BATCH, Array

Move = tuple[str, dict[str, Any]]
"""The kind and attributes of an op with one input."""
Sizes = tuple[int, ...]


def per_image(index: Array, batch: int, numbers: int) -> Array | None:
    """The indices within one image, or None where images of the batch are mixed or treated differently.

    Args:
        index: indices into the whole batch, as they lie after moving.
        batch: images in the batch.
        numbers: numbers in one image before moving.
    """
    if index.ndim < 2 or index.shape[0] != batch:
        return None
    first = index[0]
    same = all(np.array_equal(index[b] - b * numbers, first) for b in range(1, batch))
    return first.astype(np.int64) if same else None


def plan(index: Array, shape: Sizes) -> list[Move] | None:
    """The ops that move an image of `shape` (without batch) as `index` says; None if there is no short way.

    Args:
        index: where each number of the result comes from, as a flat index into the image.
        shape: of the image before moving: (C, H, W) or (features,) or any other.
    """
    box = _box(index, shape)
    if box is not None:
        moves, sizes = box
        return [*moves, *_reshaped(sizes, index.shape)]
    order = _transposed(index, shape)
    if order is None:
        return None
    move: Move = ("transpose", {"perm": (0, *(axis + 1 for axis in order))})
    return [move, *_reshaped(tuple(shape[axis] for axis in order), index.shape)]


def _reshaped(have: Sizes, want: Sizes) -> list[Move]:
    if have == want:
        return []
    if len(have) == 3 and len(want) == 1:
        return [("flatten", {})]
    return [("reshape", {"shape": (BATCH, *want)})]


def _transposed(index: Array, shape: Sizes) -> tuple[int, ...] | None:
    if index.size != prod(shape) or len(shape) > 5:
        return None
    whole, flat = np.arange(index.size).reshape(shape), index.ravel()
    for order in permutations(range(len(shape))):
        if np.array_equal(whole.transpose(order).ravel(), flat):
            return order
    return None


def _box(index: Array, shape: Sizes) -> tuple[list[Move], Sizes] | None:
    """The moves where each axis is picked from on its own and the axes keep their order; and the sizes that result."""
    coordinates = np.unravel_index(index.ravel(), shape)
    picks = [_in_order(c) for c in coordinates]
    if prod(len(p) for p in picks) != index.size:
        return None
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    offsets = [p * s for p, s in zip(picks, strides, strict=True)]
    total = offsets[0]
    for offset in offsets[1:]:
        total = np.add.outer(total, offset)
    if not np.array_equal(total.ravel(), index.ravel()):
        return None
    moves: list[Move] = []
    steps = [1] * len(shape)
    for axis, (pick, size) in enumerate(zip(picks, shape, strict=True)):
        shuffled = _shuffled(pick, size) if axis == 0 and len(shape) == 3 else None
        if shuffled is not None:
            moves += shuffled
            continue
        ranged = _ranged(pick, size, axis)
        if ranged is None:
            return None
        moves += ranged[0]
        steps[axis] = ranged[1]
    if steps != [1] * len(shape):
        if len(shape) != 3 or steps[0] != 1:
            return None
        # A pool of one pixel picks every second (third, ...) one and, like the slice it stands for, keeps the codes.
        moves.append(("max_pool", {"kernel": (1, 1), "stride": tuple(steps[1:])}))
    return moves, tuple(map(len, picks))


def _in_order(values: Array) -> Array:
    """The different values in the order in which they first occur."""
    _, first = np.unique(values, return_index=True)
    return np.asarray(values)[np.sort(first)]


def _ranged(pick: Array, size: int, axis: int) -> tuple[list[Move], int] | None:
    """A slice (none where all of the axis is in reach) and the step that is left to do."""
    gaps = np.unique(np.diff(pick))
    if len(gaps) > 1 or (len(gaps) and gaps[0] < 1):
        return None
    step = int(gaps[0]) if len(gaps) else 1
    start, stop = int(pick[0]), int(pick[-1]) + 1
    if start == 0 and stop > size - step:
        return [], step
    return [("slice", {"axis": axis + 1, "start": start, "stop": stop})], step


def _shuffled(pick: Array, size: int) -> list[Move] | None:
    """A channel shuffle, with a slice after it where only some of its channels are picked."""
    if len(pick) < 2 or np.all(np.diff(pick) == 1):
        return None
    for groups in (g for g in range(2, size) if size % g == 0):
        order = np.arange(size).reshape(groups, -1).T.ravel()
        start = int(np.flatnonzero(order == pick[0])[0])
        if np.array_equal(order[start : start + len(pick)], pick):
            cut: Move = ("slice", {"axis": 1, "start": start, "stop": start + len(pick)})
            return [("channel_shuffle", {"groups": groups})] + ([cut] if len(pick) < size else [])
    return None
