"""The meaning of a quantised graph in integers, as XNNPACK (LiteRT on CPU) computes it.

An op computes on codes when every activation and constant it reads, and its output, have parameters; otherwise it is
part of a float island: its coded inputs are dequantised, it runs as `ir.reference` says, and a coded output is
quantised. Codes are arrays in the type of their parameters, NCHW like the graph; values without parameters are float32.

Against LiteRT 2.3 on x86 no code differs, op by op and from end to end. ONNX Runtime rounds some ops in another way:

- convolution, linear, sigmoid, leaky_relu: the same codes.
- lrn: a float island in both runtimes, whose logarithms, powers and sums round in another way: a float32 result differs
  by some ulps, and a code, by one, where that reaches over a half.
- add: float32 sums rounded half to even, against 21-bit multipliers with halves up. A multiplier is off by at most
  2**-21 of itself, so two terms of up to 2**8 codes move by at most 2**-12: a code differs, by one, only where the
  exact sum is that close to a half.
- mul, hard_swish (there a product of codes), global_pool, avg_pool: the zero point is added on the other side of the
  rounding to even. A code differs, by one, only at exact halves.

Exact halves are common only where all scales are powers of two (then in up to 10 % of the sums); with measured scales
fewer than one code in ten thousand differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.ir import reference
from edgecnn.ir.graph import Array, Graph, Op, QParams, Value
from edgecnn.ir.ops import NO_CLIP, SAME_CODES, attrs_of
from edgecnn.ir.rounding import F32, add_codes, codes_of, mean_codes, multiply_codes, real_of, requantize

Attrs = Mapping[str, Any]
Watch = Callable[[str, Array], None]


@dataclass(frozen=True)
class Coded:
    """An operand: codes and what they mean."""

    codes: Array
    q: QParams

    @property
    def centred(self) -> Array:
        """The codes less the zero point, as exact float32 integers."""
        centred: Array = self.codes.astype(F32) - F32(int(self.q.zero_point))
        return centred


Meaning = Callable[[Attrs, list[Coded], QParams], Array]
"""From an op's attributes, its operands and its output's parameters to the output's codes."""

INTEGER: dict[str, Meaning] = {}


def _meaning(kind: str) -> Callable[[Meaning], Meaning]:
    def add(function: Meaning) -> Meaning:
        INTEGER[kind] = function
        return function

    return add


def run_codes(graph: Graph, x_codes: Array, *, watch: Watch | None = None) -> list[Array]:
    """The outputs of a quantised graph with one input.

    Args:
        graph: from `quant.assign`.
        x_codes: codes of the input batch, NCHW (float32 if the input has no parameters).
        watch: called with every activation's name and codes as it is made, the input's first.

    Returns:
        One array per output: codes, or float32 where the output has no parameters.
    """
    last = {name: op.output for op in graph.ops for name in op.inputs}
    live = {graph.inputs[0]: x_codes}
    if watch:
        watch(graph.inputs[0], x_codes)
    for op in graph.ops:
        inputs = [live[name] if name in live else stored(graph.value(name)) for name in op.inputs]
        live[op.output] = apply_codes(graph, op, inputs)
        if watch:
            watch(op.output, live[op.output])
        for name in set(op.inputs):
            if last[name] == op.output and name not in graph.outputs:
                live.pop(name, None)
    return [live[name] for name in graph.outputs]


def stored(constant: Value) -> Array:
    """A constant as `apply_codes` takes it: its codes, or its float32 numbers if it has no parameters."""
    if constant.q is not None:
        return constant.codes
    if constant.data is None:
        raise ValueError(f"`{constant.name}` is an activation, not a constant")
    return constant.data


def apply_codes(graph: Graph, op: Op, inputs: Sequence[Array]) -> Array:
    """The output of one op: codes, or float32 where its output has no parameters.

    Args:
        graph: the quantised graph that holds `op`.
        op: the op.
        inputs: one array for each entry of `op.inputs`, constants (see `stored`) included.
    """
    values = [graph.value(name) for name in op.inputs]
    operands = [x if v.q is None else Coded(x, v.q) for x, v in zip(inputs, values, strict=True)]
    y_q = graph.value(op.output).q
    coded = [operand for operand in operands if isinstance(operand, Coded)]
    if y_q is not None and len(coded) == len(operands):
        return INTEGER[op.kind](attrs_of(op), coded, y_q)
    return _float_island(op, operands, y_q)


def _float_island(op: Op, operands: list[Coded | Array], y_q: QParams | None) -> Array:
    reals = [o.q.dequantize(o.codes) if isinstance(o, Coded) else o for o in operands]
    if op.attrs.get("dynamic"):
        reals[0] = coded_as_it_runs(op, reals[0], reals[1])
    with torch.inference_mode():
        y = reference.apply(op, [torch.from_numpy(np.ascontiguousarray(r, F32)) for r in reals])
    real: Array = y.numpy()
    return real if y_q is None else y_q.quantize(real)


def coded_as_it_runs(op: Op, x: Array, weight: Array) -> Array:
    """The input `x` (float32) of a `dynamic` layer, in 255 steps from its least to its largest number, zero among them.

    XNNPACK codes image by image; a dense 1x1 convolution with stride 1 and a linear layer, which are products of
    matrices, pixel by pixel.

    Source: XNNPACK, `xnn_f32_qd8_asymmetric_quantization_params`.
    """
    a = attrs_of(op)
    product = op.kind == "linear" or (weight.shape[2:], a["stride"], a["groups"]) == ((1, 1), (1, 1), 1)
    axes: tuple[int, ...] = (1, 2, 3)
    if product:
        axes = (x.ndim - 1,) if op.kind == "linear" else (1,)
    low = np.minimum(x.min(axes, keepdims=True), 0)
    high = np.maximum(x.max(axes, keepdims=True), 0)
    scale = np.where(high > low, (high - low) / F32(255), F32(1)).astype(F32)
    zero = np.clip(np.rint(-128 - low / scale), -128, 127)
    codes = np.clip(np.rint(x / scale) + zero, -128, 127)
    coded: Array = ((codes - zero) * scale).astype(F32)
    return coded


# ---- products: exact sums, then one rounding -------------------------------------------------------------------------


def _exact_type(weight: Array, x_q: QParams) -> torch.dtype:
    """float32 if no sum of products can leave the integers it holds exactly, else float64.

    A partial sum is at most the sum of |w| over an output's weights times the largest centred code.
    """
    reach = max(abs(x_q.qmin - int(x_q.zero_point)), abs(x_q.qmax - int(x_q.zero_point)))
    sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return torch.float32 if int(sums.max(initial=0)) * reach <= 2**24 else torch.float64


def _products(operands: list[Coded], run: Callable[[Tensor, Tensor], Tensor]) -> Array:
    x, w = operands[0], operands[1]
    dtype = _exact_type(w.codes, x.q)
    with torch.inference_mode():
        y: Array = run(torch.from_numpy(x.centred).to(dtype), torch.from_numpy(w.codes).to(dtype)).numpy()
    return y


@_meaning("conv")
def _conv(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    def run(x: Tensor, w: Tensor) -> Tensor:
        padded = reference.pad_nchw(x, a["pad"], 0.0)
        return F.conv2d(padded, w, None, a["stride"], 0, a["dilation"], a["groups"])

    return _with_bias(a, operands, _products(operands, run), y_q, (1, -1, 1, 1))


@_meaning("linear")
def _linear(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    return _with_bias(a, operands, _products(operands, F.linear), y_q, (-1,))


def _with_bias(a: Attrs, operands: list[Coded], products: Array, y_q: QParams, shape: tuple[int, ...]) -> Array:
    x, w = operands[0], operands[1]
    scale = F32(x.q.scale) * w.q.scale / F32(y_q.scale)  # in XNNPACK's order
    acc = products.astype(np.float64)
    if len(operands) > 2:
        acc += operands[2].codes.reshape(shape)
    return requantize(acc, scale.astype(F32).reshape(shape), y_q, a["clip"])


@_meaning("add")
def _add(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    x, y = operands
    return add_codes(x.codes, y.codes, x.q, y.q, y_q, a["clip"])


@_meaning("sub")
def _sub(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    x, y = operands
    return add_codes(x.codes, y.codes, x.q, y.q, y_q, a["clip"], sign=-1)


@_meaning("mul")
def _mul(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    x, y = operands
    return multiply_codes(x.codes, y.codes, x.q, y.q, y_q, a["clip"])


# ---- means -----------------------------------------------------------------------------------------------------------


@_meaning("global_pool")
def _global_pool(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    (x,) = operands
    count = x.codes.shape[2] * x.codes.shape[3]
    total = x.codes.sum(axis=(2, 3), keepdims=a["keepdims"], dtype=np.int32)
    return mean_codes(total, count, x.q, y_q)


@_meaning("avg_pool")
def _avg_pool(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    (x,) = operands
    sums = _window_sums(a, x.centred)
    counts = np.rint(_window_sums({**a, "pad": (0, 0, 0, 0)}, counted_pixels(a, x.codes.shape[2:])))
    if counts.min() == counts.max():  # a depthwise convolution of weights 1 / n
        share = F32(1) / F32(counts.flat[0])
        return requantize(sums, F32(x.q.scale) * share / F32(y_q.scale), y_q, NO_CLIP)
    return codes_of(sums * F32(x.q.scale) * (F32(1) / counts.astype(F32)), y_q)  # a float island


def _window_sums(a: Attrs, x_nchw: Array) -> Array:
    """The sum of each window, exact: a window of n codes sums to less than 2**8 * n, far below 2**24."""
    padded = reference.pad_nchw(torch.from_numpy(np.ascontiguousarray(x_nchw, F32)), a["pad"], 0.0)
    with torch.inference_mode():
        sums: Array = F.avg_pool2d(padded, a["kernel"], a["stride"], divisor_override=1).numpy()
    return sums


def counted_pixels(a: Attrs, size: tuple[int, ...]) -> Array:
    """1 where a pixel of the padded input counts in the divisor, else 0; shape (1, 1, H, W) with padding."""
    (top, bottom, left, right), (c_top, c_bottom, c_left, c_right) = a["pad"], a["counted"]
    inside = np.ones((1, 1, c_top + size[0] + c_bottom, c_left + size[1] + c_right), F32)
    rest = ((top - c_top, bottom - c_bottom), (left - c_left, right - c_right))
    return np.pad(inside, ((0, 0), (0, 0), *rest))


# ---- one code in, one code out: tables -------------------------------------------------------------------------------


def _table_of(kind: str) -> Meaning:
    def table(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
        (x,) = operands
        codes = np.arange(x.q.qmin, x.q.qmax + 1, dtype=np.int64)
        with torch.inference_mode():
            y = reference.FLOAT[kind](a, torch.from_numpy(real_of(codes, x.q)))
        looked_up: Array = codes_of(y.numpy(), y_q)[x.codes.astype(np.intp) - x.q.qmin]
        return looked_up

    return table


for _kind in ("clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu"):
    INTEGER[_kind] = _table_of(_kind)


def _island_of(kind: str) -> Meaning:
    """Real numbers of the codes, the op in float, codes of the result: how the runtimes compute what mixes channels."""

    def island(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
        (x,) = operands
        with torch.inference_mode():
            y = reference.FLOAT[kind](a, torch.from_numpy(real_of(x.codes, x.q)))
        return codes_of(y.numpy(), y_q)

    return island


for _kind in ("softmax", "lrn"):
    INTEGER[_kind] = _island_of(_kind)


# ---- moves -----------------------------------------------------------------------------------------------------------


def _move_of(kind: str) -> Meaning:
    def move(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
        moved: Array = reference.FLOAT[kind](a, *(torch.from_numpy(o.codes) for o in operands)).contiguous().numpy()
        return moved

    return move


for _kind in SAME_CODES - {"pad", "max_pool"}:
    INTEGER[_kind] = _move_of(_kind)


@_meaning("max_pool")
def _max_pool(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    # Centred codes keep their order, and float32 holds them exactly, so the padding of -inf needs no code.
    (x,) = operands
    with torch.inference_mode():
        y = reference.FLOAT["max_pool"](a, torch.from_numpy(x.centred)).numpy()
    codes: Array = (y + F32(int(y_q.zero_point))).astype(y_q.dtype)
    return codes


@_meaning("pad")
def _pad(a: Attrs, operands: list[Coded], y_q: QParams) -> Array:
    (x,) = operands
    top, bottom, left, right = a["pad"]
    widths = ((0, 0), (0, 0), (top, bottom), (left, right))
    inside = np.pad(np.ones((1, 1, *x.codes.shape[2:]), bool), widths)
    value = y_q.quantize(np.asarray(a["value"], F32)).reshape(1, -1, 1, 1)
    padded: Array = np.where(inside, np.pad(x.codes, widths), value)
    return padded
