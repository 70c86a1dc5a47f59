"""Average pools whose windows divide by different numbers of pixels, as pools that divide alike and a product.

At a border, a window without its padding (`count_include_pad=False`) divides by fewer pixels than one inside:

    sum / count  =  (sum / window) * (window / count)

The first factor is a pool that counts its padding, the second a map that is 1 inside and fixed for a graph's size of
images. Both run in integers, where a pool with several divisors is a float island: XNNPACK has none in int8. The map's
numbers are few (1, 3/2 and 9/4 for 3x3), so its codes are exact (`quant.spans.constant_q`); the value is rounded twice
instead of once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Array, Graph, Note, Op
from edgecnn.ir.ops import attrs_of

RULE = "even_pools"


def even_pools(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with every average pool dividing by one number, and a note for each that was rewritten."""
    edit, notes = graph.edit(), list[Note]()
    for op in graph.ops:
        if op.kind != "avg_pool":
            continue
        counts = window_counts(op, graph.shape(op.inputs[0])[2:])
        if np.all(counts == counts[0, 0]):
            continue
        kernel, pad = attrs_of(op)["kernel"], attrs_of(op)["pad"]
        full = edit.activation(f"{op.output}_full", graph.shape(op.output))
        share = edit.const(f"{op.output}_share", (kernel[0] * kernel[1] / counts)[None, None])
        pool = replace(op.with_attrs(counted=pad), output=full)
        edit.swap(op, pool, Op("mul", (full, share), op.output, source=op.source))
        notes.append(Note(RULE, op.output, True, f"divides by {int(counts.min())} to {int(counts.max())} pixels"))
    return edit.finish(), notes


def window_counts(op: Op, in_hw: tuple[int, ...]) -> Array:
    """How many pixels count in each window of an `avg_pool`: an array (output height, output width)."""
    a = attrs_of(op)
    axes = []
    for i in (0, 1):
        (before, after), (counted_before, counted_after) = (a[k][2 * i : 2 * i + 2] for k in ("pad", "counted"))
        counts = np.zeros(before + in_hw[i] + after)
        counts[before - counted_before : before + in_hw[i] + counted_after] = 1
        windows = np.lib.stride_tricks.sliding_window_view(counts, a["kernel"][i])[:: a["stride"][i]]
        axes.append(windows.sum(1))
    return np.outer(axes[0], axes[1])
