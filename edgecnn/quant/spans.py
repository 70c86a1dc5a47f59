"""From an interval of real numbers to the parameters of its codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgecnn.ir.graph import Array, QParams
from edgecnn.quant.scheme import Scheme

# A range narrower than this is widened: a dead activation still needs a scale that is a normal number.
NARROWEST = 1e-5


@dataclass(frozen=True)
class Span:
    """An interval of real numbers that contains zero."""

    lo: float
    hi: float

    @staticmethod
    def around(lo: float, hi: float) -> Span:
        """The smallest span that holds `lo`, `hi` and zero (padding and dead units must have an exact code)."""
        return Span(min(lo, 0.0), max(hi, 0.0))

    def join(self, other: Span) -> Span:
        """The smallest span that holds both."""
        return Span(min(self.lo, other.lo), max(self.hi, other.hi))

    def within(self, lo: float | None, hi: float | None) -> Span:
        """The part of the span in [lo, hi]; None leaves an end as it is."""
        bottom = self.lo if lo is None else max(self.lo, lo)
        top = self.hi if hi is None else min(self.hi, hi)
        return Span.around(bottom, top)

    def widen(self, factor: float) -> Span:
        """The span with both ends scaled."""
        return Span(self.lo * factor, self.hi * factor)


def code_bounds(scheme: Scheme) -> tuple[int, int]:
    """The smallest and largest activation code of `scheme`."""
    info = np.iinfo(scheme.act_dtype)
    # The symmetric code -128 is left unused, as TensorRT does, so that negation stays inside the codes.
    return (-int(info.max), int(info.max)) if scheme.symmetric else (int(info.min), int(info.max))


def span_q(span: Span, scheme: Scheme) -> QParams:
    """Parameters whose codes cover `span`; zero has an exact code, and an end at zero is the last code.

    So a span that begins at 0 makes saturation at the lowest code a ReLU.
    """
    low, high = code_bounds(scheme)
    width = max(span.hi - span.lo, NARROWEST)
    if scheme.symmetric:
        largest = max(-span.lo, span.hi, NARROWEST)
        return QParams.per_tensor(largest / high, 0, scheme.act_dtype, qmin=low, qmax=high)
    scale = np.float32(width / (high - low))
    zero = low + round(-span.lo / float(scale))
    return QParams.per_tensor(float(scale), min(max(zero, low), high), scheme.act_dtype)


def gate_grid_q(highest: float, scheme: Scheme) -> QParams | None:
    """Parameters for the input of a hard-swish that is computed by clip and multiply.

    Scale 6/k with zero point k/2 above the lowest code, k even and as large as [-3, highest] allows. Then the lowest
    code is exactly -3, and code - lowest, cut off at k, is exactly k * hard_sigmoid(x). k reaches 492; from 256 on no
    code exceeds k and the gate needs no clip at all.

    Returns:
        None if the range is so wide that not even k = 2 covers it.
    """
    low, high = code_bounds(scheme)
    k = 2 * int(3 * (high - low) / (max(highest, 0.1) + 3))
    return QParams.per_tensor(6 / k, low + k // 2, scheme.act_dtype) if k else None


def fixed_q(kind: str, scheme: Scheme) -> QParams | None:
    """The parameters the runtimes demand for the output of `kind`; None if they are free.

    TFLite fixes sigmoid and softmax to 1/256 from the lowest code on, and tanh to 1/128 around the middle.
    """
    low, high = code_bounds(scheme)
    if scheme.symmetric:
        return None
    if kind in ("sigmoid", "softmax"):
        return QParams.per_tensor(1 / 256, low, scheme.act_dtype)
    if kind == "tanh":
        return QParams.per_tensor(1 / 128, (low + high + 1) // 2, scheme.act_dtype)
    return None


def constant_q(data: Array, scheme: Scheme, *, least: float = 0.0) -> QParams:
    """Parameters of a constant operand of an elementwise op: per tensor, in the type of activations.

    Args:
        data: the constant.
        scheme: the rules of the runtime.
        least: the scale is not smaller than this.
    """
    q = span_q(Span.around(float(data.min()), float(data.max())), scheme)
    return q if float(q.scale) >= least else replace(q, scale=np.asarray(least, np.float32))
