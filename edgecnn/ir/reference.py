"""The meaning of every op in real numbers: the definition that passes, emitters and the integer reference answer to.

`FLOAT` maps a kind to a function of (attributes, input tensors) in PyTorch; `run` executes a graph with it. These are
differentiable, so `ir.module` trains with the same definitions. The integer meaning of a graph is in `ir.quantized`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.nets.deform import deform_conv2d_decomposed
from edgecnn.nets.layers import channel_shuffle

Attrs = Mapping[str, Any]
FLOAT: dict[str, Callable[..., Tensor]] = {}


def _meaning(*kinds: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        for kind in kinds:
            FLOAT[kind] = function
        return function

    return add


def clamped(y: Tensor, lo: float | None, hi: float | None) -> Tensor:
    """`y` within [lo, hi], None meaning no bound."""
    # All three agree in value; the backward pass of relu and hardtanh is several times faster than that of clamp.
    if lo is None and hi is None:
        return y
    if lo == 0.0 and hi is None:
        return y.relu()
    return y.clamp(lo, hi) if lo is None or hi is None or lo > hi else F.hardtanh(y, lo, hi)


def clipped(a: Attrs, y: Tensor) -> Tensor:
    """`y` under the fused activation of an op (`clip` attribute)."""
    return clamped(y, *a["clip"])


def pad_nchw(x: Tensor, pad: tuple[int, int, int, int], value: float) -> Tensor:
    """`x` padded by (top, bottom, left, right)."""
    top, bottom, left, right = pad
    return F.pad(x, (left, right, top, bottom), value=value) if any(pad) else x


@_meaning("conv")
def _conv(a: Attrs, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    top, bottom, left, right = a["pad"]
    if top == bottom and left == right:  # no copy of the input for the usual symmetric case
        y = F.conv2d(x, w, b, a["stride"], (top, left), a["dilation"], a["groups"])
    else:
        y = F.conv2d(pad_nchw(x, a["pad"], 0.0), w, b, a["stride"], 0, a["dilation"], a["groups"])
    return clipped(a, y)


@_meaning("deform_conv")
def _deform_conv(a: Attrs, x: Tensor, w: Tensor, b: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
    top, _, left, _ = a["pad"]  # around the image everything is zero, so only where it begins matters
    geometry = (list(a["stride"]), [top, left], list(a["dilation"]))
    return clipped(a, deform_conv2d_decomposed(x, w, offset, mask, b, *geometry))


@_meaning("linear")
def _linear(a: Attrs, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return clipped(a, F.linear(x, w, b))


@_meaning("batch_norm")
def _batch_norm(a: Attrs, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, gamma, beta, False, 0.0, a["eps"])


FLOAT["add"] = lambda a, x, y: clipped(a, x + y)
FLOAT["sub"] = lambda a, x, y: clipped(a, x - y)
FLOAT["mul"] = lambda a, x, y: clipped(a, x * y)
FLOAT["clip"] = lambda a, x: clamped(x, a["lo"], a["hi"])
FLOAT["leaky_relu"] = lambda a, x: F.leaky_relu(x, a["slope"])
FLOAT["hard_swish"] = lambda a, x: F.hardswish(x)
FLOAT["hard_sigmoid"] = lambda a, x: F.hardsigmoid(x)
FLOAT["sigmoid"] = lambda a, x: torch.sigmoid(x)
FLOAT["silu"] = lambda a, x: F.silu(x)
FLOAT["tanh"] = lambda a, x: torch.tanh(x)
FLOAT["gelu"] = lambda a, x: F.gelu(x)
FLOAT["softmax"] = lambda a, x: torch.softmax(x, a["axis"])


@_meaning("lrn")
def _lrn(a: Attrs, x: Tensor) -> Tensor:
    return F.local_response_norm(x, a["size"], a["alpha"], a["beta"], a["k"])


@_meaning("max_pool")
def _max_pool(a: Attrs, x: Tensor) -> Tensor:
    padded = pad_nchw(x, a["pad"], float("-inf"))
    return F.max_pool2d(padded, a["kernel"], a["stride"], 0, a["dilation"])


@_meaning("avg_pool")
def _avg_pool(a: Attrs, x: Tensor) -> Tensor:
    # The divisor counts the pixels of the window that lie in the input or in the part of the padding that counts.
    mean = F.avg_pool2d(pad_nchw(x, a["pad"], 0.0), a["kernel"], a["stride"])
    if a["pad"] == a["counted"]:
        return mean
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    rest = tuple(p - c for p, c in zip(a["pad"], a["counted"], strict=True))
    counted = pad_nchw(pad_nchw(ones, a["counted"], 1.0), rest, 0.0)
    return mean / F.avg_pool2d(counted, a["kernel"], a["stride"])


FLOAT["global_pool"] = lambda a, x: x.mean((2, 3), keepdim=a["keepdims"])
FLOAT["concat"] = lambda a, *xs: torch.cat(xs, a["axis"])
FLOAT["slice"] = lambda a, x: x.narrow(a["axis"], a["start"], a["stop"] - a["start"])
FLOAT["flatten"] = lambda a, x: x.flatten(1)
FLOAT["reshape"] = lambda a, x: x.reshape((x.shape[0], *a["shape"][1:]))
FLOAT["transpose"] = lambda a, x: x.permute(a["perm"])


@_meaning("channel_shuffle")
def _channel_shuffle(a: Attrs, x: Tensor) -> Tensor:
    return channel_shuffle(x, a["groups"])


@_meaning("upsample")
def _upsample(a: Attrs, x: Tensor) -> Tensor:
    rows, columns = a["factor"]
    return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)


@_meaning("pad")
def _pad(a: Attrs, x: Tensor) -> Tensor:
    value = a["value"]
    if not isinstance(value, tuple):
        return pad_nchw(x, a["pad"], float(value))
    # One value per channel: pad what is left after taking the value away.
    offset = torch.tensor(value, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
    inside = pad_nchw(torch.ones_like(x[:1, :1]), a["pad"], 0.0)
    return pad_nchw(x, a["pad"], 0.0) + (1 - inside) * offset


Watch = Callable[[str, Tensor], None]


def apply(op: Op, tensors: list[Tensor]) -> Tensor:
    """The output of one op on real tensors."""
    return FLOAT[op.kind](attrs_of(op), *tensors)


def run(
    graph: Graph,
    x_nchw: Array,
    *,
    watch: Watch | None = None,
    dtype: torch.dtype = torch.float32,
    jitter: float = 0.0,
) -> list[Array]:
    """Outputs of `graph` in real numbers; quantisation parameters are ignored.

    Tensors are freed after their last reader, so memory is that of the widest point of the net.

    Args:
        graph: any graph with one input.
        x_nchw: the input batch, NCHW.
        watch: called with every activation's name and tensor as it is made, the input's first.
        dtype: the type to compute in; float64 serves proofs.
        jitter: seeded noise on what every op makes, relative to its root mean square: what another order of rounding
            would do to this net.

    Returns:
        One array per output of the graph.
    """
    last = {name: op.output for op in graph.ops for name in op.inputs}
    live: dict[str, Tensor] = {graph.inputs[0]: torch.from_numpy(np.array(x_nchw)).to(dtype)}
    if watch:
        watch(graph.inputs[0], live[graph.inputs[0]])
    noise = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for op in graph.ops:
            tensors = [_tensor(graph, i, live, dtype) for i in op.inputs]
            live[op.output] = apply(op, tensors)
            if jitter:
                live[op.output] = _jittered(live[op.output], jitter, noise)
            if watch:
                watch(op.output, live[op.output])
            for name in set(op.inputs):
                if last[name] == op.output and name not in graph.outputs:
                    live.pop(name, None)
    return [live[o].numpy() for o in graph.outputs]


def _jittered(y: Tensor, jitter: float, noise: torch.Generator) -> Tensor:
    size = jitter * float(y.pow(2).mean().sqrt())
    return y + size * torch.randn(y.shape, dtype=y.dtype, generator=noise)


def _tensor(graph: Graph, name: str, live: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    data = graph.value(name).data
    return live[name] if data is None else torch.from_numpy(data).to(dtype)
