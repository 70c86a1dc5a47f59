"""Where a quantised net loses: signal to noise and saturation of each value, and each op quantised alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Array, Graph, QParams
from edgecnn.ir.ops import SAME_CODES
from edgecnn.quant.simulate import Simulation, coded_constants, decibels, float_constants, lost


@dataclass(frozen=True)
class ValueLoss:
    """What is left of one activation.

    Args:
        name: of the value; `kind` is that of the op that makes it, or `input`.
        kind: see `name`.
        scale: of its codes.
        zero_point: of its codes.
        sqnr_db: signal to noise against the float net, with all noise that came before.
        saturated: the share of the float net's numbers beyond the last code by more than half a step.
        used: the share of its codes that occur.
    """

    name: str
    kind: str
    scale: float
    zero_point: int
    sqnr_db: float
    saturated: float
    used: float


@dataclass(frozen=True)
class OpLoss:
    """One op quantised while all else is in float.

    Args:
        name: of the op; the net's input counts as one.
        kind: of the op, or `input`.
        noise: power of the net's output error over that of the output.
    """

    name: str
    kind: str
    noise: float

    @property
    def sqnr_db(self) -> float:
        """The noise as signal to noise of the net's output."""
        return decibels(self.noise)


def value_losses(float_graph: Graph, graph: Graph, images: Array) -> list[ValueLoss]:
    """Each coded activation of `graph` that is not merely moved, in the order of the net, as the target computes it.

    Args:
        float_graph: the same ops in real numbers.
        graph: with parameters.
        images: float32 (N, C, H, W).
    """
    shown = {name: value.q for name, value in graph.values.items() if value.q is not None and not value.is_const}
    for op in graph.ops:
        if op.kind in SAME_CODES:
            shown.pop(op.output, None)
    tallies = {name: _Tally(q) for name, q in shown.items()}
    for x in np.array_split(images, max(1, len(images) // 16)):
        codes: dict[str, Array] = {}

        def keep(name: str, found: Array, codes: dict[str, Array] = codes) -> None:
            if name in tallies:
                codes[name] = found

        def compare(name: str, y: torch.Tensor, codes: dict[str, Array] = codes) -> None:
            if name in tallies:
                tallies[name].add(codes.pop(name), y.numpy())

        q = graph.value(graph.inputs[0]).q
        quantized.run_codes(graph, x if q is None else q.quantize(x), watch=keep)
        reference.run(float_graph, x, watch=compare)
    kinds = {name: op.kind for name, op in graph.makers.items()}
    return [tally.result(name, kinds.get(name, "input")) for name, tally in tallies.items()]


class _Tally:
    """Sums over images."""

    def __init__(self, q: QParams) -> None:
        self.q = q
        self.signal = self.noise = 0.0
        self.outside = self.numbers = 0
        self.seen = np.zeros(q.qmax - q.qmin + 1, bool)

    def add(self, codes: Array, real: Array) -> None:
        difference = real.astype(np.float64) - self.q.dequantize(codes)
        self.signal += float(np.square(real, dtype=np.float64).sum())
        self.noise += float(np.square(difference).sum())
        (low, high), half = self.q.real_range, float(self.q.scale) / 2
        self.outside += int(((real < low - half) | (real > high + half)).sum())
        self.numbers += real.size
        self.seen[np.unique(codes).astype(np.int64) - self.q.qmin] = True

    def result(self, name: str, kind: str) -> ValueLoss:
        sqnr = decibels(self.noise / max(self.signal, 1e-30))
        saturated = self.outside / self.numbers
        return ValueLoss(name, kind, float(self.q.scale), int(self.q.zero_point), sqnr, saturated, self.seen.mean())


def op_losses(float_graph: Graph, graph: Graph, images: Array) -> list[OpLoss]:
    """The ops of `graph` that compute on codes, the one that costs the output most first.

    An op quantised alone has the weights and the output of its codes, and everything else is that of the float net.
    """
    free, coded = float_constants(float_graph), coded_constants(graph)
    q = {name: value.q for name, value in graph.values.items() if not value.is_const}
    simulation = Simulation(graph, free)
    wanted = simulation.run(images, {})
    name = graph.inputs[0]
    found = [OpLoss(name, "input", lost(simulation.run(images, {name: q[name]}), wanted))] if q[name] else []
    with torch.inference_mode():
        live = simulation.begin(images, {})
        for at, op in enumerate(graph.ops):
            if q[op.output] is not None and op.kind not in SAME_CODES:
                alone = dict(live)
                simulation.advance(alone, at, {op.output: q[op.output]}, coded)
                found.append(OpLoss(op.name, op.kind, lost(simulation.finish(alone, at + 1, {}), wanted)))
            simulation.advance(live, at, {})
    return sorted(found, key=lambda loss: -loss.noise)
