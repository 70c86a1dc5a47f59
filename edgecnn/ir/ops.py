"""The closed set of op kinds: attributes, shape rule and multiply-adds of each. What they compute: `ir.reference`.

A new kind is three places: here, `ir.reference` (float and integer meaning), `ir.from_torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from edgecnn.ir.graph import BATCH, Graph, Op

Shape = tuple[int, ...]
Attrs = Mapping[str, Any]
Clip = tuple["float | None", "float | None"]
"""A fused activation: lower and upper bound, None for none. ReLU is (0.0, None), ReLU6 (0.0, 6.0)."""

NO_CLIP: Clip = (None, None)


@dataclass(frozen=True)
class OpKind:
    """The static rules of one kind: how many inputs, which attributes (with defaults), the shape of the output."""

    name: str
    arity: tuple[int, int]
    attrs: Attrs
    shape: Callable[[Attrs, list[Shape]], Shape]
    summary: str


OPS: dict[str, OpKind] = {}
REQUIRED = object()


def _kind(name: str, arity: int | tuple[int, int], summary: str, **attrs: Any) -> Callable[..., Any]:
    def add(shape: Callable[[Attrs, list[Shape]], Shape]) -> Callable[[Attrs, list[Shape]], Shape]:
        OPS[name] = OpKind(name, (arity, arity) if isinstance(arity, int) else arity, attrs, shape, summary)
        return shape

    return add


def window(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Output size of a sliding window along one axis, padding given on both ends (floor rule)."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def _windows(x: Shape, channels: int, kernel: Shape, a: Attrs) -> Shape:
    top, bottom, left, right = a["pad"]
    (sh, sw), (dh, dw) = a["stride"], a.get("dilation", (1, 1))
    return (
        x[0],
        channels,
        window(x[2], kernel[0], sh, top, bottom, dh),
        window(x[3], kernel[1], sw, left, right, dw),
    )


# conv: x NCHW, w OIHW, optional b O. pad is (top, bottom, left, right). clip is the fused activation. dynamic: the
# input is coded in 8 bits as the layer runs (only with a coded weight; see `quant.weights_only`).
@_kind(
    "conv",
    (2, 3),
    "2-D convolution",
    stride=(1, 1),
    pad=(0, 0, 0, 0),
    dilation=(1, 1),
    groups=1,
    clip=NO_CLIP,
    dynamic=False,
)
def _conv(a: Attrs, s: list[Shape]) -> Shape:
    x, w = s[0], s[1]
    if x[1] != w[1] * a["groups"] or w[0] % a["groups"]:
        raise ValueError(f"conv of {x[1]} channels in {a['groups']} groups with a weight of shape {w}")
    return _windows(x, w[0], w[2:], a)


# deform_conv: x, w OIHW, b, offset and, in v2, mask; all as for `nets.deform.deform_conv2d`, which says how groups lie.
@_kind(
    "deform_conv",
    (4, 5),
    "2-D convolution of pixels that an offset names",
    stride=(1, 1),
    pad=(0, 0, 0, 0),
    dilation=(1, 1),
    clip=NO_CLIP,
)
def _deform_conv(a: Attrs, s: list[Shape]) -> Shape:
    x, w, _, offset, *mask = s
    taps = w[2] * w[3]
    y = _windows(x, w[0], w[2:], a)
    groups, rest = divmod(offset[1], 2 * taps)
    places = [(y[0], 2 * taps * groups, *y[2:]), (y[0], taps * groups, *y[2:])]
    if rest or not groups or x[1] % groups or x[1] % w[1] or w[0] % (x[1] // w[1]):
        raise ValueError(f"deform_conv of {x[1]} channels with offsets of shape {offset} and a weight of shape {w}")
    if [offset, *mask] != places[: 1 + len(mask)]:
        raise ValueError(f"deform_conv to {y} with offsets and masks of shapes {[offset, *mask]}")
    return y


@_kind("linear", (2, 3), "x @ w.T + b over the last axis", clip=NO_CLIP, dynamic=False)
def _linear(a: Attrs, s: list[Shape]) -> Shape:
    if s[0][-1] != s[1][1]:
        raise ValueError(f"linear of {s[0][-1]} features with a weight of shape {s[1]}")
    return (*s[0][:-1], s[1][0])


# batch_norm: x, gamma, beta, mean, var; over axis 1; eval-mode meaning. Folded away before measuring.
@_kind("batch_norm", 5, "(x - mean) / sqrt(var + eps) * gamma + beta", eps=REQUIRED)
def _batch_norm(a: Attrs, s: list[Shape]) -> Shape:
    return s[0]


def broadcast(shapes: list[Shape]) -> Shape:
    """The NumPy broadcast of shapes in which `BATCH` stands for any batch."""
    rank = max(len(s) for s in shapes)
    out: list[int] = []
    for dims in zip(*[(1,) * (rank - len(s)) + s for s in shapes], strict=True):
        sizes = {d for d in dims if d != 1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {shapes} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


for _name, _summary in {"add": "a + b", "sub": "a - b", "mul": "a * b"}.items():
    _kind(_name, 2, f"{_summary} with broadcasting", clip=NO_CLIP)(lambda a, s: broadcast(s))

for _name, _summary in {
    "hard_swish": "x * clip(x + 3, 0, 6) / 6",
    "hard_sigmoid": "clip(x / 6 + 0.5, 0, 1)",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x * sigmoid(x)",
    "tanh": "tanh(x)",
    "gelu": "x * Phi(x), exact form",
}.items():
    _kind(_name, 1, _summary)(lambda a, s: s[0])

# clip: ReLU and ReLU6 are clips; lo or hi None means unbounded. leaky_relu has slope for x < 0.
_kind("clip", 1, "min(max(x, lo), hi)", lo=REQUIRED, hi=REQUIRED)(lambda a, s: s[0])
_kind("leaky_relu", 1, "max(x, slope * x)", slope=REQUIRED)(lambda a, s: s[0])
_kind("softmax", 1, "softmax over axis", axis=REQUIRED)(lambda a, s: s[0])


# lrn: the window of channel c is c - size // 2 to c + (size - 1) // 2; channels that do not exist count as zeros.
@_kind(
    "lrn",
    1,
    "x / (k + alpha / size * sum of squares over `size` channels) ** beta",
    size=REQUIRED,
    alpha=REQUIRED,
    beta=REQUIRED,
    k=REQUIRED,
)
def _lrn(a: Attrs, s: list[Shape]) -> Shape:
    if len(s[0]) != 4 or a["size"] < 1:
        raise ValueError(f"lrn over {a['size']} channels of {s[0]}")
    return s[0]


# Pools: pad is explicit on all four sides (ceil mode is resolved into it at import). Max pads with -inf.
@_kind("max_pool", 1, "maximum of a window", kernel=REQUIRED, stride=REQUIRED, pad=(0, 0, 0, 0), dilation=(1, 1))
def _max_pool(a: Attrs, s: list[Shape]) -> Shape:
    return _windows(s[0], s[0][1], a["kernel"], a)


# avg_pool: the divisor is the window clipped to the input, or to the input plus `counted` (t, b, l, r) padding.
@_kind("avg_pool", 1, "mean of a window", kernel=REQUIRED, stride=REQUIRED, pad=(0, 0, 0, 0), counted=(0, 0, 0, 0))
def _avg_pool(a: Attrs, s: list[Shape]) -> Shape:
    return _windows(s[0], s[0][1], a["kernel"], a)


@_kind("global_pool", 1, "mean over H and W", keepdims=True)
def _global_pool(a: Attrs, s: list[Shape]) -> Shape:
    return (*s[0][:2], 1, 1) if a["keepdims"] else s[0][:2]


@_kind("concat", (1, 1_000_000), "concatenation along axis", axis=REQUIRED)
def _concat(a: Attrs, s: list[Shape]) -> Shape:
    at = a["axis"]
    if any(x[:at] + x[at + 1 :] != s[0][:at] + s[0][at + 1 :] for x in s):
        raise ValueError(f"concat along axis {at} of shapes {s}")
    return (*s[0][:at], sum(x[at] for x in s), *s[0][at + 1 :])


@_kind("slice", 1, "x[start:stop] along axis", axis=REQUIRED, start=REQUIRED, stop=REQUIRED)
def _slice(a: Attrs, s: list[Shape]) -> Shape:
    at = a["axis"]
    if not 0 <= a["start"] < a["stop"] <= s[0][at]:
        raise ValueError(f"slice {a['start']}:{a['stop']} of {s[0][at]}")
    return (*s[0][:at], a["stop"] - a["start"], *s[0][at + 1 :])


@_kind("channel_shuffle", 1, "channel g * (C / groups) + k goes to k * groups + g", groups=REQUIRED)
def _channel_shuffle(a: Attrs, s: list[Shape]) -> Shape:
    if s[0][1] % a["groups"]:
        raise ValueError(f"channel_shuffle of {s[0][1]} channels in {a['groups']} groups")
    return s[0]


@_kind("upsample", 1, "every pixel factor[0] times along H and factor[1] times along W", factor=REQUIRED)
def _upsample(a: Attrs, s: list[Shape]) -> Shape:
    (rows, columns), x = a["factor"], s[0]
    if len(x) != 4 or rows < 1 or columns < 1:
        raise ValueError(f"upsample of {x} by {a['factor']}")
    return (*x[:2], x[2] * rows, x[3] * columns)


# pad: (top, bottom, left, right); value is one number, or a tuple with one per channel.
@_kind("pad", 1, "constant padding of H and W", pad=REQUIRED, value=0.0)
def _pad(a: Attrs, s: list[Shape]) -> Shape:
    (top, bottom, left, right), x = a["pad"], s[0]
    return (*x[:2], x[2] + top + bottom, x[3] + left + right)


_kind("flatten", 1, "NCHW to N, C*H*W in that order")(lambda a, s: (s[0][0], prod(s[0][1:])))


# reshape: `shape` is the whole new shape and begins with BATCH.
@_kind("reshape", 1, "the same numbers in NCHW order under another shape", shape=REQUIRED)
def _reshape(a: Attrs, s: list[Shape]) -> Shape:
    if prod(s[0][1:]) != prod(a["shape"][1:]) or a["shape"][0] != BATCH:
        raise ValueError(f"reshape of {s[0]} to {a['shape']}")
    return tuple(a["shape"])


@_kind("transpose", 1, "axes in the order perm; perm[0] is 0", perm=REQUIRED)
def _transpose(a: Attrs, s: list[Shape]) -> Shape:
    if sorted(a["perm"]) != list(range(len(s[0]))) or a["perm"][0] != 0:
        raise ValueError(f"transpose of {s[0]} by {a['perm']}")
    return tuple(s[0][i] for i in a["perm"])


CLIPPING = frozenset(k for k, v in OPS.items() if "clip" in v.attrs)
"""Kinds that can carry a fused activation."""

SAME_CODES = frozenset(
    {"max_pool", "slice", "channel_shuffle", "upsample", "pad", "flatten", "reshape", "transpose", "concat"}
)
"""Kinds that move codes without computing: output and activation inputs share quantisation parameters."""


def attrs_of(op: Op) -> dict[str, Any]:
    """The attributes of `op` with defaults filled in, in the kind's order."""
    return {k: op.attrs.get(k, d) for k, d in OPS[op.kind].attrs.items()}


def infer_shape(graph: Graph, op: Op) -> Shape:
    """The output shape of `op` by the rule of its kind.

    Raises:
        ValueError: the inputs do not fit together.
    """
    return OPS[op.kind].shape(attrs_of(op), [graph.shape(i) for i in op.inputs])


def macs_of(graph: Graph, op: Op) -> int:
    """Multiply-adds of `op` for one image, by the papers' convention: convolutions and linear layers only.

    A convolution's zero weights count as they execute; `batch_norm`, bias, activations and pools count nothing.
    """
    if op.kind not in ("conv", "deform_conv", "linear"):
        return 0
    return prod(graph.shape(op.inputs[1])) * prod(graph.shape(op.output)[2:] if op.kind != "linear" else ())
