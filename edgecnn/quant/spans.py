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


def span_q(span: Span, scheme: Scheme) -> QParams:
    """Parameters whose codes cover `span`; zero has an exact code, and an end at zero is the last code.

    So a span that begins at 0 makes saturation at the lowest code a ReLU.
    """
    low, high = scheme.act_codes
    width = max(span.hi - span.lo, NARROWEST)
    if scheme.symmetric:
        largest = max(-span.lo, span.hi, NARROWEST)
        return coded(largest / high, 0, scheme)
    scale = np.float32(width / (high - low))
    zero = low + round(-span.lo / float(scale))
    return coded(float(scale), min(max(zero, low), high), scheme)


def coded(scale: float, zero_point: int, scheme: Scheme) -> QParams:
    """Parameters of an activation in the codes of `scheme`."""
    low, high = scheme.act_codes
    return QParams.per_tensor(scale, zero_point, scheme.act_dtype, qmin=low, qmax=high)


def gate_grid_q(highest: float, scheme: Scheme) -> QParams | None:
    """Parameters for the input of a hard-swish that is computed by clip and multiply.

    Scale 6/k with zero point k/2 above the lowest code, k even and as large as [-3, highest] allows. Then the lowest
    code is exactly -3, and code - lowest, cut off at k, is exactly k * hard_sigmoid(x). k reaches 492; from 256 on no
    code exceeds k and the gate needs no clip at all. (All this for 8 bits; fewer take a smaller k.)

    Returns:
        None if the range is so wide that not even k = 2 covers it.
    """
    low, high = scheme.act_codes
    k = 2 * int(3 * (high - low) / (max(highest, 0.1) + 3))
    return coded(6 / k, low + k // 2, scheme) if k else None


def fixed_q(kind: str, scheme: Scheme) -> QParams | None:
    """The parameters the runtimes demand for the output of `kind`; None if they are free.

    TFLite fixes sigmoid and softmax to 1/256 from the lowest code on, and tanh to 1/128 around the middle. With fewer
    bits than 8 the steps are as much coarser.
    """
    low, high = scheme.act_codes
    found = None if scheme.symmetric else _fixed(kind, low, high)
    return None if found is None else coded(*found, scheme)


def is_fixed(kind: str, q: QParams) -> bool:
    """Whether `q` are the parameters that the runtimes demand for the output of `kind`."""
    return _fixed(kind, q.qmin, q.qmax) == (float(q.scale), int(q.zero_point))


def _fixed(kind: str, low: int, high: int) -> tuple[float, int] | None:
    """Scale and zero point."""
    levels = high - low + 1  # 256, or a smaller power of two
    if kind in ("sigmoid", "softmax"):
        return 1 / levels, low
    if kind == "tanh":
        return 2 / levels, (low + high + 1) // 2
    return None


def on_gate_grid(q: QParams) -> bool:
    """Whether `q` are parameters that `gate_grid_q` makes: scale 6/k, zero point k/2 above the lowest code."""
    half = int(q.zero_point) - q.qmin
    return half > 0 and float(q.scale) == float(np.float32(3 / half))


def constant_q(data: Array, scheme: Scheme, *, least: float = 0.0) -> QParams:
    """Parameters of a constant operand of an elementwise op: per tensor, in the type of activations.

    Where some scale makes every number a whole number of steps, and uses more than half of the codes, it is that one:
    few numbers with simple ratios, such as 1, 3/2 and 9/4, lose nothing.

    Args:
        data: the constant.
        scheme: the rules of the runtime.
        least: the scale is not smaller than this.
    """
    span = Span.around(float(data.min()), float(data.max()))
    q = _exact_q(data, span, scheme) or span_q(span, scheme)
    return q if float(q.scale) >= least else replace(q, scale=np.asarray(least, np.float32))


EXACT_NUMBERS = 16
"""More different numbers than this are measured ones, which no scale meets."""


def _exact_q(data: Array, span: Span, scheme: Scheme) -> QParams | None:
    """The parameters of the finest scale in which each number of `data` has an exact code; None if there is none."""
    numbers = np.unique(data.astype(np.float64))
    low, high = scheme.act_codes
    reach, width = max(-span.lo, span.hi), span.hi - span.lo
    if len(numbers) > EXACT_NUMBERS or reach < NARROWEST:
        return None
    finest = high if scheme.symmetric else int((high - low) * reach / width)
    for steps in range(finest, finest // 2, -1):
        scale = reach / steps  # the number that is farthest from zero is a whole number of steps by this choice
        codes = numbers / scale
        # Constants and the scale are float32: a quotient is off by as many half units of 24 bits as there are steps.
        if np.all(np.abs(codes - np.rint(codes)) <= steps * 2.0**-23):
            zero = 0 if scheme.symmetric else low + round(-span.lo / scale)
            return coded(scale, zero, scheme)
    return None
