"""Connection pruning: single weights become zero, wherever they are, and stay zero while the others are trained.

The net keeps its shape. Kernels multiply by its zeros like by any number, so it is no faster; it only packs smaller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgecnn.errors import InputError
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.module import GraphModule
from edgecnn.prune.coupling import PRODUCERS

Masks = Mapping[str, Array]
"""By the name of a weight, which of its numbers stay."""


def magnitude_masks(
    graph: Graph, sparsity: float, *, scope: Literal["global", "layer"] = "global", kept: Collection[str] = ()
) -> Masks:
    """Masks under which the share `sparsity` of the weights is zero, those of least magnitude.

    Per layer, every layer loses the same share. Over all layers, magnitudes mean nothing before they are set against
    those of the layer: each weight's square is divided by the sum of all squares in its layer that are not smaller.

    Args:
        graph: a float graph.
        sparsity: at least 0 and below 1.
        scope: see above.
        kept: names of weights that stay whole; they count as weights all the same.

    Source: Han et al. 2015, "Learning both weights and connections", arXiv:1506.02626; over all layers Lee et al. 2021,
        "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611, equation 1.

    Raises:
        InputError: the weights that may go are fewer than shall.
    """
    weights = {op.inputs[1]: graph.const(op.inputs[1]).astype(np.float64) for op in graph.ops if op.kind in PRODUCERS}
    free = {name: weight for name, weight in weights.items() if name not in kept}
    everything = sum(weight.size for weight in weights.values())
    goal, there = round(sparsity * everything), sum(weight.size for weight in free.values())
    if goal > there:
        raise InputError(
            "too many weights are kept",
            where=graph.name,
            expected=f"a share of at most {there / everything:.3f}",
            got=f"{sparsity:g}",
            do="keep fewer layers, or ask for less",
        )
    if scope == "layer":
        share = goal / there
        masks = {name: _all_but(round(share * w.size), np.square(w).reshape(-1)) for name, w in free.items()}
    else:
        scores = [_among_larger(weight) for weight in free.values()]
        flat = _all_but(goal, np.concatenate(scores))
        ends = np.cumsum([len(score) for score in scores])[:-1]
        masks = dict(zip(free, np.split(flat, ends), strict=True))
    return {
        name: masks[name].reshape(weight.shape) if name in masks else np.ones(weight.shape, bool)
        for name, weight in weights.items()
    }


def masks_of(graph: Graph) -> Masks:
    """Masks that keep the zeros that are there."""
    names = dict.fromkeys(op.inputs[1] for op in graph.ops if op.kind in PRODUCERS)
    return {name: graph.const(name) != 0 for name in names}


def _among_larger(weight: Array) -> Array:
    """The square of each weight over the sum of those squares that come after it in rising order, itself included."""
    square = np.square(weight).reshape(-1)
    order = np.argsort(square, kind="stable")
    rest = np.cumsum(square[order][::-1])[::-1]
    found = np.empty_like(square)
    found[order] = square[order] / np.maximum(rest, np.finfo(float).tiny)
    return found


def _all_but(count: int, scores: Array) -> Array:
    """Which are not among the `count` least; of equal ones the first go first."""
    mask = np.ones(len(scores), bool)
    mask[np.argsort(scores, kind="stable")[:count]] = False
    return mask


def masked(graph: Graph, masks: Masks) -> Graph:
    """The graph with zeros where the masks have them."""
    values = [
        replace(v, data=np.where(masks[v.name], graph.const(v.name), np.float32(0))) if v.name in masks else v
        for v in graph.values.values()
    ]
    return Graph.build(graph.name, graph.ops, values, graph.inputs, graph.outputs)


class MaskedModule(GraphModule):
    """A graph that trains and keeps its zeros: every weight is read through its mask, so no gradient goes past it."""

    def __init__(self, graph: Graph, masks: Masks) -> None:
        super().__init__(graph)
        self._mask_names = {name: f"mask{at}" for at, name in enumerate(masks)}
        for name, mask in masks.items():
            self.register_buffer(self._mask_names[name], torch.from_numpy(mask), persistent=False)

    def constant(self, name: str) -> Tensor:
        """The parameter or buffer of a constant, as the net sees it."""
        tensor = super().constant(name)
        if name not in self._mask_names:
            return tensor
        mask: Tensor = getattr(self, self._mask_names[name])
        # A product would keep minus zero and, after an overflow, not a number.
        return torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def masking(masks: Masks) -> partial[MaskedModule]:
    """What `tune_graph` takes as `make_module`, so that fine-tuning keeps the zeros."""
    return partial(MaskedModule, masks=masks)


def sparsity_of(graph: Graph) -> float:
    """The share of zeros among the weights of convolutions and linear layers."""
    weights = [graph.const(name) for name in dict.fromkeys(o.inputs[1] for o in graph.ops if o.kind in PRODUCERS)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights)
