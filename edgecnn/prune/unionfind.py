"""Union-find over integers, all at once: edges in, the smallest member of each connected set out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecnn.ir.graph import Array


def smallest_members(count: int, edges: Sequence[tuple[Array, Array]]) -> Array:
    """For each of the nodes 0...count - 1 the smallest node that `edges` connect it with.

    Every round hooks each root under the smallest root it has an edge to and then shortens all paths to one step; the
    number of roots of a connected set at least halves.

    Args:
        count: of nodes.
        edges: pairs of equally long arrays; node a[k] is connected with b[k].

    Shapes:
        int64 (count,).

    Example:
        >>> smallest_members(5, [(np.array([3, 1]), np.array([4, 3]))]).tolist()
        [0, 1, 2, 1, 1]
    """
    root = np.arange(count)
    if not edges:
        return root
    a = np.concatenate([np.ravel(pair[0]) for pair in edges])
    b = np.concatenate([np.ravel(pair[1]) for pair in edges])
    while True:
        x, y = root[a], root[b]
        apart = x != y
        if not apart.any():
            return root
        a, b, x, y = a[apart], b[apart], x[apart], y[apart]
        np.minimum.at(root, np.maximum(x, y), np.minimum(x, y))
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
