"""How integer kernels get from a product back to a code: the roundings of XNNPACK, bit for bit.

Everything is float32 where XNNPACK computes in float32, and in its order, because the last bit of a scale decides
halves. `np.rint` rounds half to even, as the `cvtps2dq` and `fcvtns` instructions do.
"""

from __future__ import annotations

import numpy as np

from edgecnn.ir.graph import Array, QParams

Clip = tuple["float | None", "float | None"]

F32 = np.float32


def code_range(q: QParams, clip: Clip) -> tuple[int, int]:
    """The codes an output may take: those of `q`, within the fused activation `clip`."""
    lo, hi = clip
    low = q.qmin if lo is None else max(q.qmin, code_of(lo, q))
    high = q.qmax if hi is None else min(q.qmax, code_of(hi, q))
    return low, high


def code_of(x: float, q: QParams) -> int:
    """The code of one real number under per-tensor parameters, computed in float32."""
    exact = F32(x) / F32(q.scale) + F32(int(q.zero_point))
    return int(np.rint(np.clip(exact, F32(q.qmin), F32(q.qmax))))


def real_of(codes: Array, q: QParams) -> Array:
    """Real numbers of per-tensor codes in float32: one subtraction, one multiplication."""
    real: Array = (codes.astype(np.int32) - q.zero_point).astype(F32) * F32(q.scale)
    return real


def codes_of(x: Array, q: QParams) -> Array:
    """Codes of the float32 numbers `x`: times the reciprocal of the scale, rounded half to even."""
    low, high, zero = q.qmin, q.qmax, int(q.zero_point)
    steps = np.rint(np.clip(x.astype(F32) * (F32(1) / F32(q.scale)), F32(low - zero), F32(high - zero)))
    codes: Array = (steps + F32(zero)).astype(q.dtype)
    return codes


def requantize(acc: Array, scale: Array | np.float32, q: QParams, clip: Clip) -> Array:
    """Codes of the products `acc` times `scale`, rounded half to even.

    Args:
        acc: exact integers, in any type that holds them.
        scale: float32: real size of one unit of `acc` in steps of the output, broadcastable.
        q: the output's parameters.
        clip: the fused activation.
    """
    low, high = code_range(q, clip)
    zero = int(q.zero_point)
    x = acc.astype(F32) * scale
    # Clamped before rounding, as the kernels do; both orders give the same codes and this one cannot overflow.
    np.clip(x, F32(low - zero), F32(high - zero), out=x)
    np.rint(x, out=x)
    x += F32(zero)
    codes: Array = x.astype(q.dtype)
    return codes


def mean_codes(total: Array, count: int, qx: QParams, q: QParams) -> Array:
    """Codes of total / count, where `total` sums `count` uncentred codes of `qx`.

    XNNPACK multiplies the sum as it is and adds both zero points as one float32 before it rounds; against
    `requantize` that differs at exact halves when the output's zero point is odd.
    """
    scale = F32(qx.scale) / F32(q.scale) * (F32(1) / F32(count))
    offset = F32(int(q.zero_point)) - F32(count * int(qx.zero_point)) * scale
    x = np.rint(np.clip(total.astype(F32) * scale + offset, F32(q.qmin), F32(q.qmax)))
    codes: Array = x.astype(q.dtype)
    return codes


def add_codes(a: Array, b: Array, qa: QParams, qb: QParams, q: QParams, clip: Clip, *, sign: int = 1) -> Array:
    """Codes of a + sign * b in XNNPACK's fixed point: 21-bit multipliers, one shift, halves rounded up.

    Source: XNNPACK, `xnn_init_qs8_add_minmax_scalar_params` and the qs8-vadd kernels.
    """
    ratio_a, ratio_b = F32(qa.scale) / F32(q.scale), F32(qb.scale) / F32(q.scale)
    # frexp(x)[1] - 1 is floor(log2(x)): the larger multiplier gets 21 significant bits.
    shift = 20 - (int(np.frexp(max(ratio_a, ratio_b))[1]) - 1)
    mul_a, mul_b = (int(np.rint(np.ldexp(np.float64(r), shift))) for r in (ratio_a, ratio_b))
    bias = (1 << (shift - 1)) - mul_a * int(qa.zero_point) - sign * mul_b * int(qb.zero_point)
    acc = a.astype(np.int64) * mul_a + b.astype(np.int64) * (sign * mul_b) + bias
    low, high = code_range(q, clip)
    codes: Array = np.clip((acc >> shift) + int(q.zero_point), low, high).astype(q.dtype)
    return codes


def multiply_codes(a: Array, b: Array, qa: QParams, qb: QParams, q: QParams, clip: Clip) -> Array:
    """Codes of a * b: the exact product of the centred codes, times one float32 scale."""
    product = (a.astype(np.int32) - qa.zero_point) * (b.astype(np.int32) - qb.zero_point)
    return requantize(product, F32(qa.scale) * F32(qb.scale) / F32(q.scale), q, clip)
