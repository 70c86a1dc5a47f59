"""Pools for TFLite. int8 AVERAGE_POOL_2D is not delegated, PAD does not fuse into MAX_POOL_2D: both go other ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op, QParams
from edgecnn.ir.ops import SAME_CODES, attrs_of
from edgecnn.passes.even_pools import window_counts
from edgecnn.targets.tflite_conv import Window, zero_bias
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Constant, Lowering, Pad


def global_pool(low: Lowering, op: Op) -> Tensor:
    """MEAN over H and W. Always with kept axes: the reshape after it is free and often cancels."""
    x = low.read(op.inputs[0])
    shape = (x.shape[0], 1, 1, x.shape[3])
    mean = low.emit("MEAN", [x, low.integers((1, 2), "axes")], low.output(shape), keep_dims=True)
    return low.reshape(mean, low.shape(op.output))


def max_pool(low: Lowering, op: Op) -> Tensor:
    """MAX_POOL_2D; padding that SAME cannot say is zeros if nothing is below zero, else the smallest number."""
    a, x = attrs_of(op), low.read(op.inputs[0])
    window = Window(a["kernel"], a["stride"], a["pad"], a["dilation"])
    if window.kernel == (1, 1) and not any(window.pad):
        return _picked(low, op, x, window.stride)
    # What XNNPACK's pool cannot do is done at every place, and the places of the stride are picked from that.
    gaps = window.dilation != (1, 1)
    everywhere = gaps or any(s > k for s, k in zip(window.stride, window.kernel, strict=True))
    padding, rest = window.scheme(x.shape[1:3], low.shape(op.output)[1:3], same=not everywhere)
    if any(rest) and _never_negative(low.graph, op.inputs[0]):
        x = _pad_as_matrix(low, x, rest)
    else:
        x = low.pad_constant(x, rest, np.asarray(np.finfo(np.float32).min if x.q is None else x.q.qmin))
    if not everywhere:
        return _pool(low, x, window, padding)
    y = _dilated(low, x, window) if gaps else _pool(low, x, replace(window, stride=(1, 1)), "VALID", inside=True)
    return _picked(low, op, y, window.stride)


def _picked(low: Lowering, op: Op, x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Every pixel of the stride: XNNPACK has no pool of one pixel, but a convolution with weight 1 is the same."""
    return _window_sums(low, op, x, Window((1, 1), stride, (0, 0, 0, 0)), 1.0)


def _dilated(low: Lowering, x: Tensor, window: Window) -> Tensor:
    """The maximum of a window with gaps at every place of a padded `x`: of its rows, then of its columns.

    What the taps along one axis read are slices; as rows of a map of their own they are under one pool.
    """
    for axis, (kernel, dilation) in enumerate(zip(window.kernel, window.dilation, strict=True), start=1):
        shape = list(x.shape)
        shape[axis] -= dilation * (kernel - 1)
        batch, height, width, channels = shape
        slices = [low.slice(x, axis, tap * dilation, low.like(x, tuple(shape), "tap")) for tap in range(kernel)]
        taps = low.concat([low.reshape(s, (batch, 1, height * width, channels)) for s in slices], 1)
        column = Window((kernel, 1), (1, 1), (0, 0, 0, 0))
        x = low.reshape(_pool(low, taps, column, "VALID", inside=True) if kernel > 1 else taps, tuple(shape))
    return x


def avg_pool(low: Lowering, op: Op) -> Tensor:
    """A depthwise convolution whose weights are all 1 / n; AVERAGE_POOL_2D in float where it means the same.

    Where the number of pixels that count differs from place to place, the sum of each window is multiplied with a map
    of 1 / n; that runs in float (`divides_unevenly` says so before lowering).
    """
    a, x = attrs_of(op), low.read(op.inputs[0])
    window = Window(a["kernel"], a["stride"], a["pad"])
    overlaps = all(s <= k for s, k in zip(window.stride, window.kernel, strict=True)) and window.kernel != (1, 1)
    if not low.integer and not any(a["pad"]) and overlaps:  # XNNPACK takes no others
        return _pool(low, x, window, "VALID", code="AVERAGE_POOL_2D")
    counts = window_counts(op, x.shape[1:3])
    if not divides_unevenly(low, op):
        return _window_sums(low, op, x, window, float(counts[0, 0]))
    share = low.store(Constant((1.0 / counts)[None, :, :, None].astype(np.float32), None), "share")
    inputs = [_window_sums(low, op, x, window, 1.0), share]
    return low.emit("MUL", inputs, low.output(), fused_activation_function=0)


def divides_unevenly(low: Lowering, op: Op) -> bool:
    """Whether windows of an `avg_pool` divide by different numbers of pixels."""
    counts = window_counts(op, low.shape(op.inputs[0])[1:3])
    return bool(np.any(counts != counts[0, 0]))


def _window_sums(low: Lowering, op: Op, x: Tensor, window: Window, divisor: float) -> Tensor:
    """The sum of each window over `divisor`, as a depthwise convolution.

    In int8 the weight's code is 1 and its scale 1 / divisor, so that the accumulator is the exact sum of the codes.
    """
    channels = x.shape[3]
    shape, scale = (1, *window.kernel, channels), np.full(channels, 1.0 / divisor, np.float32)
    if x.q is None:
        weight, bias = Constant(np.broadcast_to(scale, shape), None), Constant(np.zeros(channels, np.float32), None)
    else:
        q = QParams(scale, np.zeros(channels, np.int32), "int8", 3, -127, 127)
        weight, bias = Constant(np.ones(shape, np.int8), q), zero_bias(x.q, scale, channels)
    padding, rest = window.scheme(x.shape[1:3], low.shape(op.output)[1:3])
    inputs = [low.pad_constant(x, rest, zero_code(x)), low.store(weight, "window"), low.store(bias, "zeros")]
    options = {**window.options(padding), **window.dilations}
    form = {"depth_multiplier": 1, "fused_activation_function": 0}
    return low.emit("DEPTHWISE_CONV_2D", inputs, low.output(), **options, **form)


def zero_code(x: Tensor) -> Array:
    """Real zero as stored in a tensor like `x`."""
    return np.asarray(0 if x.q is None else x.q.zero_point)


def _pad_as_matrix(low: Lowering, x: Tensor, pad: Pad) -> Tensor:
    """Zero padding of rows of W * C numbers: 7 times faster than PAD on four axes, which XNNPACK does not fuse here."""
    batch, height, width, channels = x.shape
    top, bottom, left, right = pad
    rows = low.reshape(x, (batch, height, width * channels))
    padded = low.pad_zeros(rows, [(0, 0), (top, bottom), (left * channels, right * channels)])
    return low.reshape(padded, (batch, top + height + bottom, left + width + right, channels))


def _never_negative(graph: Graph, name: str) -> bool:
    """Whether no number in `name` is below zero: by its codes, or by what made it."""
    q = graph.value(name).q
    if q is not None:
        return q.real_range[0] >= 0
    op = graph.makers.get(name)
    if op is None:
        return False
    if op.kind in SAME_CODES:
        return all(_never_negative(graph, i) for i in op.inputs) and attrs_of(op).get("value", 0.0) == 0.0
    lowest = op.attrs.get("clip", (None, None))[0] if op.kind != "clip" else op.attrs["lo"]
    return op.kind in ("sigmoid", "hard_sigmoid", "softmax") or (lowest is not None and lowest >= 0)


def _pool(
    low: Lowering, x: Tensor, window: Window, padding: str, *, code: str = "MAX_POOL_2D", inside: bool = False
) -> Tensor:
    """A pool of the current op; with `inside`, one that only leads to its output, without padding and stride."""
    height, width = window.kernel
    form = {"filter_height": height, "filter_width": width, "fused_activation_function": 0}
    shape = (x.shape[0], x.shape[1] - height + 1, x.shape[2] - width + 1, x.shape[3])
    output = low.like(x, shape, "pooled") if inside else low.output()
    return low.emit(code, [x], output, **window.options(padding), **form)
