"""The ratios of scales that XNNPACK takes; outside of them an operator silently leaves the fast path.

Source: the checks in LiteRT's xnnpack_delegate.cc (`CheckTensorsInputOutputScale` and its callers).
"""

from __future__ import annotations

import numpy as np

from edgecnn.ir.graph import Graph, Op, QParams
from edgecnn.targets.tflite_file import Operator


def binary_limit(graph: Graph, op: Op) -> str | None:
    """Why the scales of an `add`, `sub` or `mul` do not fit; None if they do, or if it runs in float anyway."""
    inputs, output = [graph.value(name).q for name in op.inputs], graph.value(op.output).q
    known = [q for q in inputs if q is not None]
    if output is None or output.dtype == "int16" or len(known) < 2:
        return None
    return _limit_of_product(known, output) if op.kind == "mul" else _limit_of_sum(known, output)


def operator_limit(operator: Operator) -> str | None:
    """Why the scales of an int8 convolution do not fit; None if they do or if it is another operator."""
    if operator.code not in ("CONV_2D", "DEPTHWISE_CONV_2D") or operator.output.q is None:
        return None
    if operator.output.dtype != "int8":  # XNNPACK takes none of the others
        return None
    x, weight = operator.inputs[0].q, operator.inputs[1].q
    assert x is not None  # guaranteed by `Lowering.begin`: all activations of an int8 op are coded
    assert weight is not None
    ratios = np.asarray(x.scale, np.float64) * weight.scale / operator.output.q.scale
    if ratios.min() < 2.0**-32 or ratios.max() >= 256:
        return f"s_x * s_w / s_y is {ratios.min():.3g} to {ratios.max():.3g}; XNNPACK takes 2**-32 up to 256"
    return None


def _limit_of_sum(inputs: list[QParams], output: QParams) -> str | None:
    for q in inputs:
        ratio = float(q.scale) / float(output.scale)
        if not 2.0**-10 <= ratio < 2.0**8:
            return f"an input's scale is {ratio:.3g} times the output's; XNNPACK takes 2**-10 up to 2**8"
    return None


def _limit_of_product(inputs: list[QParams], output: QParams) -> str | None:
    ratio = float(inputs[0].scale) * float(inputs[1].scale) / float(output.scale)
    if not 2.0**-16 <= ratio < 2.0**8:
        return f"s_a * s_b / s_y is {ratio:.3g}; XNNPACK takes 2**-16 up to 2**8"
    return None
