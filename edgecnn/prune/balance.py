"""Sets of labels that every group has equally many of: what a convolution in groups can lose and keep its form."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from edgecnn.ir.graph import Array

SIZE = 4
"""The largest set that is looked for, in labels per group."""

Edges = list[tuple[Array, Array]]


def balanced(labels: Array, *, locked: int) -> Edges:
    """Edges that join labels into sets of which every group has equally many, and lock the labels left over.

    A label that every group has equally often needs no other. The rest are added up, always one that leaves the groups
    most alike, until they are: of labels that occur once, the k-th of each group come together.

    Args:
        labels: one row per group; equal labels are one.
        locked: the label of what stays; labels without a set are joined with it.

    Shapes:
        labels: int64 (groups, channels).

    Example:
        >>> pairs = balanced(np.array([[1, 2], [3, 3], [4, 5]]), locked=0)
        >>> [(a.tolist(), b.tolist()) for a, b in pairs]
        [([4, 3, 2, 5], [1, 1, 1, 1])]
    """
    names, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    if len(names) == labels.size and locked not in names:
        return [(np.array(row), labels[0]) for row in labels[1:]]
    counts = np.zeros((len(names), len(labels)), int)
    np.add.at(counts, (index, np.arange(len(labels))[:, None]), 1)
    first = np.full(len(names), labels.shape[1])
    # `ufunc.at` reads beyond values that it should broadcast (numpy 2.4), so they are as many as the indices.
    np.minimum.at(first, index.reshape(-1), np.tile(np.arange(labels.shape[1]), len(labels)))
    # Labels that many groups share are the hardest to even out, so theirs is the first choice.
    order = np.lexsort((names, first, -(counts > 0).sum(1)))
    uneven = [at for at in order if names[at] != locked and np.ptp(counts[at])]
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for at in uneven:
        alike[tuple(counts[at].tolist())].append(int(names[at]))
    return _sets(np.array(list(alike)), list(alike.values()), locked)


def _sets(kinds: Array, waiting: list[list[int]], locked: int) -> Edges:
    """The sets: `kinds` are counts by group, (kinds, groups); `waiting` the labels of each kind, in order."""
    edges: Edges = []
    while any(waiting):
        start = next(kind for kind, found in enumerate(waiting) if found)
        chosen = _even_sum(kinds, start, [len(found) for found in waiting])
        if chosen is None:
            edges.append((np.array([waiting[start].pop(0)]), np.array([locked])))
            continue
        joined = [waiting[kind].pop(0) for kind in chosen]
        edges.append((np.array(joined[1:]), np.full(len(joined) - 1, joined[0])))
    return edges


def _even_sum(kinds: Array, start: int, there: list[int]) -> list[int] | None:
    """Kinds whose counts add up to the same in every group, the first one `start`; None if none are found."""
    groups = kinds.shape[1]
    chosen, total, left = [start], kinds[start], np.array(there)
    left[start] -= 1
    # The variance of total + kind, times groups squared and less what is alike for all kinds; exact in integers.
    own = groups * np.square(kinds).sum(1) - np.square(kinds.sum(1))
    while np.ptp(total):
        if len(chosen) >= SIZE * groups or not left.any():
            return None
        spread = own + 2 * (groups * (kinds @ total) - kinds.sum(1) * total.sum())
        best = int(np.where(left > 0, spread, np.iinfo(np.int64).max).argmin())
        chosen.append(best)
        total = total + kinds[best]
        left[best] -= 1
    return chosen
