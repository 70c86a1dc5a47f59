"""Quantisation in training: a graph computes with gradients what its integer meaning (`ir.quantized`) computes.

Activations go from op to op as float32 integers: codes less their zero point. So sums of products are exact as they
are in integer kernels, and forward gives the codes of `run_codes`, but for these:

- Sums beyond 2**24 are rounded before they are scaled, instead of once: by 2**-25 of themselves, which moves no code
  that is farther than 2**-16 from a half (codes have 8 bits, and the rest saturates).
- Tables are computed number by number and not from 256 entries; a vectorised exponential may differ by an ulp, and a
  code, by one, where that reaches over a half.

Weights are coded per channel and biases on the grid of the sums, as the target stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.errors import InputError
from edgecnn.ir import reference
from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.module import GraphModule
from edgecnn.ir.ops import NO_CLIP, SAME_CODES, attrs_of
from edgecnn.ir.quantized import counted_pixels
from edgecnn.quant.finish import finished
from edgecnn.quant.learned import Grid, LearnedQ, keep_in_bounds, learned_group
from edgecnn.quant.straight_through import added, exactly, quantized, requantized, rounded
from edgecnn.quant.ties import shared_groups

Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Coded:
    """An operand in one forward pass: codes less the zero point, and what they mean."""

    codes: Tensor
    grid: Grid

    @property
    def real(self) -> Tensor:
        """The real numbers."""
        scale = self.grid.scale
        return self.codes * (scale if scale.ndim == 0 else _along(scale, self.codes.ndim))


Meaning = Callable[[Attrs, list[Coded], Grid], Tensor]
"""From an op's attributes, its operands and its output's parameters to the output's codes less the zero point."""

CODED: dict[str, Meaning] = {}


class FakeQuantModule(GraphModule):
    """A graph with quantisation parameters that trains as it will be computed; `to_graph` has what was learned.

    Its `forward` gives the dequantised codes of `ir.quantized.run_codes` (exceptions: above). Gradients pass through
    roundings unchanged and stop where codes saturate. Batch norm is folded in such graphs; one that is not is frozen.

    Args:
        graph: from `quant.assign`, on the graph that a target's passes made.
        learn_scales: train the scales of weights and activations (LSQ), not only weights and biases.
        learn_zero_points: train zero points, where no activation fixes them (LSQ+).

    Raises:
        InputError: the graph has no quantisation parameters.
    """

    def __init__(self, graph: Graph, *, learn_scales: bool = True, learn_zero_points: bool = False) -> None:
        super().__init__(graph)
        if all(value.q is None for value in graph.values.values()):
            raise InputError(
                "the graph has no quantisation parameters",
                where=graph.name,
                do="run a target's passes, measure and assign first",
            )
        self.learned: dict[str, LearnedQ] = {}
        self._learned_of: dict[str, str] = {}
        for group in shared_groups(graph):
            self._learn(group.values, learned_group(graph, group, zero_points=learn_zero_points))
        for op in graph.ops:
            for name in op.inputs:
                value = graph.value(name)
                if value.data is None or value.q is None or value.q.dtype == "int32" or name in self._learned_of:
                    continue
                trained = isinstance(self.constant(name), nn.Parameter)
                numbers = value.data.size // value.q.scale.size
                self._learn((name,), LearnedQ(value.q, numbers=numbers, scales=trained))
        if not learn_scales:
            for learned in self.learned.values():
                learned.requires_grad_(False)

    def _learn(self, names: tuple[str, ...], learned: LearnedQ) -> None:
        key = names[0].replace(".", "/")
        self.learned[key] = learned
        self.add_module(f"learned/{key}", learned)
        self._learned_of.update(dict.fromkeys(names, key))

    @property
    def has_batch_norm(self) -> bool:
        """No: what is left of it is frozen."""
        return False

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the graph: real numbers on the grids of their codes."""
        # In half precision a product of codes would be rounded.
        with torch.autocast(images[0].device.type, enabled=False):
            return self._forward(*(image.float() for image in images))

    def _forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        graph = self.graph
        keep_in_bounds(self.learned.values())
        grids = {key: learned.grid() for key, learned in self.learned.items()}
        grid_of = {name: grids[key] for name, key in self._learned_of.items()}
        live: dict[str, Tensor | Coded] = {}
        for name, image in zip(graph.inputs, images, strict=True):
            live[name] = _coded(image, grid_of[name]) if name in grid_of else image
        for op in graph.ops:
            operands = [live[name] if name in live else self._constant(op, name, live, grid_of) for name in op.inputs]
            live[op.output] = self._run(op, operands, grid_of.get(op.output))
            for name in set(op.inputs):
                if self._last_reader[name] == op.output and name not in graph.outputs:
                    live.pop(name, None)
        outputs = tuple(_real(live[name]) for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _constant(
        self, op: Op, name: str, live: Mapping[str, Tensor | Coded], grid_of: Mapping[str, Grid]
    ) -> Tensor | Coded:
        data, q = self.constant(name), self.graph.value(name).q
        if q is None:
            return data
        if name in grid_of:
            return _coded(data, grid_of[name])
        # A bias: the grid of the sums of products.
        x = live[op.inputs[0]]
        assert isinstance(x, Coded)
        scale = x.grid.scale * grid_of[op.inputs[1]].scale
        return Coded(quantized(data, scale, (float(q.qmin), float(q.qmax))), Grid(scale, None, 0, q))

    def _run(self, op: Op, operands: list[Tensor | Coded], grid: Grid | None) -> Tensor | Coded:
        coded = [operand for operand in operands if isinstance(operand, Coded)]
        if grid is not None and len(coded) == len(operands):
            return Coded(CODED[op.kind](attrs_of(op), coded, grid), grid)
        real = reference.apply(op, [_real(operand) for operand in operands])  # a float island
        return real if grid is None else _coded(real, grid)

    def to_graph(self) -> Graph:
        """The graph with the weights and the parameters as they are now, within the limits of the runtimes' kernels."""
        graph = super().to_graph()
        keep_in_bounds(self.learned.values())
        q = {key: learned.grid().q for key, learned in self.learned.items()}
        return finished(graph, {name: q[key] for name, key in self._learned_of.items()})


def _coded(real: Tensor, grid: Grid) -> Coded:
    scale = grid.scale if grid.scale.ndim == 0 else _along(grid.scale, real.ndim)
    return Coded(quantized(real, scale, grid.bounds, grid.zero), grid)


def _real(operand: Tensor | Coded) -> Tensor:
    return operand.real if isinstance(operand, Coded) else operand


def _along(vector: Tensor, ndim: int) -> Tensor:
    """A vector over the first axis of an array of `ndim` dimensions."""
    return vector.reshape(-1, *(1,) * (ndim - 1))


# ---- the meaning of each kind, in the order of `ir.quantized` --------------------------------------------------------


def _meaning(kind: str) -> Callable[[Meaning], Meaning]:
    def add(function: Meaning) -> Meaning:
        CODED[kind] = function
        return function

    return add


@_meaning("conv")
def _conv(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    x, w = operands[0], operands[1]
    sums = reference.FLOAT["conv"]({**a, "clip": NO_CLIP}, *(operand.codes for operand in operands))
    scale = x.grid.scale * w.grid.scale / y.scale
    return requantized(sums, scale.reshape(1, -1, 1, 1), y.within(a["clip"]), y.zero)


@_meaning("linear")
def _linear(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    x, w = operands[0], operands[1]
    sums = F.linear(*(operand.codes for operand in operands))
    return requantized(sums, x.grid.scale * w.grid.scale / y.scale, y.within(a["clip"]), y.zero)


def _sum_of(sign: int) -> Meaning:
    def add(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
        one, other = (operand.grid.scale / y.scale for operand in operands)
        shift = 20 - (int(np.frexp(max(one.item(), other.item()))[1]) - 1)
        unit = 2.0**-shift
        one, other = (exactly(ratio, (ratio / unit).round() * unit) for ratio in (one, other))
        return added(operands[0].codes, operands[1].codes, (one, sign * other), y.within(a["clip"]), y.zero)

    return add


CODED["add"], CODED["sub"] = _sum_of(1), _sum_of(-1)


@_meaning("mul")
def _mul(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    one, other = operands
    scale = one.grid.scale * other.grid.scale / y.scale
    return requantized(one.codes * other.codes, scale, y.within(a["clip"]), y.zero)


@_meaning("global_pool")
def _global_pool(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    (x,) = operands
    count = x.codes.shape[2] * x.codes.shape[3]
    scale = x.grid.scale / y.scale * float(np.float32(1) / np.float32(count))
    total = x.codes.sum((2, 3), keepdim=a["keepdims"])
    steps = total * scale
    # As the kernel adds it up: codes with their zero points, and both offsets in one float32 number.
    shifted = (total + count * x.grid.zero_point) * scale + (y.zero_point - count * x.grid.zero_point * scale)
    return rounded(exactly(steps, shifted.round() - y.zero_point), y.bounds, y.zero)


@_meaning("avg_pool")
def _avg_pool(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    (x,) = operands
    padded = reference.pad_nchw(x.codes, a["pad"], 0.0)
    sums = F.avg_pool2d(padded, a["kernel"], a["stride"], divisor_override=1)
    counts = _window_counts(a, x.codes.shape[2:])
    if counts.min() == counts.max():
        share = np.float32(1) / counts.flat[0]
        return requantized(sums, x.grid.scale * float(share) / y.scale, y.bounds, y.zero)
    shares = torch.from_numpy(np.float32(1) / counts).to(sums)
    return requantized(sums * x.grid.scale * shares, 1 / y.scale, y.bounds, y.zero)


def _window_counts(a: Attrs, size: tuple[int, ...]) -> Any:
    """The divisor of each window, float32 (1, 1, H, W)."""
    pixels = torch.from_numpy(counted_pixels(a, size))
    return np.rint(F.avg_pool2d(pixels, a["kernel"], a["stride"], divisor_override=1).numpy())


def _table_of(kind: str) -> Meaning:
    def table(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
        (x,) = operands
        real = reference.FLOAT[kind](a, x.real)
        # The gradients of most kinds are computed from their outputs, which must not be overwritten then.
        return requantized(real if kind == "hard_swish" else real.clone(), 1 / y.scale, y.bounds, y.zero)

    return table


for _kind in ("clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu", "softmax", "lrn"):
    CODED[_kind] = _table_of(_kind)


def _move_of(kind: str) -> Meaning:
    def move(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
        return reference.FLOAT[kind](a, *(operand.codes for operand in operands))

    return move


for _kind in SAME_CODES - {"pad"}:
    CODED[_kind] = _move_of(_kind)


@_meaning("pad")
def _pad(a: Attrs, operands: list[Coded], y: Grid) -> Tensor:
    codes = y.q.quantize(np.asarray(a["value"], np.float32)).astype(np.float32) - y.zero_point
    value = float(codes) if codes.ndim == 0 else tuple(codes.tolist())
    return reference.FLOAT["pad"]({**a, "value": value}, operands[0].codes)
