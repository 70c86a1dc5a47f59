"""Empirical bias correction: what quantisation shifts on the mean, channel by channel, the bias takes back.

Rounded weights and activations move the mean of a layer's output, and such shifts add up from layer to layer where the
rest of the noise averages out. The means are those of the integers that the target computes (`ir.quantized`), behind
everything that was corrected before.

Source: M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2
and appendix D (the form that uses data).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Array, Graph, Note, Op, Value
from edgecnn.ir.ops import NO_CLIP

RULE = "bias-correction"
KINDS = ("conv", "linear")


def correct_bias(float_graph: Graph, graph: Graph, images: Array) -> tuple[Graph, list[Note]]:
    """`graph` with biases under which the mean of each channel of each layer is that of `float_graph`.

    Args:
        float_graph: the same net in real numbers: the ops have the same names, the constants may differ.
        graph: from `quant.assign`, or changed since.
        images: float32 (N, C, H, W); all are in memory at once, at the widest point of the net twice.

    Returns:
        The graph, and a note for each layer with the largest shift of a channel, in output codes where it has codes.
    """
    q_in = graph.value(graph.inputs[0]).q
    real = {float_graph.inputs[0]: torch.from_numpy(images)}
    codes: dict[str, Array] = {graph.inputs[0]: images if q_in is None else q_in.quantize(images)}
    wanted_of = float_graph.makers
    last = {name: op.output for op in graph.ops for name in op.inputs}
    edit, notes = graph.edit(), list[Note]()
    for op in graph.ops:
        twin = wanted_of[op.output]
        if op.kind in KINDS and len(op.inputs) > 2:
            shift = _mean(_real_sums(float_graph, twin, real)) - _mean(_coded_sums(graph, op, codes))
            bias = graph.value(op.inputs[2])
            edit.values[bias.name] = replace(bias, data=(graph.const(bias.name) + shift).astype(np.float32))
            notes.append(_note(graph, op, shift))
        stored = [codes[n] if n in codes else quantized.stored(edit.values[n]) for n in op.inputs]
        codes[op.output] = quantized.apply_codes(graph, op, stored)
        with torch.inference_mode():
            real[op.output] = reference.apply(twin, [_tensor(float_graph, n, real) for n in twin.inputs])
        for name in set(op.inputs):
            if last[name] == op.output:
                real.pop(name, None)
                codes.pop(name, None)
    return edit.finish(), notes


def _real_sums(graph: Graph, op: Op, real: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the layer makes of real numbers, before its activation."""
    with torch.inference_mode():
        return reference.apply(op.with_attrs(clip=NO_CLIP), [_tensor(graph, name, real) for name in op.inputs])


def _coded_sums(graph: Graph, op: Op, codes: dict[str, Array]) -> torch.Tensor:
    """What the layer makes of codes, before its activation and before its output is rounded, in real numbers."""
    operands = []
    for name in op.inputs:
        value = graph.value(name)
        numbers = codes[name] if name in codes else quantized.stored(value)
        operands.append(numbers if value.q is None else value.q.dequantize(numbers))
    with torch.inference_mode():
        return reference.apply(op.with_attrs(clip=NO_CLIP), [torch.from_numpy(np.asarray(o)) for o in operands])


def _tensor(graph: Graph, name: str, real: dict[str, torch.Tensor]) -> torch.Tensor:
    data = graph.value(name).data
    return real[name] if data is None else torch.from_numpy(data)


def _mean(y: torch.Tensor) -> Array:
    """The mean of each channel (NCHW or NC), float64."""
    mean: Array = y.double().mean((0, *range(2, y.ndim))).numpy()
    return mean


def _note(graph: Graph, op: Op, shift: Array) -> Note:
    q = graph.value(op.output).q
    largest = float(np.abs(shift).max(initial=0.0))
    unit = "" if q is None else f", {largest / float(q.scale):.2f} codes"
    return Note(RULE, op.name, True, f"largest shift {largest:.3g}{unit}")


def mean_error(float_graph: Graph, graph: Graph, images: Array) -> dict[str, float]:
    """By layer, how far the mean of a channel of the output is off, in root mean square over the channels."""
    means: dict[str, Array] = {}

    def of_codes(name: str, codes: Array) -> None:
        value: Value = graph.value(name)
        if name in layers:
            real = codes if value.q is None else value.q.dequantize(codes)
            means[name] = _mean(torch.from_numpy(real))

    layers = {op.output for op in graph.ops if op.kind in KINDS}
    q = graph.value(graph.inputs[0]).q
    quantized.run_codes(graph, images if q is None else q.quantize(images), watch=of_codes)
    found: dict[str, float] = {}

    def of_real(name: str, y: torch.Tensor) -> None:
        if name in layers:
            found[name] = float(np.sqrt(np.mean((_mean(y) - means[name]) ** 2)))

    reference.run(float_graph, images, watch=of_real)
    return found
