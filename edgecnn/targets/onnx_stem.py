"""The first convolution of a net, whose few input channels no integer kernel likes: two forms that compute the same.

ONNX Runtime multiplies four channels at a time; a stem of three gets the slow general kernel, padded to four the fast
one. What is left seems to go by taps and output pixels rather than by multiply-adds (inferred from timings of other
shapes; the engine's source was not traced). Where the stride is two, a 2x2 block of pixels can be one pixel of four
times the channels: a 3x3 kernel becomes 2x2, a 7x7 one 4x4.

    pad     Pad 3 -> 4 channels on the codes
    fold    rows into channels by a copy of rows, then columns by a view of the NHWC tensor

Both are exact: the weights that are added are zero, so every sum has the same terms that are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecnn.ir.graph import Array, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.targets.onnx_writer import Writer

ALIGNMENT = 4
"""How many input channels the integer kernels multiply at a time."""


@dataclass(frozen=True)
class Stem:
    """A convolution over rewritten codes: where to read them, the weights, and what changes in its attributes."""

    codes: str
    w_oihw: Array
    stride: tuple[int, int]
    pad: tuple[int, int, int, int]


def stem(w: Writer, op: Op) -> Stem | None:
    """The convolution `op` over a rewritten input; None if it is no such stem, or the form leaves it alone."""
    a = attrs_of(op)
    x, weight = (w.graph.value(name) for name in op.inputs[:2])
    if w.form.stem == "plain" or x.q is None or not weight.is_const:
        return None
    if a["groups"] != 1 or x.shape[1] >= ALIGNMENT:
        return None
    if w.form.stem == "fold" and a["stride"] == (2, 2) and a["dilation"] == (1, 1):
        folded = _folded(w, op)
        if folded is not None:
            return folded
    return _padded(w, op)


def _padded(w: Writer, op: Op) -> Stem:
    """Channels of zeros behind the input's own."""
    a, name = attrs_of(op), op.inputs[0]
    q, w_oihw = w.graph.value(name).q, w.graph.const(op.inputs[1])
    assert q is not None  # `stem` asks for quantised inputs only
    missing = ALIGNMENT - w_oihw.shape[1]
    pads = w.constant(f"{op.output}/stem_pads", np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64))
    zero = w.constant(f"{op.output}/stem_zero", q.zero_point.astype(q.dtype))
    codes = w.node("Pad", [w.codes(name), pads, zero], w.fresh(f"{op.output}/stem"))
    return Stem(codes, np.pad(w_oihw, ((0, 0), (0, missing), (0, 0), (0, 0))), a["stride"], a["pad"])


@dataclass(frozen=True)
class _Axis:
    """A convolution of stride two along one axis, seen in blocks of two: tap t reads slot `slots[t]` of `blocks[t]`."""

    kernel: int
    before: int
    after: int
    blocks: Array
    slots: Array


def _axis(size: int, out: int, kernel: int, before: int) -> _Axis | None:
    """Output i reads 2i + t - before at tap t: block i + floor((t - before) / 2), slot (t - before) mod 2."""
    at = np.arange(kernel) - before
    blocks, slots = at // 2, at % 2
    new_kernel, new_before = int(blocks[-1] - blocks[0]) + 1, int(-blocks[0])
    after = out - 1 + new_kernel - new_before - size // 2
    if size % 2 or after < 0 or new_before < 0:
        return None
    return _Axis(new_kernel, new_before, after, blocks - blocks[0], slots)


def _folded(w: Writer, op: Op) -> Stem | None:
    """2x2 blocks of pixels as channels, in the order column, row, channel."""
    name, a = op.inputs[0], attrs_of(op)
    n, channels, height, width = w.shape(name)
    w_oihw = w.graph.const(op.inputs[1])
    rows = _axis(height, w.shape(op.output)[2], w_oihw.shape[2], a["pad"][0])
    columns = _axis(width, w.shape(op.output)[3], w_oihw.shape[3], a["pad"][2])
    if rows is None or columns is None:
        return None
    weight = np.zeros((w_oihw.shape[0], 2, 2, channels, rows.kernel, columns.kernel), np.float32)
    for y in range(w_oihw.shape[2]):
        for x in range(w_oihw.shape[3]):
            weight[:, columns.slots[x], rows.slots[y], :, rows.blocks[y], columns.blocks[x]] = w_oihw[:, :, y, x]

    def reshape(codes: str, label: str, *shape: int) -> str:
        target = w.constant(f"{op.output}/stem_{label}_shape", np.array(shape, np.int64))
        return w.node("Reshape", [codes, target], w.fresh(f"{op.output}/stem_{label}"))

    def transpose(codes: str, label: str, *perm: int) -> str:
        return w.node("Transpose", [codes], w.fresh(f"{op.output}/stem_{label}"), perm=perm)

    split = reshape(w.codes(name), "rows", n, channels, height // 2, 2, width)
    paired = reshape(transpose(split, "paired", 0, 3, 1, 2, 4), "pairs", n, 2 * channels, height // 2, width)
    blocks = reshape(transpose(paired, "nhwc", 0, 2, 3, 1), "blocks", n, height // 2, width // 2, 4 * channels)
    # The runtime computes in NHWC and takes this transposition back.
    codes = transpose(blocks, "codes", 0, 3, 1, 2)
    folded = weight.reshape(w_oihw.shape[0], 4 * channels, rows.kernel, columns.kernel)
    return Stem(codes, folded, (1, 1), (rows.before, rows.after, columns.before, columns.after))
