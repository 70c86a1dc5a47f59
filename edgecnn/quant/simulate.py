"""A quantised graph in real numbers: every op computes in float, and what it makes is rounded to its codes.

It gives the codes of `ir.quantized` but where float32 sums round to the other side of a half, at the speed of the float
net. So thousands of trials of other parameters are cheap, also from the middle of the net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgecnn.ir import reference
from edgecnn.ir.graph import Array, Graph, Op, QParams
from edgecnn.ir.ops import SAME_CODES

Live = dict[str, Tensor]
Codes = Mapping[str, "QParams | None"]
Watch = Callable[[Op, Tensor], None]


def rounded(x: Tensor, q: QParams) -> Tensor:
    """`x` as the codes of `q` (per tensor) give it back; halves to even."""
    zero, scale = int(q.zero_point), float(q.scale)
    return (x / scale).round_().clamp_(q.qmin - zero, q.qmax - zero).mul_(scale)


@dataclass
class Simulation:
    """Runs a graph from any op on.

    Args:
        graph: the quantised graph.
        weights: constants as tensors; by default those that the codes of the graph stand for.
    """

    graph: Graph
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights:
            self.weights = coded_constants(self.graph)
        self._last = {name: at for at, op in enumerate(self.graph.ops) for name in op.inputs}

    def codes(self) -> dict[str, QParams | None]:
        """The parameters of the graph's activations."""
        return {name: value.q for name, value in self.graph.values.items() if not value.is_const}

    def begin(self, x: Array, q: Codes) -> Live:
        """The input batch (N, C, H, W), rounded if it has parameters."""
        name = self.graph.inputs[0]
        tensor, own = torch.from_numpy(np.ascontiguousarray(x, np.float32)), q.get(name)
        return {name: tensor if own is None else rounded(tensor, own)}

    def advance(self, live: Live, at: int, q: Codes, weights: Mapping[str, Tensor] | None = None) -> None:
        """Runs the op number `at` on `live`, and forgets what nobody reads any more."""
        op = self.graph.ops[at]
        held = self.weights if weights is None else weights
        y = reference.apply(op, [live[name] if name in live else held[name] for name in op.inputs])
        own = q.get(op.output)
        # What is moved has codes already. Elsewhere the result belongs to nobody else: a fresh tensor.
        live[op.output] = y if own is None or op.kind in SAME_CODES - {"pad"} else rounded(y, own)
        for name in set(op.inputs):
            if self._last[name] == at and name not in self.graph.outputs:
                live.pop(name, None)

    def finish(self, live: Live, start: int, q: Codes, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The first output, from the op number `start` on; `live` is left as it is."""
        live = dict(live)
        with torch.inference_mode():
            for at in range(start, len(self.graph.ops)):
                self.advance(live, at, q, weights)
        return live[self.graph.outputs[0]]

    def run(self, x: Array, q: Codes | None = None, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The first output for the batch `x`; `q` stands in for the graph's own parameters."""
        q = self.codes() if q is None else q
        with torch.inference_mode():
            return self.finish(self.begin(x, q), 0, q, weights)


def coded_constants(graph: Graph) -> dict[str, Tensor]:
    """Each constant as its codes give it back; as it is where it has none."""
    found = {}
    for value in graph.values.values():
        if value.data is not None:
            data = value.data if value.q is None else value.q.dequantize(value.codes)
            found[value.name] = torch.from_numpy(np.ascontiguousarray(data, np.float32))
    return found


def float_constants(graph: Graph) -> dict[str, Tensor]:
    """Each constant as it is."""
    values = graph.values.values()
    return {v.name: torch.from_numpy(np.ascontiguousarray(v.data, np.float32)) for v in values if v.data is not None}


def lost(got: Tensor, wanted: Tensor) -> float:
    """The power of the difference relative to the power of what is wanted: the inverse of signal to noise."""
    return float(errors(got, wanted).mean())


def errors(got: Tensor, wanted: Tensor) -> Array:
    """`lost` image by image, float64; the signal is that of all images. Shapes: (N,)."""
    power = float(wanted.double().pow(2).mean())
    found: Array = (got.double() - wanted.double()).pow(2).flatten(1).mean(1).numpy() / max(power, 1e-30)
    return found


def decibels(ratio: float) -> float:
    """A ratio of noise to signal as signal to noise in dB; 200 at most, which is no noise at all."""
    return float(-10 * np.log10(max(ratio, 1e-20)))
