"""How each ATen operator becomes ops of the graph: one rule each, keyed by the operator's name without overload.

A rule takes the site of the node and the operator's arguments in the order of its schema, defaults filled in; it
returns the name of the value, or the entry it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgecnn.ir.advice import ADVICE
from edgecnn.ir.import_site import Const, Entry, Moved, Site

Rule = Callable[..., Entry]
RULES: dict[str, Rule] = {}
_LEADING: list[str] = []

# fmt: off
MOVES = frozenset({
    "view", "_unsafe_view", "view_copy", "reshape", "flatten", "unflatten", "squeeze", "squeeze_", "unsqueeze",
    "unsqueeze_", "permute", "transpose", "swapaxes", "movedim", "t", "slice", "narrow", "select", "chunk", "split",
    "split_with_sizes", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "tensor_split", "unbind",
    "channel_shuffle", "native_channel_shuffle",
})
"""Operators that only move numbers; `ir.movement` reads chains of them back."""

SAME = frozenset({
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "type_as",
    "expand", "expand_as",
})
"""Operators that leave the numbers as they are (an expand only repeats what broadcasting repeats anyway)."""
# fmt: on


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of the operators `names`."""

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        _LEADING.append(names[0])
        return function

    return add


def importable() -> list[str]:
    """The operators that can be imported, one name for each group of synonyms."""
    return sorted(
        {*(n for n in _LEADING if n[0] != "_"), "reshape", "permute", "slice", "split", "channel_shuffle", "expand"}
    )


def pair(value: Any) -> tuple[int, int]:
    """Rows and columns of an argument that may be one number for both."""
    items = [value] if isinstance(value, int) else list(value)
    return (int(items[0]), int(items[-1]))


def sides(padding: Any) -> tuple[int, int, int, int]:
    """A symmetric padding as (top, bottom, left, right)."""
    rows, columns = pair(padding)
    return (rows, rows, columns, columns)


# ---- layers with weights


@rule("conv2d")
def _conv2d(at: Site, x: Entry, w: Entry, b: Entry, stride: Any, padding: Any, dilation: Any, groups: int) -> str:
    name, weight = at.act(x), at.const(w, "weight")
    dilation = pair(dilation)
    if padding == "valid":
        pad = (0, 0, 0, 0)
    elif padding == "same":  # an odd rest goes to the bottom and right
        rows, columns = (d * (k - 1) for d, k in zip(dilation, at.shape(weight)[2:], strict=True))
        pad = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    else:
        pad = sides(padding)
    bias = () if b is None else (at.const(b, "bias"),)
    return at.emit("conv", name, weight, *bias, stride=pair(stride), pad=pad, dilation=dilation, groups=groups)


@rule("conv1d")
def _conv1d(at: Site, x: Entry, w: Entry, b: Entry, stride: Any, padding: Any, dilation: Any, groups: int) -> Moved:
    if not isinstance(w, Const):
        raise at.refuse("needs a constant weight", do="compute the weight from parameters only")
    row = (x if isinstance(x, Moved) else Moved(at.act(x))).then(lambda t: t.unsqueeze(2), at)
    sizes = [padding if isinstance(padding, str) else (0, padding[0]), (1, dilation[0])]
    return Moved(str(_conv2d(at, row, Const(w.tensor.unsqueeze(2), w.name), b, (1, stride[0]), *sizes, groups))).then(
        lambda t: t.squeeze(2), at
    )


@rule("convolution")
def _convolution(
    at: Site,
    x: Entry,
    w: Entry,
    b: Entry,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _: Any,
    groups: int,
) -> str:
    if transposed or len(stride) != 2:
        raise at.refuse("is a transposed or not a 2-D convolution")
    return str(_conv2d(at, x, w, b, stride, padding, dilation, groups))


@rule("edgecnn::deform_conv2d")
def _deform_conv(
    at: Site,
    x: Entry,
    w: Entry,
    offset: Entry,
    mask: Entry,
    b: Entry,
    stride: Any,
    padding: Any,
    dilation: Any,
) -> str:
    weight = at.const(w, "weight")
    bias = b if b is not None else Const(torch.zeros(at.shape(weight)[0]))
    moved = [at.act(offset), *(() if mask is None else (at.act(mask),))]
    inputs = (at.act(x), weight, at.const(bias, "bias"), *moved)
    return at.emit("deform_conv", *inputs, stride=pair(stride), pad=sides(padding), dilation=pair(dilation))


@rule("torchvision::deform_conv2d")
def _torchvision_deform_conv(at: Site, x: Entry, w: Entry, offset: Entry, mask: Entry, b: Entry, *rest: Any) -> str:
    *sizes, _, _, use_mask = rest  # both numbers of groups follow from the shapes
    stride, padding, dilation = sizes[0:2], sizes[2:4], sizes[4:6]
    return str(_deform_conv(at, x, w, offset, mask if use_mask else None, b, stride, padding, dilation))


@rule("linear")
def _linear(at: Site, x: Entry, w: Entry, b: Entry = None) -> str:
    name, weight = at.act(x), at.const(w, "weight")
    return at.emit("linear", name, weight, *(() if b is None else (at.const(b, "bias"),)))


@rule("addmm")
def _addmm(at: Site, b: Entry, x: Entry, w: Entry, beta: float, alpha: float) -> str:
    if (beta, alpha) != (1, 1):
        raise at.refuse("scales its parts by alpha and beta")
    return str(_linear(at, x, _turned(at, w), b))


@rule("matmul", "mm")
def _matmul(at: Site, x: Entry, w: Entry) -> str:
    return str(_linear(at, x, _turned(at, w)))


def _turned(at: Site, w: Entry) -> Const:
    if _depends(w):
        raise at.refuse("multiplies two activations with each other", do=ADVICE["bmm"])
    if w.tensor.ndim != 2:
        raise at.refuse("multiplies by a constant that is no matrix", do="use nn.Linear or nn.Conv2d")
    return Const(w.tensor.t().contiguous())


@rule("batch_norm", "native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit")
def _batch_norm(
    at: Site,
    x: Entry,
    gamma: Entry,
    beta: Entry,
    mean: Entry,
    var: Entry,
    training: bool,
    _: float,
    eps: float,
    *rest: Any,
) -> str:
    if training or mean is None or var is None:
        raise at.refuse("normalises by the statistics of the batch", do="keep running statistics (track_running_stats)")
    name = at.act(x)
    channels = at.shape(name)[1]
    gamma = gamma if gamma is not None else Const(torch.ones(channels))
    beta = beta if beta is not None else Const(torch.zeros(channels))
    parts = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    return at.emit("batch_norm", name, *(at.const(part, role) for role, part in parts.items()), eps=eps)


@rule("_native_batch_norm_legit_no_training")
def _batch_norm_eval(at: Site, x: Entry, *args: Any) -> str:
    gamma, beta, mean, var, momentum, eps = args
    return str(_batch_norm(at, x, gamma, beta, mean, var, False, momentum, eps))


# ---- arithmetic


def _binary(at: Site, kind: str, a: Entry, b: Entry) -> str:
    name = at.act(a)
    if isinstance(b, (int, float)):
        return at.emit(kind, name, at.number(b, len(at.shape(name))))
    if isinstance(b, Const):
        return at.emit(kind, name, at.const(_spread(at, b, len(at.shape(name))), "value"))
    return at.emit(kind, name, at.act(b))


def _spread(at: Site, b: Const, rank: int) -> Const:
    """A constant with as many dimensions as the activation it meets, and without a batch."""
    tensor = b.tensor
    if tensor.ndim > rank:
        raise at.refuse("meets a constant with more dimensions than the activation")
    if tensor.ndim < rank:
        return Const(tensor.reshape((1,) * (rank - tensor.ndim) + tuple(tensor.shape)), b.name)
    if tensor.shape[0] != 1:
        if not bool((tensor == tensor[:1]).all()):
            raise at.refuse("treats the images of a batch differently")
        return Const(tensor[:1], b.name)
    return b


def _scaled(at: Site, b: Entry, factor: float) -> Entry:
    """`factor * b`, emitted only where `b` is an activation."""
    if factor == 1:
        return b
    if isinstance(b, (int, float)):
        return factor * b
    return Const(factor * b.tensor) if isinstance(b, Const) else _binary(at, "mul", b, factor)


def _depends(entry: Entry) -> bool:
    return not isinstance(entry, (int, float, Const))


@rule("add", "add_")
def _add(at: Site, a: Entry, b: Entry, alpha: float = 1) -> str:
    b = _scaled(at, b, alpha)
    return _binary(at, "add", a, b) if _depends(a) else _binary(at, "add", b, a)


@rule("sub", "sub_", "subtract")
def _sub(at: Site, a: Entry, b: Entry, alpha: float = 1) -> str:
    b = _scaled(at, b, alpha)
    # A constant always stands second, so that no emitter has to know another form: a - b = -1 * b + a.
    return _binary(at, "sub", a, b) if _depends(a) else _binary(at, "add", _binary(at, "mul", b, -1.0), a)


@rule("rsub")
def _rsub(at: Site, a: Entry, b: Entry, alpha: float = 1) -> str:
    return str(_sub(at, b, a, alpha))


@rule("neg", "neg_")
def _neg(at: Site, a: Entry) -> str:
    return _binary(at, "mul", a, -1.0)


@rule("mul", "mul_", "multiply")
def _mul(at: Site, a: Entry, b: Entry) -> str:
    return _binary(at, "mul", a, b) if _depends(a) else _binary(at, "mul", b, a)


@rule("div", "div_", "true_divide")
def _div(at: Site, a: Entry, b: Entry, rounding_mode: str | None = None) -> str:
    if rounding_mode is not None:
        raise at.refuse("rounds its result")
    if _depends(b):
        raise at.refuse("divides by an activation", do="divide by a constant, or normalise with a layer we have")
    return _binary(at, "mul", a, Const(1.0 / b.tensor) if isinstance(b, Const) else 1.0 / b)


@rule("square")
def _square(at: Site, a: Entry) -> str:
    return _binary(at, "mul", a, a)


@rule("pow")
def _pow(at: Site, a: Entry, exponent: Entry) -> str:
    if exponent != 2:
        raise at.refuse("raises to another power than 2")
    return _binary(at, "mul", a, a)


# ---- activation functions

for _name in ("hard_sigmoid", "sigmoid", "silu", "tanh", "hard_swish"):
    _aten = {"hard_sigmoid": "hardsigmoid", "hard_swish": "hardswish"}.get(_name, _name)
    rule(_aten, _aten + "_")(lambda at, x, kind=_name: at.emit(kind, at.act(x)))


def _clip(at: Site, x: Entry, low: Entry, high: Entry) -> str:
    if _is_tensor(low) or _is_tensor(high):
        raise at.refuse("clips by a tensor", do="clip by numbers")
    bounds = [None if v is None else float(v) for v in (low, high)]
    return at.emit("clip", at.act(x), lo=bounds[0], hi=bounds[1])


def _is_tensor(entry: Entry) -> bool:
    return entry is not None and not isinstance(entry, (int, float))


@rule("clamp", "clamp_", "clip", "clip_", "hardtanh", "hardtanh_")
def _clamp(at: Site, x: Entry, low: Entry = None, high: Entry = None) -> str:
    return _clip(at, x, low, high)


rule("relu", "relu_")(lambda at, x: _clip(at, x, 0.0, None))
rule("relu6", "relu6_")(lambda at, x: _clip(at, x, 0.0, 6.0))
rule("clamp_min", "clamp_min_")(lambda at, x, low: _clip(at, x, low, None))
rule("clamp_max", "clamp_max_")(lambda at, x, high: _clip(at, x, None, high))
rule("leaky_relu", "leaky_relu_")(lambda at, x, slope: at.emit("leaky_relu", at.act(x), slope=float(slope)))


@rule("prelu", "_prelu_kernel")
def _prelu(at: Site, x: Entry, slope: Entry) -> str:
    if not isinstance(slope, Const):
        raise at.refuse("has a slope that is not constant")
    name = at.act(x)
    if slope.tensor.numel() == 1:
        return at.emit("leaky_relu", name, slope=float(slope.tensor))
    shape = (1, -1, *(1,) * (len(at.shape(name)) - 2))
    slopes = at.const(Const(slope.tensor.reshape(shape), slope.name), "weight")
    negative = at.emit("mul", at.emit("clip", name, lo=None, hi=0.0), slopes)
    return at.emit("add", at.emit("clip", name, lo=0.0, hi=None), negative)


@rule("gelu", "gelu_")
def _gelu(at: Site, x: Entry, approximate: str) -> str:
    if approximate != "none":
        raise at.refuse(f"is the approximate form (`{approximate}`)", do='use nn.GELU() with approximate="none"')
    return at.emit("gelu", at.act(x))


@rule("softmax", "_softmax")
def _softmax(at: Site, x: Entry, axis: int, *_: Any) -> str:
    name = at.act(x)
    return at.emit("softmax", name, axis=at.axis(axis, len(at.shape(name))))


@rule("dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout")
def _dropout(at: Site, x: Entry, p: float, train: bool) -> Entry:
    if train and p:
        raise at.refuse("drops at random in eval mode too", do="use nn.Dropout, or pass training=self.training")
    return x
