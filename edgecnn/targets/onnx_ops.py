"""How each op kind is written in ONNX: one row for a uniform op, one short function for an irregular one.

A lowering reads its inputs from the writer as float tensors (dequantised codes) and hands its result back to it; the
writer quantises. Nothing here depends on whether the graph is quantised, except where a trick on codes is the point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Note, Op, QParams
from edgecnn.ir.ops import attrs_of
from edgecnn.targets.onnx_stem import stem
from edgecnn.targets.onnx_writer import Writer, code_bounds

Lowering = Callable[[Writer, Op], None]

FLOAT_KINDS = {
    "sub": "ONNX Runtime has no integer subtraction",
    "tanh": "ONNX Runtime has no integer tanh",
    "gelu": "ONNX Runtime has no integer GELU",
    "silu": "ONNX has no SiLU; Sigmoid and Mul are computed in float and fused (QuickGelu)",
    "hard_sigmoid": "ONNX Runtime has no integer hard-sigmoid; fold it into the convolution before it",
    "deform_conv": "ONNX Runtime has no integer deformable convolution",
    "lrn": "ONNX Runtime has no integer response normalisation",
    "batch_norm": "it stands behind no convolution that it could be folded into",
}
"""Kinds that a quantised model still computes in float, between DequantizeLinear and QuantizeLinear, and why."""

LOWER: dict[str, Lowering] = {}


def _lowers(*kinds: str) -> Callable[[Lowering], Lowering]:
    def add(function: Lowering) -> Lowering:
        for kind in kinds:
            LOWER[kind] = function
        return function

    return add


def _uniform(op_type: str, **renamed: str) -> Lowering:
    """Lowers to one node over the op's inputs; `renamed` maps ONNX attributes to ours."""

    def lower(w: Writer, op: Op) -> None:
        a = attrs_of(op)
        inputs = [w.read(name, op) for name in op.inputs]
        w.finish(op, w.node(op_type, inputs, w.result(op), **{theirs: a[ours] for theirs, ours in renamed.items()}))

    return lower


for _kind, _op_type in {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "flatten": "Flatten",
}.items():
    LOWER[_kind] = _uniform(_op_type)
LOWER["leaky_relu"] = _uniform("LeakyRelu", alpha="slope")
LOWER["softmax"] = _uniform("Softmax", axis="axis")
LOWER["concat"] = _uniform("Concat", axis="axis")
LOWER["transpose"] = _uniform("Transpose", perm="perm")
LOWER["batch_norm"] = _uniform("BatchNormalization", epsilon="eps")


def _onnx_pads(pad: tuple[int, int, int, int]) -> list[int]:
    """(top, bottom, left, right) in the order of ONNX: all beginnings, then all ends."""
    top, bottom, left, right = pad
    return [top, left, bottom, right]


@_lowers("conv")
def _conv(w: Writer, op: Op) -> None:
    a = attrs_of(op)
    x, weight, *bias = op.inputs
    rewritten, x_q = stem(w, op), w.graph.value(x).q
    if rewritten is not None and x_q is not None:
        kernel, strides, pad = rewritten.w_oihw.shape[2:], rewritten.stride, rewritten.pad
        source = w.dequantize(rewritten.codes, x_q, w.fresh(f"{rewritten.codes}/for/{op.output}"))
        inputs = [source, w.real_constant(weight, rewritten.w_oihw, w.graph.value(weight).q, op)]
    else:
        kernel, strides, pad = w.graph.shape(weight)[2:], a["stride"], a["pad"]
        inputs = [w.real(x, op), w.real(weight, op)]
    inputs += [w.real(name, op) for name in bias]
    attrs = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": _onnx_pads(pad),
        "dilations": a["dilation"],
        "group": a["groups"],
    }
    w.finish(op, w.node("Conv", inputs, w.result(op), **attrs))


@_lowers("deform_conv")
def _deform_conv(w: Writer, op: Op) -> None:
    a = attrs_of(op)
    x, weight, bias, offset, *mask = op.inputs
    attrs = {
        "kernel_shape": w.graph.shape(weight)[2:],
        "strides": a["stride"],
        "pads": _onnx_pads(a["pad"]),
        "dilations": a["dilation"],
        "group": w.graph.shape(x)[1] // w.graph.shape(weight)[1],
        "offset_group": w.graph.shape(offset)[1] // (2 * prod(w.graph.shape(weight)[2:])),
    }
    inputs = [w.real(name, op) for name in (x, weight, offset, bias, *mask)]
    w.finish(op, w.node("DeformConv", inputs, w.result(op), **attrs))


@_lowers("linear")
def _linear(w: Writer, op: Op) -> None:
    x, *constants = op.inputs
    shape, source = w.shape(x), w.real(x, op)
    weights = [w.real(name, op) for name in constants]
    if len(shape) == 2:
        w.finish(op, w.node("Gemm", [source, *weights], w.result(op), transB=1))
        return
    # Gemm has rows and columns only: the leading dimensions become rows, and come back behind it.
    rows = w.constant(f"{op.output}/rows", np.array([-1, shape[-1]], np.int64))
    flat = w.node("Reshape", [source, rows], w.fresh(f"{op.output}/flat"))
    product = w.node("Gemm", [flat, *weights], w.fresh(f"{op.output}/product"), transB=1)
    back = w.constant(f"{op.output}/shape", np.array(w.shape(op.output), np.int64))
    w.finish_moved(op, product, "Reshape", back)


@_lowers("hard_swish")
def _hard_swish(w: Writer, op: Op) -> None:
    """x * clip(x + 3, 0, 6) / 6. With x coded by scale 6/k and zero point k/2, the gate is the codes between 0 and k
    read with scale 1/k: a clip of bytes (none if k reaches beyond the codes) and an integer multiplication."""
    x = op.inputs[0]
    gate_q = gate_parameters(w.graph.value(x).q)
    if gate_q is None or w.graph.value(op.output).q is None:
        if w.graph.value(op.output).q is not None:
            w.notes.append(
                Note("float", op.name, False, "the input of hard_swish has no scale 6/k with zero point k/2")
            )
        w.finish(op, w.node("HardSwish", [w.real(x, op)], w.result(op)))
        return
    codes = w.codes(x)
    if gate_q.qmax < np.iinfo(gate_q.dtype).max:
        codes = w.clip_codes(codes, (gate_q.qmin, gate_q.qmax), gate_q, w.fresh(f"{op.output}/gate_codes"))
    gate = w.dequantize(codes, gate_q, w.fresh(f"{op.output}/gate"))
    w.finish(op, w.node("Mul", [w.real(x, op), gate], w.result(op)))


def gate_parameters(q: QParams | None) -> QParams | None:
    """The parameters that read clip(codes of x, 0, k) as clip(x + 3, 0, 6) / 6; None if `q` is not 6/k with zero k/2.

    For int8, codes and zero point lie 128 lower. `qmax` is the code of 1, or the largest code if k lies beyond it.
    """
    if q is None:
        return None
    lowest, highest = int(np.iinfo(q.dtype).min), int(np.iinfo(q.dtype).max)
    half = int(q.zero_point) - lowest
    # float32 scales hold 6/k to 24 bits, so a true 6/k is found again to well within 1e-6.
    if half <= 0 or abs(2 * half * float(q.scale) / 6 - 1) > 1e-6:
        return None
    k = 2 * half
    return QParams.per_tensor(1 / k, lowest, q.dtype, qmin=lowest, qmax=min(lowest + k, highest))


@_lowers("hard_sigmoid")
def _hard_sigmoid(w: Writer, op: Op) -> None:
    w.finish(op, w.node("HardSigmoid", [w.real(op.inputs[0], op)], w.result(op), alpha=1 / 6, beta=0.5))


@_lowers("silu")
def _silu(w: Writer, op: Op) -> None:
    # Both nodes read one tensor: ONNX Runtime fuses the pair only then.
    x = w.real(op.inputs[0], op)
    gate = w.node("Sigmoid", [x], w.fresh(f"{op.output}/sigmoid"))
    w.finish(op, w.node("Mul", [x, gate], w.result(op)))


@_lowers("gelu")
def _gelu(w: Writer, op: Op) -> None:
    """x * (1 + erf(x / sqrt(2))) / 2: opset 17 has no Gelu; runtimes fuse these nodes."""
    x = w.real(op.inputs[0], op)
    root, one, half = (
        w.constant(f"{op.output}/{name}", np.asarray(number, np.float32))
        for name, number in (("sqrt2", np.sqrt(2)), ("one", 1), ("half", 0.5))
    )
    scaled = w.node("Div", [x, root], w.fresh(f"{op.output}/scaled"))
    erf = w.node("Erf", [scaled], w.fresh(f"{op.output}/erf"))
    shifted = w.node("Add", [erf, one], w.fresh(f"{op.output}/shifted"))
    doubled = w.node("Mul", [x, shifted], w.fresh(f"{op.output}/doubled"))
    w.finish(op, w.node("Mul", [doubled, half], w.result(op)))


@_lowers("clip")
def _clip(w: Writer, op: Op) -> None:
    source, clip, q = w.read(op.inputs[0], op), (op.attrs["lo"], op.attrs["hi"]), w.graph.value(op.output).q
    if q is not None and w.moves_codes(op):
        w.finish(op, w.clip_codes(source, code_bounds(q, clip), q, w.result(op)))
    else:
        w.finish(op, w.clip_real(source, clip, w.result(op)))


@_lowers("max_pool")
def _max_pool(w: Writer, op: Op) -> None:
    a = attrs_of(op)
    x, pad = w.read(op.inputs[0], op), a["pad"]
    (height, width), q = a["kernel"], w.graph.value(op.output).q
    if any(side >= size for side, size in zip(pad, (height, height, width, width), strict=True)):
        # ONNX Runtime pads by less than the kernel, and one with gaps that hangs over the end reaches further.
        lowest = np.asarray(np.finfo(np.float32).min)
        if q is not None and w.moves_codes(op):
            lowest = np.asarray(q.qmin, q.dtype)
        x, pad = _padded(w, x, pad, lowest, w.fresh(f"{op.output}/padded")), (0, 0, 0, 0)
    attrs = {
        "kernel_shape": a["kernel"],
        "strides": a["stride"],
        "pads": _onnx_pads(pad),
        "dilations": a["dilation"],
    }
    w.finish(op, w.node("MaxPool", [x], w.result(op), **attrs))


@_lowers("avg_pool")
def _avg_pool(w: Writer, op: Op) -> None:
    a = attrs_of(op)
    x, pad, counted = w.real(op.inputs[0], op), a["pad"], a["counted"]
    if counted not in (pad, (0, 0, 0, 0)):
        # ONNX counts all padding or none: what counts is padded beforehand, the rest by the pool.
        x = _padded(w, x, counted, np.asarray(0, np.float32), w.fresh(f"{op.output}/counted"))
        pad = tuple(p - c for p, c in zip(pad, counted, strict=True))
    attrs = {
        "kernel_shape": a["kernel"],
        "strides": a["stride"],
        "pads": _onnx_pads(pad),
        "count_include_pad": int(pad == counted and any(pad)),
    }
    w.finish(op, w.node("AveragePool", [x], w.result(op), **attrs))


@_lowers("global_pool")
def _global_pool(w: Writer, op: Op) -> None:
    # GlobalAveragePool has an integer kernel in ONNX Runtime, ReduceMean has none.
    x = w.real(op.inputs[0], op)
    if attrs_of(op)["keepdims"]:
        w.finish(op, w.node("GlobalAveragePool", [x], w.result(op)))
    else:
        w.finish_moved(op, w.node("GlobalAveragePool", [x], w.fresh(f"{op.output}/map")), "Flatten")


@_lowers("lrn")
def _lrn(w: Writer, op: Op) -> None:
    """x * exp(-beta * log(k + alpha / size * s)), where s sums slices of the squares, padded with zero channels.

    ONNX Runtime's LRN has odd sizes only and takes ten times as long: for 5 of 96 channels at 55x55, 11.8 instead of
    1.2 ms (ONNX Runtime 1.31, x86, 1 thread, best of 12).
    """
    a, x = attrs_of(op), w.real(op.inputs[0], op)
    size, channels = a["size"], w.shape(op.output)[1]

    def step(op_type: str, label: str, *inputs: str) -> str:
        return w.node(op_type, list(inputs), w.fresh(f"{op.output}/{label}"))

    def number(label: str, value: float) -> str:
        return w.constant(f"{op.output}/{label}", np.asarray(value, np.float32))

    def index(label: str, *values: int) -> str:
        return w.constant(f"{op.output}/{label}", np.array(values, np.int64))

    pads = index("pads", 0, size // 2, 0, 0, 0, (size - 1) // 2, 0, 0)
    padded = step("Pad", "padded", step("Mul", "squares", x, x), pads)
    slices = [
        step("Slice", "slice", padded, index("start", at), index("stop", at + channels), index("axis", 1))
        for at in range(size)
    ]
    total = reduce(lambda one, other: step("Add", "sum", one, other), slices)
    base = step("Add", "base", step("Mul", "scaled", total, number("alpha", a["alpha"] / size)), number("k", a["k"]))
    exponent = step("Mul", "exponent", step("Log", "log", base), number("beta", -a["beta"]))
    w.finish(op, w.node("Mul", [x, step("Exp", "power", exponent)], w.result(op)))


@_lowers("slice")
def _slice(w: Writer, op: Op) -> None:
    inputs = [
        w.constant(f"{op.output}/{name}", np.array([number], np.int64))
        for name, number in (("start", op.attrs["start"]), ("stop", op.attrs["stop"]), ("axis", op.attrs["axis"]))
    ]
    w.finish(op, w.node("Slice", [w.read(op.inputs[0], op), *inputs], w.result(op)))


@_lowers("reshape")
def _reshape(w: Writer, op: Op) -> None:
    shape = w.constant(f"{op.output}/shape", np.array(w.shape(op.output), np.int64))
    w.finish(op, w.node("Reshape", [w.read(op.inputs[0], op), shape], w.result(op)))


@_lowers("channel_shuffle")
def _channel_shuffle(w: Writer, op: Op) -> None:
    n, channels, height, width = w.shape(op.output)
    groups = op.attrs["groups"]
    split = w.constant(f"{op.output}/split", np.array([n, groups, channels // groups, height, width], np.int64))
    whole = w.constant(f"{op.output}/shape", np.array([n, channels, height, width], np.int64))
    parts = w.node("Reshape", [w.read(op.inputs[0], op), split], w.fresh(f"{op.output}/parts"))
    mixed = w.node("Transpose", [parts], w.fresh(f"{op.output}/mixed"), perm=(0, 2, 1, 3, 4))
    w.finish(op, w.node("Reshape", [mixed, whole], w.result(op)))


@_lowers("upsample")
def _upsample(w: Writer, op: Op) -> None:
    scales = w.constant(f"{op.output}/scales", np.array([1, 1, *op.attrs["factor"]], np.float32))
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    w.finish(op, w.node("Resize", [w.read(op.inputs[0], op), "", scales], w.result(op), **nearest))


@_lowers("pad")
def _pad(w: Writer, op: Op) -> None:
    a = attrs_of(op)
    source, result = w.read(op.inputs[0], op), w.result(op)
    fill = np.asarray(a["value"], np.float32)
    q = w.graph.value(op.output).q
    if q is not None and w.moves_codes(op):
        fill = np.asarray(q.quantize(fill))
    if fill.ndim == 0:
        w.finish(op, _padded(w, source, a["pad"], fill, result))
    else:
        w.finish(op, _framed(w, op, source, fill, result))


def _padded(w: Writer, source: str, pad: tuple[int, int, int, int], fill: Array, output: str) -> str:
    """`source` with a border of one number."""
    top, left, bottom, right = _onnx_pads(pad)
    pads = w.constant(f"{output}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return w.node("Pad", [source, pads, w.constant(f"{output}/fill", fill)], output)


def _framed(w: Writer, op: Op, source: str, fill: Array, output: str) -> str:
    """`source` with a border of one number per channel: Pad knows only one, so strips are concatenated around it."""
    top, bottom, left, right = op.attrs["pad"]
    n, channels, height, width = w.shape(op.inputs[0])

    def strip(name: str, rows: int, columns: int) -> list[str]:
        block = np.broadcast_to(fill.reshape(1, -1, 1, 1), (n, channels, rows, columns))
        return [w.constant(f"{op.output}/{name}", block)] if rows and columns else []

    above, below = strip("top", top, width + left + right), strip("bottom", bottom, width + left + right)
    sides = [*strip("left", height, left), source, *strip("right", height, right)]
    if not above and not below:
        return w.node("Concat", sides, output, axis=3)
    middle = w.node("Concat", sides, w.fresh(f"{op.output}/sides"), axis=3) if len(sides) > 1 else source
    return w.node("Concat", [*above, middle, *below], output, axis=2)
