"""Local response normalisation for TFLite, from operators that XNNPACK takes.

LOCAL_RESPONSE_NORMALIZATION itself is not delegated, knows odd sizes only, and takes a power of every number in scalar
code: for 5 of 96 channels at 55x55 it takes 7.3 ms, this 0.5 ms; a 1x1 convolution with a banded weight in place of
the slices takes 0.7 ms (LiteRT 2.3, x86, 1 thread, best of 15).
"""

from __future__ import annotations

from edgecnn.ir.graph import Op
from edgecnn.ir.ops import attrs_of
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Lowering


def lrn(low: Lowering, op: Op) -> Tensor:
    """x * exp(-beta * log(k + alpha / size * s)), where s sums slices of the squares, padded with zero channels."""
    a, x = attrs_of(op), low.read(op.inputs[0])
    size = a["size"]

    def step(code: str, *inputs: Tensor) -> Tensor:
        fused = {"fused_activation_function": 0} if code in ("ADD", "MUL") else {}
        return low.emit(code, inputs, low.like(x, x.shape, code.lower()), **fused)

    padded = low.pad_zeros(step("MUL", x, x), [(0, 0), (0, 0), (0, 0), (size // 2, (size - 1) // 2)])
    total = low.slice(padded, 3, 0, low.like(x, x.shape, "slice"))
    for start in range(1, size):
        total = step("ADD", total, low.slice(padded, 3, start, low.like(x, x.shape, "slice")))
    base = step("ADD", step("MUL", total, low.scalar(a["alpha"] / size, "alpha")), low.scalar(a["k"], "k"))
    exponent = step("MUL", step("LOG", base), low.scalar(-a["beta"], "beta"))
    return low.emit("MUL", [x, step("EXP", exponent)], low.output(), fused_activation_function=0)
