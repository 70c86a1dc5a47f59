"""What each filter is worth: one function each, and how the filters of a unit are worth something together.

Scores compare filters of one layer, and their size means nothing across layers. They are divided by their mean over
the layer; a unit's score is the mean over its filters. That holds for estimates of the loss too: first-order changes
of single filters are so small in late layers that their sum would take nearly all of them, and they do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from edgecnn.errors import InputError, UsageError
from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.module import GraphModule
from edgecnn.prune.coupling import LOCKED, Coupling
from edgecnn.registry import Registry


@dataclass(frozen=True, eq=False)
class Filters:
    """One layer, as a score sees it.

    Args:
        weight: its filters as rows, (filters, everything else).
        norm: the scale of the batch norm right behind it, if there is one.
        sensitivity: of the loss to each filter, from calibration images; None without images.
        rng: for the random score.
    """

    weight: Array
    norm: Array | None
    sensitivity: Array | None
    rng: np.random.Generator


@dataclass(frozen=True)
class Score:
    """A way to value filters.

    Args:
        of: the scores of a layer's filters, (filters,); larger is worth more.
        images: whether they need images.
    """

    of: Callable[[Filters], Array]
    images: bool = False


SCORES: Registry[Score] = Registry("score")


def _score(name: str, *, images: bool = False) -> Callable[[Callable[[Filters], Array]], Callable[[Filters], Array]]:
    def add(function: Callable[[Filters], Array]) -> Callable[[Filters], Array]:
        SCORES.add(name, Score(function, images))
        return function

    return add


@_score("l1")
def l1(f: Filters) -> Array:
    """The sum of absolute weights.

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets", arXiv:1608.08710, section 3.1.
    """
    found: Array = np.abs(f.weight).sum(1)
    return found


@_score("l2")
def l2(f: Filters) -> Array:
    """The Euclidean norm of the weights."""
    found: Array = np.sqrt(np.square(f.weight).sum(1))
    return found


@_score("bn")
def bn_scale(f: Filters) -> Array:
    """The scale of the batch norm behind the layer; all alike where there is none.

    Source: Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv:1708.06519.
    """
    return np.ones(len(f.weight)) if f.norm is None else np.abs(f.norm)


@_score("taylor", images=True)
def taylor(f: Filters) -> Array:
    """The first-order change of the loss when the filter's output becomes zero, root mean square over batches.

    Source: Molchanov et al. 2017, "Pruning convolutional neural networks for resource efficient inference",
        arXiv:1611.06440, equation 8, with its normalisation by layer; 2019, arXiv:1906.10771, for the gates.
    """
    assert f.sensitivity is not None  # `unit_scores` has seen to it
    found: Array = np.sqrt(f.sensitivity)
    return found


@_score("fpgm")
def fpgm(f: Filters) -> Array:
    """The sum of distances to the other filters of the layer: what lies in their middle, they can replace.

    Source: He et al. 2019, "Filter pruning via geometric median", arXiv:1811.00250, equation 5.
    """
    square = np.square(f.weight).sum(1)
    distance = square[:, None] + square[None] - 2 * f.weight @ f.weight.T
    found: Array = np.sqrt(np.maximum(distance, 0)).sum(1)
    return found


@_score("random")
def at_random(f: Filters) -> Array:
    """Chance: what any other score must beat."""
    return f.rng.random(len(f.weight))


def unit_scores(
    coupling: Coupling, name: str, *, sensitivities: Mapping[str, Array] | None = None, seed: int = 0
) -> Array:
    """The score of every unit; see the module on how those of its filters are put together.

    Args:
        coupling: whose units.
        name: of a score in `SCORES`.
        sensitivities: of `sensitivities`, for scores that need images.
        seed: of the random score.

    Shapes:
        float64 (units,).

    Raises:
        UsageError: there is no such score, or it needs images or a batch norm that is not there.
    """
    score, graph, rng = SCORES[name], coupling.graph, np.random.default_rng(seed)
    if score.images and sensitivities is None:
        raise UsageError(f"the score `{name}` needs images", do="give --data, or choose another --score")
    if name == "bn" and not any(op.kind == "batch_norm" for op in graph.ops):
        raise UsageError("the net has no batch norm to score by", where=graph.name, do="choose --score l1")
    total, count = np.zeros(coupling.units), np.zeros(coupling.units)
    for op in coupling.producers():
        units = coupling.filters(op)
        weight = graph.const(op.inputs[1]).astype(np.float64)
        norm = norm_behind(graph, op)
        filters = Filters(
            weight.reshape(len(weight), -1),
            None if norm is None else graph.const(norm.inputs[1]).astype(np.float64),
            None if sensitivities is None else sensitivities[op.output],
            rng,
        )
        found = score.of(filters)
        found = found / max(float(found.mean()), 1e-30)
        there = units != LOCKED
        np.add.at(total, units[there], found[there])
        np.add.at(count, units[there], 1)
    return total / np.maximum(count, 1)


def norm_behind(graph: Graph, op: Op) -> Op | None:
    """The batch norm that alone reads what `op` makes."""
    user = graph.only_user(op.output)
    return user if user is not None and user.kind == "batch_norm" else None


def sensitivities(graph: Graph, batches: Iterable[tuple[Array, Array | None]]) -> dict[str, Array]:
    """For each layer and filter the squared first-order change of the loss when its output is zero, over batches.

    With y = gamma * n + beta behind a batch norm, the sum of dL/dy * y is gamma * dL/dgamma + beta * dL/dbeta; without
    one it is the same of weight and bias. So one backward pass per batch tells it for all filters. Images without
    labels are labelled by the net itself.

    Shapes:
        Batches of (float32 (N, C, H, W), int64 (N,) or None); float64 (filters,) per layer.

    Raises:
        InputError: there is no batch.
    """
    module = GraphModule(graph).eval()
    layers = [op for op in graph.ops if op.kind in ("conv", "deform_conv", "linear")]
    sums = {op.output: np.zeros(graph.shape(op.inputs[1])[0]) for op in layers}
    n = 0
    for x, y in batches:
        module.zero_grad(set_to_none=True)
        logits = module(torch.from_numpy(x))
        target = logits.detach().argmax(1) if y is None else torch.from_numpy(y)
        F.cross_entropy(logits, target).backward()  # type: ignore[no-untyped-call]
        n += 1
        for op in layers:
            norm = norm_behind(graph, op)
            names = op.inputs[1:3] if norm is None else norm.inputs[1:3]
            change = sum(_change(module, name) for name in names)
            sums[op.output] += np.square(change)
    if not n:
        raise InputError("no images to score filters with")
    return {name: total / n for name, total in sums.items()}


def _change(module: GraphModule, name: str) -> Array:
    """Per row, the sum of weight times gradient."""
    tensor = module.constant(name)
    if tensor.grad is None:
        return np.zeros(len(tensor))
    product = (tensor.detach() * tensor.grad).double().reshape(len(tensor), -1)
    found: Array = product.sum(1).numpy()
    return found
