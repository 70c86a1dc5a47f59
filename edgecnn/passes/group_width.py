"""Merges the groups of a grouped convolution into fewer, wider ones, with zeros between: exact, and faster in integers.

An integer kernel computes many output channels together, and each group is a matrix product of its own. Groups of a few
channels therefore leave most lanes idle, and start a product each; the zeros that merging adds cost nothing there.
Measured on one x86 machine (AVX512-VNNI, one thread, int8, microseconds, groups as they come and merged):

| channels, size, groups | LiteRT | merged | ONNX Runtime | merged |
|---|---|---|---|---|
| 48, 32x32, 24 | 710 | 47 (3 groups) | 2322 | 122 (1) |
| 96, 16x16, 48 | 135 | 24 (6) | 1848 | 116 (1), 127 (6) |
| 128, 56x56, 32 | 3096 | 1399 (8) | 12837 | 5114 (8) |
| 256, 28x28, 32 | 288 | 213 (16) | 3986 | 1846 (8), 3130 (16) |
| 512, 14x14, 32 | 94 | 155 (16) | 1130 | 726 (16) |

The machine was busy, so these are rough; the order is not. Hence 16 channels in LiteRT, 32 in ONNX Runtime.

Groups that read one channel and make several are no depthwise convolution for the kernels, and gain as well: merging
those too, IGCV1-L100M2 at 128x128 went from 18.1 to 10.0 ms in ONNX Runtime and from 8.2 to 6.2 in LiteRT (int8, one
thread, untrained, one interleaved run each).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from edgecnn.ir.graph import Array, Graph, Note, Pass
from edgecnn.ir.ops import attrs_of

RULE = "widen_groups"


def widen_groups(width: int) -> Pass:
    """A pass that merges groups until each reads at least `width` channels; depthwise convolutions stay."""
    return partial(_widen, width=width)


def _widen(graph: Graph, *, width: int) -> tuple[Graph, list[Note]]:
    edit, notes = graph.edit(), list[Note]()
    for op in graph.ops:
        if op.kind != "conv" or not graph.value(op.inputs[1]).is_const:
            continue
        groups, (filters, per_group) = attrs_of(op)["groups"], graph.shape(op.inputs[1])[:2]
        depthwise = per_group == 1 and groups == filters
        if groups == 1 or depthwise or per_group >= width:
            continue
        merged = next((m for m in range(2, groups + 1) if groups % m == 0 and m * per_group >= width), groups)
        wide = edit.const(f"{op.inputs[1]}_wide", widened(graph.const(op.inputs[1]), groups, merged))
        new = replace(op.with_attrs(groups=groups // merged), inputs=(op.inputs[0], wide, *op.inputs[2:]))
        edit.swap(op, new)
        notes.append(Note(RULE, op.name, True, f"{groups} groups of {per_group} channels as {groups // merged}"))
    return edit.finish(), notes


def widened(weight: Array, groups: int, merged: int) -> Array:
    """The weight of a convolution in `groups` groups as that of one in `groups / merged`, zeros where groups meet.

    Shapes:
        weight: [O, I / groups, kh, kw]; the result is [O, merged * I / groups, kh, kw].
    """
    out, per_group, *kernel = weight.shape
    wide = np.zeros((out, merged * per_group, *kernel), weight.dtype)
    filters = out // groups
    for group in range(groups):
        rows = slice(group * filters, (group + 1) * filters)
        at = group % merged * per_group
        wide[rows, at : at + per_group] = weight[rows]
    return wide
