"""How each op kind becomes TFLite operators: one rule per kind, chosen by measurement (`LiteRT with XNNPACK`).

A rule is a function of at most 15 lines, or a row of `UNARY`. It reads its inputs with `low.read`, which gives int8 or
float as the op runs, and returns the tensor that holds the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecnn.ir.graph import Note, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.targets.tflite_conv import conv, linear, stored
from edgecnn.targets.tflite_deform import deform_conv
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_gate import gated_conv
from edgecnn.targets.tflite_limits import binary_limit
from edgecnn.targets.tflite_lower import NCHW_OF_NHWC, NHWC_OF_NCHW, Constant, Lowering, NotLowered, same_codes
from edgecnn.targets.tflite_lrn import lrn
from edgecnn.targets.tflite_pool import avg_pool, divides_unevenly, global_pool, max_pool
from edgecnn.targets.tflite_schema import ACTIVATIONS

NONE, RELU6 = ACTIVATIONS["NONE"], ACTIVATIONS["RELU6"]

Rule = Callable[[Lowering, Op], Tensor]

RULES: dict[str, Rule] = {
    "linear": linear,
    "deform_conv": deform_conv,
    "global_pool": global_pool,
    "lrn": lrn,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
}

UNSUPPORTED: dict[str, str] = {
    "batch_norm": "the pass `fold_batchnorm` turns it into a convolution before",
}
"""Kinds without a rule, and why."""

UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("LOGISTIC", {}),
    "tanh": ("TANH", {}),
    "hard_swish": ("HARD_SWISH", {}),
    "gelu": ("GELU", {"approximate": False}),
}
"""Kinds that are one operator without attributes."""

ISLANDS = frozenset({"hard_swish", "hard_sigmoid", "tanh", "gelu", "leaky_relu", "softmax", "silu", "lrn"})
"""Kinds that run as float islands in int8 nets: XNNPACK makes tables of the unary ones, and their own int8 kernels are
not delegated (HARD_SWISH, GELU) or round their slopes to 8 bits (LEAKY_RELU). `lrn` has none: it stays float."""


def lower(low: Lowering, op: Op) -> None:
    """Adds the operators of one op.

    Raises:
        NotLowered: there is no rule for it, or the rule does not know this form.
    """
    low.begin(op)
    if op.kind not in RULES:
        raise NotLowered(UNSUPPORTED.get(op.kind, "there is no rule for it"))
    if low.integer and runs_as_float(low, op):
        low.begin(op, as_float=True)
    low.bind(op.output, RULES[op.kind](low, op))


def runs_as_float(low: Lowering, op: Op) -> bool:
    """Whether an op of an int8 net is lowered as a float island; notes where that is a loss."""
    if op.kind in ("add", "sub", "mul"):
        limit = binary_limit(low.graph, op)
        if limit:
            low.notes.append(Note("int8", op.output, did=False, why=f"runs in float: {limit}"))
        return limit is not None
    if op.kind == "clip":
        return not _is_idle_clip(low, op)
    if low.graph.value(op.output).q.dtype == "int16" and op.kind in UNARY:  # type: ignore[union-attr]  # it is coded
        return True  # int16 kernels demand scales of their own there, and look up coarser tables
    return op.kind in ISLANDS or (op.kind == "avg_pool" and divides_unevenly(low, op))


def _rule(*kinds: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        for kind in kinds:
            RULES[kind] = rule
        return rule

    return add


@_rule("conv")
def _conv(low: Lowering, op: Op) -> Tensor:
    maker = low.graph.makers.get(op.inputs[0])
    gated = maker is not None and maker.kind == "mul" and maker.output in low.absorbed
    return gated_conv(low, op) if gated else conv(low, op)


@_rule(*UNARY)
def _unary(low: Lowering, op: Op) -> Tensor:
    code, options = UNARY[op.kind]
    return low.emit(code, [low.read(op.inputs[0])], low.output(), **options)


@_rule("hard_sigmoid")
def _hard_sigmoid(low: Lowering, op: Op) -> Tensor:
    x = low.read(op.inputs[0])
    three, shifted = low.scalar(3.0, "three"), low.like(x, x.shape, "shifted")
    low.emit("ADD", [x, three], shifted, fused_activation_function=RELU6)
    return low.emit("DIV", [shifted, low.scalar(6.0, "six")], low.output(), fused_activation_function=NONE)


@_rule("silu")
def _silu(low: Lowering, op: Op) -> Tensor:
    x = low.read(op.inputs[0])
    gate = low.emit("LOGISTIC", [x], low.like(x, x.shape, "gate"))
    return low.emit("MUL", [x, gate], low.output(), fused_activation_function=NONE)


@_rule("clip")
def _clip(low: Lowering, op: Op) -> Tensor:
    x = low.read(op.inputs[0])
    return x if low.integer else low.clamp(x, op.attrs["lo"], op.attrs["hi"])


def _is_idle_clip(low: Lowering, op: Op) -> bool:
    """Whether the codes of a `clip` are those of its input, because no code lies outside the bounds."""
    x, y = (low.graph.value(name).q for name in (op.inputs[0], op.output))
    return x is not None and y is not None and same_codes(x, y) and low.saturates((op.attrs["lo"], op.attrs["hi"]))


@_rule("leaky_relu")
def _leaky_relu(low: Lowering, op: Op) -> Tensor:
    return low.emit("LEAKY_RELU", [low.read(op.inputs[0])], low.output(), alpha=op.attrs["slope"])


@_rule("softmax")
def _softmax(low: Lowering, op: Op) -> Tensor:
    x = low.read(op.inputs[0])
    last, axis = len(x.shape) - 1, file_axis(op.attrs["axis"], len(x.shape))
    if axis == last:
        return low.emit("SOFTMAX", [x], low.output(), beta=1.0)
    perm = [i for i in range(last + 1) if i != axis] + [axis]
    moved = low.transpose(x, perm)
    soft = low.emit("SOFTMAX", [moved], low.like(moved, moved.shape, "softmax"), beta=1.0)
    return low.transpose(soft, [perm.index(i) for i in range(last + 1)], low.output())


@_rule("add", "sub", "mul")
def _binary(low: Lowering, op: Op) -> Tensor:
    inputs = [operand(low, op, name) for name in op.inputs]
    return low.clipped(low.emit(op.kind.upper(), inputs, low.output(), **low.fused()))


def operand(low: Lowering, op: Op, name: str) -> Tensor:
    """An input of an elementwise op; a constant gets the axes it lacks in front, as NumPy has it."""
    rank = len(low.graph.shape(op.output))
    if low.graph.value(name).is_const:
        constant = low.constant(name)
        full = Constant(constant.data.reshape((1,) * (rank - constant.data.ndim) + constant.data.shape), constant.q)
        return low.store(full.laid_out(NHWC_OF_NCHW) if rank == 4 else full, "constant")
    x = low.read(name)
    if len(x.shape) != rank:
        raise NotLowered(f"an input of shape {low.graph.shape(name)} would be broadcast over the batch")
    return x


@_rule("concat")
def _concat(low: Lowering, op: Op) -> Tensor:
    axis = file_axis(op.attrs["axis"], len(low.graph.shape(op.output)))
    output = low.output()
    tensors = [low.recode(low.read(name), output.q) for name in op.inputs]
    return low.concat(tensors, axis, output)


@_rule("slice")
def _slice(low: Lowering, op: Op) -> Tensor:
    x = low.read(op.inputs[0])
    axis = file_axis(op.attrs["axis"], len(x.shape))
    return low.slice(x, axis, op.attrs["start"], low.output())


@_rule("channel_shuffle")
def _channel_shuffle(low: Lowering, op: Op) -> Tensor:
    x, groups = low.read(op.inputs[0]), op.attrs["groups"]
    *outer, channels = x.shape
    grouped = low.reshape(x, (int(np.prod(outer)), groups, channels // groups))
    return low.reshape(low.transpose(grouped, (0, 2, 1)), x.shape, low.output())


@_rule("upsample")
def _upsample(low: Lowering, op: Op) -> Tensor:
    """As concatenations of the image with itself; RESIZE_NEAREST_NEIGHBOR is not delegated to XNNPACK."""
    x, (rows, columns) = low.read(op.inputs[0]), op.attrs["factor"]
    batch, height, width, channels = x.shape
    # Pixel by pixel the channels again, then row by row the pixels again.
    pixels = low.reshape(x, (1, 1, batch * height * width, channels))
    wide = low.concat([pixels] * columns, 3)
    lines = low.reshape(wide, (1, 1, batch * height, width * columns * channels))
    return low.reshape(low.concat([lines] * rows, 3), low.shape(op.output), low.output())


@_rule("pad")
def _pad(low: Lowering, op: Op) -> Tensor:
    a, x = attrs_of(op), low.read(op.inputs[0])
    return low.pad_constant(x, a["pad"], stored(x, a["value"]))


@_rule("flatten", "reshape")
def _reshape(low: Lowering, op: Op) -> Tensor:
    """Through NCHW order, because that is what the graph's numbers are counted in."""
    x, shape = low.read(op.inputs[0]), low.shape(op.output)
    if len(x.shape) == 4:
        x = low.transpose(x, NCHW_OF_NHWC)
    if len(shape) != 4:
        return low.reshape(x, shape)
    batch, height, width, channels = shape
    return low.transpose(low.reshape(x, (batch, channels, height, width)), NHWC_OF_NCHW)


@_rule("transpose")
def _transpose(low: Lowering, op: Op) -> Tensor:
    x, perm = low.read(op.inputs[0]), op.attrs["perm"]
    if len(perm) == 4:
        perm = tuple(file_axis(perm[i], 4) for i in NHWC_OF_NCHW)
    return low.transpose(x, perm)


def file_axis(axis: int, rank: int) -> int:
    """Where an axis of the graph's layout is in the file's."""
    axis %= rank
    return NCHW_OF_NHWC[axis] if rank == 4 else axis
