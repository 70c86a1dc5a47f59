"""Convolutions for TFLite: padding, depthwise and grouped forms, and columns read as channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op, QParams
from edgecnn.ir.ops import attrs_of
from edgecnn.quant.weights import sums_type
from edgecnn.targets.tflite_columns import Grouping, columns_together, repeated
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Constant, Lowering, Pad
from edgecnn.targets.tflite_schema import PADDINGS

Pair = tuple[int, int]

GROUPED_CONV_VERSION = 6
"""The version of CONV_2D from which on a weight with fewer input channels than the input means groups."""
DYNAMIC_CONV_VERSION = 5
"""The version of CONV_2D from which on a float input may meet int8 weights with a scale per channel."""


@dataclass(frozen=True)
class Window:
    """A sliding window: height and width of each, and the padding around the input."""

    kernel: Pair
    stride: Pair
    pad: Pad
    dilation: Pair = (1, 1)

    def scheme(self, in_hw: Sequence[int], out_hw: Sequence[int], *, same: bool = True) -> tuple[str, Pad]:
        """SAME or VALID, and the padding that must be made before.

        Rows and columns that no window reads are not padded, so a stride of 2 usually pads top and left only.

        Args:
            in_hw: height and width of the input, without padding.
            out_hw: height and width of the output.
            same: whether SAME is allowed: it pads with real zero before a convolution, with nothing before a pool.
        """
        needed: list[int] = []
        fits = same
        for i in (0, 1):
            reach = (out_hw[i] - 1) * self.stride[i] + self.dilation[i] * (self.kernel[i] - 1) + 1
            before, total = self.pad[2 * i], max(reach - in_hw[i], 0)
            fits = fits and out_hw[i] == -(-in_hw[i] // self.stride[i]) and before == total // 2
            needed += [before, max(reach - in_hw[i] - before, 0)]
        if fits and any(needed):
            return "SAME", (0, 0, 0, 0)
        return "VALID", (needed[0], needed[1], needed[2], needed[3])

    def options(self, padding: str) -> dict[str, int]:
        """The fields that the options of every windowed operator share."""
        return {"padding": PADDINGS[padding], "stride_h": self.stride[0], "stride_w": self.stride[1]}

    @property
    def dilations(self) -> dict[str, int]:
        """The fields of a convolution's dilation."""
        return {"dilation_h_factor": self.dilation[0], "dilation_w_factor": self.dilation[1]}


def conv(low: Lowering, op: Op) -> Tensor:
    """CONV_2D or DEPTHWISE_CONV_2D; pads what SAME and VALID cannot say, which XNNPACK fuses for nothing."""
    a = attrs_of(op)
    source, pad, fill = _source(low, op)
    x, weight = low.read(source), low.weight(op.inputs[1])
    window = Window(weight.data.shape[2:], a["stride"], pad, a["dilation"])
    if (columns := columns_together(low, op, x, weight, window)) > 1:
        return _columns_as_channels(low, op, x, weight, window, fill, columns)
    padding, rest = window.scheme(x.shape[1:3], low.shape(op.output)[1:3], same=fill == 0.0)
    x = low.pad_constant(x, rest, stored(x, fill))
    options = {**window.options(padding), **window.dilations}
    if a["groups"] == x.shape[3] > 1:
        options["depth_multiplier"] = weight.data.shape[0] // x.shape[3]
        return _convolve(low, op, "DEPTHWISE_CONV_2D", x, weight.laid_out((1, 2, 3, 0)), options)
    version = GROUPED_CONV_VERSION if a["groups"] > 1 else None
    return _convolve(low, op, "CONV_2D", x, weight.laid_out((0, 2, 3, 1)), options, version=version)


def linear(low: Lowering, op: Op) -> Tensor:
    """A 1x1 CONV_2D: per-channel int8 FULLY_CONNECTED is version 12, which older runtimes do not know."""
    x, weight = low.read(op.inputs[0]), low.weight(op.inputs[1])
    batch, *middle, features = x.shape
    image = low.reshape(x, (batch, int(np.prod(middle)), 1, features))
    point = Window((1, 1), (1, 1), (0, 0, 0, 0))
    options = {**point.options("VALID"), **point.dilations}
    weight = Constant(weight.data[:, None, None, :], weight.q)
    shape = (*image.shape[:3], weight.data.shape[0])
    return low.reshape(_convolve(low, op, "CONV_2D", image, weight, options, shape=shape), low.shape(op.output))


def _convolve(
    low: Lowering,
    op: Op,
    code: str,
    x: Tensor,
    weight: Constant,
    options: dict[str, Any],
    *,
    version: int | None = None,
    shape: tuple[int, ...] | None = None,
    bias: Constant | None = None,
) -> Tensor:
    """The operator `code` on a padded input and a laid-out weight, with the op's bias and activation."""
    bias = bias or _bias(low, op, x, weight)
    kernel = low.store(weight, "weight")
    if x.q is None and kernel.q is not None:
        # XNNPACK decodes constants when it loads the file; a layer with coded weights codes its input as it runs.
        if op.attrs.get("dynamic"):
            version = version or DYNAMIC_CONV_VERSION
        else:
            kernel = low.dequantize(kernel)
    inputs = [x, kernel, low.store(bias, "bias")]
    return low.clipped(low.emit(code, inputs, low.output(shape), version=version, **options, **low.fused()))


def _bias(low: Lowering, op: Op, x: Tensor, weight: Constant) -> Constant:
    """The bias of a layer; zeros if it has none, because XNNPACK's depthwise convolution wants one."""
    if len(op.inputs) == 3:
        return low.constant(op.inputs[2])
    channels = low.graph.shape(op.inputs[1])[0]
    if x.q is None or weight.q is None:
        return Constant(np.zeros(channels, np.float32), None)
    return zero_bias(x.q, weight.q.scale, channels)


def zero_bias(q: QParams, weight_scale: Array, channels: int) -> Constant:
    """A bias of zeros, coded as the accumulator of inputs coded by `q` and weights of `weight_scale`."""
    sums = sums_type(q)
    scale = np.broadcast_to(q.scale * weight_scale, channels)
    return Constant(
        np.zeros(channels, sums), QParams(scale, np.zeros(channels, np.int32), sums, 0, -(2**31), 2**31 - 1)
    )


def _columns_as_channels(
    low: Lowering,
    op: Op,
    x: Tensor,
    weight: Constant,
    window: Window,
    fill: float | tuple[float, ...],
    columns: int,
) -> Tensor:
    """The convolution over groups of `columns` columns read as channels; the same numbers (see `tflite_columns`)."""
    batch, height, width, channels = x.shape
    grouping = Grouping(columns, window.stride[1], window.pad[2], weight.data.shape[3])
    top, bottom, _, _ = window.pad
    groups = low.reshape(x, (batch, height, width // columns, columns * channels))
    out = low.shape(op.output)
    packed = (batch, out[1], out[2] // grouping.outputs, grouping.outputs * out[3])
    # Right of the image as many groups are added as the last window reads.
    window = Window((weight.data.shape[2], grouping.taps), (window.stride[0], 1), (top, bottom, -grouping.first, 0))
    padding, rest = window.scheme(groups.shape[1:3], packed[1:3], same=fill == 0.0)
    groups = low.pad_constant(groups, rest, np.tile(np.broadcast_to(stored(x, fill), channels), columns))
    bias = repeated(_bias(low, op, x, weight), grouping.outputs)
    kernel = repeated(Constant(grouping.kernel(weight.data), weight.q), grouping.outputs, data=False)
    low.note(
        "columns",
        did=True,
        why=f"{width} columns of {channels} channels read as {width // columns} of {columns * channels}",
    )
    options = {**window.options(padding), **window.dilations}
    shape = packed if grouping.outputs > 1 else None
    found = _convolve(low, op, "CONV_2D", groups, kernel, options, shape=shape, bias=bias)
    return low.reshape(found, out)


# -------------------------------------------------------------------------------------------------------- padding


def absorbed_pads(graph: Graph) -> frozenset[str]:
    """The `pad` ops that the convolution behind them takes over; they are not lowered on their own.

    So padding is made in the layer's own layout, and only where a window reads it.
    """
    found = set()
    for op in graph.ops:
        user = graph.only_user(op.output) if op.kind == "pad" else None
        if user is not None and user.kind == "conv" and not any(attrs_of(user)["pad"]):
            source, padded = (graph.value(name).q for name in (op.inputs[0], op.output))
            if source == padded:
                found.add(op.output)
    return frozenset(found)


def _source(low: Lowering, op: Op) -> tuple[str, Pad, float | tuple[float, ...]]:
    """What a convolution reads, and the padding it makes: its own, or that of the `pad` it takes over."""
    name = op.inputs[0]
    if name not in low.absorbed:
        return name, attrs_of(op)["pad"], 0.0
    maker = low.graph.makers[name]
    return maker.inputs[0], maker.attrs["pad"], attrs_of(maker)["value"]


def stored(x: Tensor, value: float | tuple[float, ...]) -> Array:
    """The numbers, as stored in a tensor like `x`, of a padding value or of one value per channel."""
    real = np.asarray(value, np.float32)
    return real if x.q is None else x.q.quantize(real)
