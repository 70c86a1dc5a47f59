"""Rounding with a gradient: forward what integer kernels compute, backward as if nothing had been rounded.

Codes are float32 integers less their zero point. All bounds are of such codes. Between the bounds the gradient passes
unchanged; outside them it is zero, and what the bounds themselves get goes to the zero point.

Source: Bengio et al. 2013 (straight-through); Esser et al. 2020 (LSQ), equation 3: with the product by the scale that
every reader makes, the gradient of a scale comes out as round(x / s) - x / s inside and as the bound outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Bounds = tuple[float, float]


def requantized(acc: Tensor, scale: Tensor, bounds: Bounds, zero: Tensor | None = None) -> Tensor:
    """Codes of `acc * scale`, rounded half to even: `ir.rounding.requantize`, in two sweeps over memory.

    Args:
        acc: float32; it is overwritten, so no other op may need it (a sigmoid's backward would need its output).
        scale: float32, broadcastable to `acc`.
        bounds: of the output's codes.
        zero: the output's zero point if it is learned.
    """
    codes: Tensor = _Requantize.apply(acc, scale, bounds, zero)  # type: ignore[no-untyped-call]
    return codes


def rounded(steps: Tensor, bounds: Bounds, zero: Tensor | None = None) -> Tensor:
    """The nearest code to each of `steps`, halves to even."""
    codes: Tensor = _Round.apply(steps, bounds, zero)  # type: ignore[no-untyped-call]
    return codes


def added(
    one: Tensor, other: Tensor, ratios: tuple[Tensor, Tensor], bounds: Bounds, zero: Tensor | None = None
) -> Tensor:
    """Codes of `one * ratios[0] + other * ratios[1]`, halves up: `ir.rounding.add_codes`, exact by way of float64.

    Args:
        one: codes, and likewise `other`, which may have to be broadcast.
        other: see `one`.
        ratios: multipliers of 21 bits, 0-d, so that products of codes need 29 bits.
        bounds: of the output's codes.
        zero: the output's zero point if it is learned.
    """
    codes: Tensor = _Add.apply(one, other, *ratios, bounds, zero)  # type: ignore[no-untyped-call]
    return codes


def quantized(real: Tensor, scale: Tensor, bounds: Bounds, zero: Tensor | None = None) -> Tensor:
    """Codes of real numbers as `QParams.quantize` gives them: the quotient is taken in float64.

    Args:
        real: float32.
        scale: float32, broadcastable to `real`.
        bounds: of the codes.
        zero: the zero point if it is learned.
    """
    codes: Tensor = _Quantize.apply(real, scale, bounds, zero)  # type: ignore[no-untyped-call]
    return codes


def exactly(value: Tensor, wanted: Tensor) -> Tensor:
    """`wanted`, with the gradient of `value`."""
    return value + (wanted - value).detach()


def gradient_times(x: Tensor, factor: Tensor | float) -> Tensor:
    """`x`, whose gradient is multiplied by `factor`."""
    scaled: Tensor = _GradientTimes.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled


class _Requantize(Function):
    @staticmethod
    def forward(ctx: Any, acc: Tensor, scale: Tensor, bounds: Bounds, zero: Tensor | None) -> Tensor:
        steps = acc.mul_(scale)
        ctx.bounds = bounds
        ctx.save_for_backward(steps, scale)
        return steps.clamp(*bounds).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        steps, scale = ctx.saved_tensors
        inside = _inside(g, steps, ctx.bounds)
        to_zero = inside.sum() - g.sum() if ctx.needs_input_grad[3] else None
        to_scale = _sum_to(inside * steps, scale) / scale if ctx.needs_input_grad[1] else None
        return inside.mul_(scale), to_scale, None, to_zero


class _Round(Function):
    @staticmethod
    def forward(ctx: Any, steps: Tensor, bounds: Bounds, zero: Tensor | None) -> Tensor:
        ctx.bounds = bounds
        ctx.save_for_backward(steps)
        return steps.clamp(*bounds).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        inside = _inside(g, ctx.saved_tensors[0], ctx.bounds)
        return inside, None, inside.sum() - g.sum() if ctx.needs_input_grad[2] else None


class _Add(Function):
    @staticmethod
    def forward(
        ctx: Any, one: Tensor, other: Tensor, a: Tensor, b: Tensor, bounds: Bounds, zero: Tensor | None
    ) -> Tensor:
        steps = one.double().mul_(a) + other.double().mul_(b)
        ctx.bounds = bounds
        ctx.save_for_backward(steps.float(), one, other, a, b)
        return steps.add_(0.5).floor_().clamp_(*bounds).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        steps, one, other, a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        inside = _inside(g, steps, ctx.bounds)
        return (
            _sum_to(inside * a, one) if wanted[0] else None,
            _sum_to(inside * b, other) if wanted[1] else None,
            (inside * one).sum() if wanted[2] else None,
            (inside * other).sum() if wanted[3] else None,
            None,
            inside.sum() - g.sum() if wanted[5] else None,
        )


class _Quantize(Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, scale: Tensor, bounds: Bounds, zero: Tensor | None) -> Tensor:
        steps = real / scale
        # What rounds to the last code is not outside: the largest weight stands there exactly, and has to learn.
        ctx.bounds = bounds[0] - 0.5, bounds[1] + 0.5
        ctx.save_for_backward(steps, scale)
        codes = steps.round()
        # A float32 quotient never crosses a half, but it may end on one; only there float64 has to say more.
        halves = (steps - codes).abs_() == 0.5
        if halves.any():
            exact = real[halves].double() / scale.expand_as(real)[halves].double()
            codes[halves] = exact.round_().float()
        return codes.clamp_(*bounds)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,) = gradients
        steps, scale = ctx.saved_tensors
        inside = _inside(g, steps, ctx.bounds)
        to_zero = inside.sum() - g.sum() if ctx.needs_input_grad[3] else None
        to_scale = -_sum_to(inside * steps, scale) / scale if ctx.needs_input_grad[1] else None
        return inside.mul_(1 / scale) if ctx.needs_input_grad[0] else None, to_scale, None, to_zero


class _GradientTimes(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor | float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.factor, None


def _inside(g: Tensor, steps: Tensor, bounds: Bounds) -> Tensor:
    """`g` where `steps` lies between the bounds, else 0; a fresh tensor, in one sweep."""
    return torch.ops.aten.hardtanh_backward(g, steps, *bounds)  # type: ignore[no-any-return]


def _sum_to(x: Tensor, like: Tensor) -> Tensor:
    """`x` summed over what broadcasting had spread `like` over."""
    return x.sum_to_size(like.shape) if like.ndim else x.sum()
