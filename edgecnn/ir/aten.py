"""How each ATen operator becomes ops of the graph: one rule each, keyed by the operator's name without overload.

A rule takes the site of the node and the operator's arguments in the order of its schema, defaults filled in; it
returns the name of the value, or the entry it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgecnn.ir.import_site import Const, Entry, Site
from edgecnn.ir.ops import window

Rule = Callable[..., Entry]
RULES: dict[str, Rule] = {}

MOVES = frozenset(
    """view _unsafe_view reshape view_copy flatten unflatten squeeze unsqueeze squeeze_ unsqueeze_ permute transpose
    swapaxes movedim t slice narrow select chunk split split_with_sizes unsafe_chunk unsafe_split
    unsafe_split_with_sizes tensor_split unbind channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle
    """.split()
)
"""Operators that only move numbers; `ir.movement` reads chains of them back."""

SAME = frozenset(
    "alias clone contiguous detach detach_ lift_fresh lift_fresh_copy to _to_copy type_as expand expand_as".split()
)
"""Operators that leave the numbers as they are (an expand only repeats what broadcasting repeats anyway)."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of the operators `names`."""

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return add


def _pair(value: Any) -> tuple[int, int]:
    items = [value] if isinstance(value, int) else list(value)
    return (int(items[0]), int(items[-1]))


def _sides(padding: Any) -> tuple[int, int, int, int]:
    rows, columns = _pair(padding)
    return (rows, rows, columns, columns)


# ---- layers with weights


@rule("conv2d")
def _conv2d(at: Site, x: Entry, w: Entry, b: Entry, stride: Any, padding: Any, dilation: Any, groups: int) -> str:
    name, weight = at.act(x), at.const(w, "weight")
    dilation = _pair(dilation)
    if padding == "valid":
        pad = (0, 0, 0, 0)
    elif padding == "same":  # an odd rest goes to the bottom and right
        rows, columns = (d * (k - 1) for d, k in zip(dilation, at.shape(weight)[2:], strict=True))
        pad = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    else:
        pad = _sides(padding)
    bias = () if b is None else (at.const(b, "bias"),)
    return at.emit("conv", name, weight, *bias, stride=_pair(stride), pad=pad, dilation=dilation, groups=groups)


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
    if not isinstance(w, Const) or w.tensor.ndim != 2:
        raise at.refuse("multiplies by a matrix that is not constant")
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


@rule("hardtanh", "hardtanh_", "clamp", "clamp_", "clip", "clip_")
def _clamp(at: Site, x: Entry, low: Entry = None, high: Entry = None) -> str:
    return _clip(at, x, low, high)


rule("relu", "relu_")(lambda at, x: _clip(at, x, 0.0, None))
rule("relu6", "relu6_")(lambda at, x: _clip(at, x, 0.0, 6.0))
rule("clamp_min", "clamp_min_")(lambda at, x, low: _clip(at, x, low, None))
rule("clamp_max", "clamp_max_")(lambda at, x, high: _clip(at, x, None, high))
rule("leaky_relu", "leaky_relu_")(lambda at, x, slope: at.emit("leaky_relu", at.act(x), slope=float(slope)))


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


# ---- pools, padding, joining


def _ceil_rest(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Extra padding at the end that makes the floor rule give PyTorch's ceil-mode size.

    Source: torch/aten/src/ATen/native/Pool.h, `pooling_output_shape_pad_lr`: a window that would begin in the padding
    after the input is dropped.
    """
    reach = dilation * (kernel - 1) + 1
    out = -(-(size + 2 * pad - reach) // stride) + 1
    if (out - 1) * stride >= size + pad:
        out -= 1
    return max(0, (out - 1) * stride + reach - (size + 2 * pad))


def _pool_windows(
    at: Site, name: str, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    if len(at.shape(name)) != 4:
        raise at.refuse("pools something that is not (N, C, H, W)")
    kernel = _pair(kernel)
    stride = _pair(stride) if stride not in (None, [], ()) else kernel
    top, bottom, left, right = _sides(padding)
    if ceil:
        (kh, kw), (sh, sw), (dh, dw) = kernel, stride, _pair(dilation)
        bottom += _ceil_rest(at.shape(name)[2], kh, sh, top, dh)
        right += _ceil_rest(at.shape(name)[3], kw, sw, left, dw)
    return kernel, stride, (top, bottom, left, right)


@rule("max_pool2d", "max_pool2d_with_indices")
def _max_pool(at: Site, x: Entry, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> str:
    name = at.act(x)
    kernel, stride, pad = _pool_windows(at, name, kernel, stride, padding, dilation, ceil)
    return at.emit("max_pool", name, kernel=kernel, stride=stride, pad=pad, dilation=_pair(dilation))


@rule("avg_pool2d")
def _avg_pool(
    at: Site, x: Entry, kernel: Any, stride: Any, padding: Any, ceil: bool, count_include_pad: bool, divisor: int | None
) -> str:
    if divisor is not None:
        raise at.refuse("has its own divisor", do="leave out divisor_override, and multiply by a number after the pool")
    name = at.act(x)
    kernel, stride, pad = _pool_windows(at, name, kernel, stride, padding, 1, ceil)
    counted = _sides(padding) if count_include_pad else (0, 0, 0, 0)
    return at.emit("avg_pool", name, kernel=kernel, stride=stride, pad=pad, counted=counted)


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive_pool(at: Site, x: Entry, output: Any) -> Entry:
    name = at.act(x)
    average = "avg" in at.target
    size, want = at.shape(name)[2:], _pair(output)
    if want == size:
        return name
    if want == (1, 1) and average:
        return at.emit("global_pool", name)
    if any(s % w for s, w in zip(size, want, strict=True)):
        raise at.refuse(
            f"pools {size[0]}x{size[1]} to {want[0]}x{want[1]}, whose windows are not all alike",
            do="choose an input size that the output size divides",
        )
    kernel = (size[0] // want[0], size[1] // want[1])
    return at.emit("avg_pool" if average else "max_pool", name, kernel=kernel, stride=kernel)


@rule("mean")
def _mean(at: Site, x: Entry, axes: Any = None, keepdim: bool = False, *_: Any) -> str:
    name = at.act(x)
    rank = len(at.shape(name))
    if (
        axes is None
        or rank != 4
        or sorted(at.axis(a, rank) for a in ([axes] if isinstance(axes, int) else axes)) != [2, 3]
    ):
        raise at.refuse("is a mean over other axes than H and W", do="use x.mean((2, 3))")
    return at.emit("global_pool", name, keepdims=bool(keepdim))


@rule("cat", "concat", "concatenate")
def _cat(at: Site, parts: list[Entry], axis: int = 0) -> str:
    names = [at.act(p) for p in parts]
    return at.emit("concat", *names, axis=at.axis(axis, len(at.shape(names[0]))))


@rule("constant_pad_nd", "pad")
def _pad(at: Site, x: Entry, sides: list[int], *how: Any) -> Entry:
    mode = next((h for h in how if isinstance(h, str)), "constant")
    value = next((h for h in how if isinstance(h, (int, float))), 0.0)
    if mode != "constant":
        raise at.refuse(f"pads in the mode `{mode}`", do="pad with a constant")
    name = at.act(x)
    rank = len(at.shape(name))
    if rank != 4 or len(sides) > 6:
        raise at.refuse("pads something that is not (N, C, H, W), or its batch")
    left, right, top, bottom, front, back = (*sides, *(0,) * (6 - len(sides)))
    for axis, (before, after) in {2: (top, bottom), 3: (left, right)}.items():
        if min(before, after) < 0:  # a negative padding cuts away
            size = at.shape(name)[axis]
            name = at.emit("slice", name, axis=axis, start=max(-before, 0), stop=size - max(-after, 0))
    around = tuple(max(p, 0) for p in (top, bottom, left, right))
    if any(around):
        name = at.emit("pad", name, pad=around, value=float(value))
    return _pad_channels(at, name, front, back, value) if front or back else name


def _pad_channels(at: Site, name: str, front: int, back: int, value: float) -> str:
    """New channels in front and behind, made of existing ones times zero (the graph has no constant activations)."""
    channels = at.shape(name)[1]
    if min(front, back) < 0 or max(front, back) > channels or value != 0:
        raise at.refuse("pads channels by a number, by more than there are, or takes some away")
    made: dict[int, str] = {}
    for count in {front, back} - {0}:
        some = name if count == channels else at.emit("slice", name, axis=1, start=0, stop=count)
        made[count] = at.emit("mul", some, at.number(0.0, 4))
    parts = [made[front]] if front else []
    return at.emit("concat", *parts, name, *([made[back]] if back else []), axis=1)
