"""The parameters of convolution and linear constants: int8 per output channel, bias int32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Array, Graph, IntType, Op, QParams

WEIGHT_MAX = 127

# A bias code stays below 2**30, so that adding the products cannot overflow int32. Products of 16-bit codes are summed
# in int64, and a bias below 2**47 leaves as much room there.
_BIAS_LIMIT = {"int32": 2.0**30, "int64": 2.0**47}

# A channel whose whole output is below 2**-24 of a code needs no finer weights, and its scale stays a normal float32.
_LEAST_RATIO = 2.0**-24


def weight_q(
    w: Array,
    bias: Array | None,
    s_x: float,
    s_y: float,
    largest_code: int = WEIGHT_MAX,
    *,
    sums: IntType = "int32",
) -> QParams:
    """Symmetric int8 parameters of `w` along axis 0.

    The scale of a channel is its largest magnitude / `largest_code`, enlarged where its bias would not fit into the
    type of the sums (int32: |b| <= 2**30 * s_x * s_w), and never so small that it means nothing in the output's scale.
    A channel of zeros takes a scale at which its bias is exact to 1/256 of an output code.
    """
    largest = np.abs(w.reshape(len(w), -1)).max(axis=1).astype(np.float64)
    scale = np.where(largest > 0, largest / largest_code, s_y / s_x / 256)
    scale = np.maximum(scale, least_weight_scale(bias, s_x, s_y, sums=sums))
    zero = np.zeros(len(w), np.int32)
    return QParams(scale.astype(np.float32), zero, "int8", 0, -largest_code, largest_code)


def least_weight_scale(bias: Array | None, s_x: float, s_y: float, *, sums: IntType = "int32") -> Array:
    """The smallest scale of each channel's weights: its bias fits its type, and it means something in the output."""
    least = np.asarray(s_y / s_x * _LEAST_RATIO)
    return least if bias is None else np.maximum(least, np.abs(bias.astype(np.float64)) / (_BIAS_LIMIT[sums] * s_x))


def sums_type(x: QParams) -> IntType:
    """The type of the sums of products of codes like `x` with weights, which is that of the bias."""
    return "int64" if x.dtype == "int16" else "int32"


def bias_q(s_x: np.float32, weights: QParams, *, sums: IntType = "int32") -> QParams:
    """The parameters of a bias: the scale of the products, rounded to float32 as the runtimes do."""
    scale = (np.float32(s_x) * weights.scale).astype(np.float32)
    # Whatever `least_weight_scale` lets through is far inside.
    most = 2**31 - 1 if sums == "int32" else 2**48
    return QParams(scale, np.zeros(len(scale), np.int32), sums, 0, -most, most)


def own_constants(graph: Graph, integer: Collection[str]) -> Graph:
    """`graph` where each constant has one reader, and the convolutions and linear layers in `integer` have a bias.

    The parameters of a constant depend on the op that reads it (a bias on its input's scale), so a shared one is
    cloned; and an explicit zero bias makes the integer meaning of both kinds uniform.
    """
    edit, taken = graph.edit(), set[str]()

    def own(name: str, op: Op) -> str:
        data = graph.value(name).data
        if data is None:
            return name
        if name in taken:
            return edit.const(f"{op.output}_{name}", data)
        taken.add(name)
        return name

    for op in graph.ops:
        inputs = [own(name, op) for name in op.inputs]
        if op.kind in ("conv", "linear") and op.output in integer and len(inputs) == 2:
            inputs.append(edit.const(f"{op.output}_bias", np.zeros(graph.shape(op.inputs[1])[0], np.float32)))
        if tuple(inputs) != op.inputs:
            edit.swap(op, replace(op, inputs=tuple(inputs)))
    return edit.finish()
