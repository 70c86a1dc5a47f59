"""Squeeze-and-excitation as a matrix product: the gate multiplies the small weight instead of the large map.

    W (x * g) + b  =  (W * g) x + b

MUL(W, g), BATCH_MATMUL(x, W * g) and ADD(b) take the place of a product over the whole map and a 1x1 convolution. Not
the default: the weight has one scale for all channels, so some accuracy is lost (EfficientNet-B0: cosine .985 instead
of .988), and only x86 (2.99 to 2.79 ms) and cores with dot product but no int8 matrix multiply (2 %) gain from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op, QParams
from edgecnn.ir.ops import NO_CLIP, attrs_of
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Constant, Lowering

LEAST_PIXELS_PER_OUTPUT = 1.5
"""The form pays where H * W is more than this many times the number of output channels."""


def gated_maps(graph: Graph, settings: Mapping[str, str]) -> frozenset[str]:
    """The products x * gate that the 1x1 convolution behind them takes over, if `se=matmul` is set."""
    if settings.get("se", "mul") != "matmul":
        return frozenset()
    return frozenset(op.output for op in graph.ops if op.kind == "mul" and _pays(graph, op))


def _pays(graph: Graph, mul: Op) -> bool:
    conv = graph.only_user(mul.output)
    if conv is None or conv.kind != "conv" or attrs_of(mul)["clip"] != NO_CLIP or _map_and_gate(graph, mul) is None:
        return False
    outputs, _, *kernel = graph.shape(conv.inputs[1])
    a = attrs_of(conv)
    plain = kernel == [1, 1] and a["groups"] == 1 and a["stride"] == (1, 1) and not any(a["pad"])
    coded = all(graph.value(name).q is not None for name in (*mul.inputs, *conv.inputs, conv.output))
    pixels = prod(graph.shape(conv.output)[2:])
    return plain and coded and a["clip"] == NO_CLIP and pixels > LEAST_PIXELS_PER_OUTPUT * outputs


def _map_and_gate(graph: Graph, mul: Op) -> tuple[str, str] | None:
    """The two inputs of a product, the map first; None if they are something else."""
    if len(graph.activations(mul)) == 2:
        for image, gate in (mul.inputs, mul.inputs[::-1]):
            if graph.shape(gate)[2:] == (1, 1) and prod(graph.shape(image)[2:]) > 1:
                return image, gate
    return None


def gated_conv(low: Lowering, op: Op) -> Tensor:
    """A 1x1 convolution of a gated map as BATCH_MATMUL with a gated weight."""
    pair = _map_and_gate(low.graph, low.graph.makers[op.inputs[0]])
    assert pair is not None  # `gated_maps` holds only such products
    x, gate = (low.read(name) for name in pair)
    batch, height, width, channels = x.shape
    weight = _gated_weight(low, low.reshape(gate, (batch, 1, channels)), low.graph.const(op.inputs[1])[:, :, 0, 0])
    rows, y = low.reshape(x, (batch, height * width, channels)), low.output()
    low.note("gate_in_weight", did=True, why=f"{height * width} pixels, {y.shape[3]} output channels")
    return low.reshape(_product(low, rows, weight, low.graph.const(op.inputs[2]), y), y.shape, y)


def _gated_weight(low: Lowering, gate: Tensor, w_oi: Array) -> Tensor:
    """W * g for each image of the batch: one scale for all, zero point 0, as BATCH_MATMUL wants its right side."""
    scale = float(np.abs(w_oi).max()) / 127
    q = QParams.per_tensor(scale, 0, qmin=-127)
    weight = low.store(Constant(q.quantize(w_oi)[None], q), "weight")
    gated_q = QParams.per_tensor(scale * max(abs(bound) for bound in _range(gate)))
    gated = Tensor(low.unique(f"{low.op.output}/gated"), (gate.shape[0], *w_oi.shape), "int8", gated_q)
    return low.emit("MUL", [gate, weight], gated, fused_activation_function=0)


def _product(low: Lowering, rows: Tensor, weight: Tensor, bias: Array, y: Tensor) -> Tensor:
    """rows @ weight.T + bias in the codes of `y`, as rows; the product alone needs a range of its own."""
    lo, hi = _range(y)
    q = _covering(lo - float(bias.max()), hi - float(bias.min()))
    shape = (*rows.shape[:2], weight.shape[1])
    product = Tensor(low.unique(f"{low.op.output}/product"), shape, "int8", q)
    low.emit("BATCH_MATMUL", [rows, weight], product, adj_x=False, adj_y=True)
    bias_q = QParams.per_tensor(max(float(np.abs(bias).max()), 1e-6) / 127, 0, qmin=-127)
    offset = low.store(Constant(bias_q.quantize(bias)[None, None], bias_q), "bias")
    return low.emit("ADD", [product, offset], low.like(y, shape, "rows"), fused_activation_function=0)


def _range(tensor: Tensor) -> tuple[float, float]:
    assert tensor.q is not None  # `gated_maps` holds only coded values
    return tensor.q.real_range


def _covering(lo: float, hi: float) -> QParams:
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = (hi - lo) / 255
    return QParams.per_tensor(scale, int(np.clip(round(-128 - lo / scale), -128, 127)))
