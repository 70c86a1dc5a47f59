"""What the tests of pruning prove with: a net without channels answers as the net in which they are zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.reference import run
from edgecnn.prune.apply import apply, mask
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, alive, prunable

MOVED = 1e-12
"""How far, relative to itself, the image is moved to see how much a net amplifies noise."""
UNIT = 2.0**-53
PER_OP = 4
"""Roundings in units that an op may add: two nets sum the same numbers, apart from zeros, in another order. Such
noise is amplified like that of the image. A channel that is taken for another changes a share of the answer itself."""


def some_units(coupling: Coupling, groups: tuple[Group, ...], rng: np.random.Generator) -> Array:
    """From each group a random share, so that no layer is left without channels."""
    protected = alive(coupling, rng.random(coupling.units))
    chosen = [g.units[~protected[g.units] & (rng.random(len(g)) < rng.random())] for g in groups]
    return np.concatenate(chosen)


def assert_pruned_is_masked(graph: Graph, *, seed: int = 0) -> Graph:
    """Removes random units of random groups; the pruned graph.

    Biases, and the numbers of batch norm, are random too: where they are zero or one, channels that are mixed up in
    them would not show.
    """
    rng = np.random.default_rng(seed)
    coupling, groups = prunable(_lively(graph, rng))
    removed = some_units(coupling, groups, rng)
    pruned = apply(coupling, removed)
    masked = mask(coupling, removed)
    x = rng.normal(0, 1, (1, *graph.shape(graph.inputs[0])[1:]))
    moved = x * (1 + MOVED * rng.normal(0, 1, x.shape))
    for found, wanted, other in zip(
        *(_answers(g, i) for g, i in ((pruned, x), (masked, x), (masked, moved))), strict=True
    ):
        size = float(np.abs(wanted).max())
        amplified = float(np.abs(other - wanted).max()) / MOVED
        assert found.shape == wanted.shape
        assert size > 0
        assert np.abs(found - wanted).max() <= PER_OP * len(graph.ops) * UNIT * (size + amplified)
    assert (constants(pruned) < constants(coupling.graph)) == (len(removed) > 0)
    return pruned


def _answers(graph: Graph, x: Array) -> list[Array]:
    return run(graph, x, dtype=torch.float64)


def constants(graph: Graph) -> int:
    """How many numbers a graph holds."""
    return sum(value.data.size for value in graph.values.values() if value.data is not None)


def _lively(graph: Graph, rng: np.random.Generator) -> Graph:
    changed = {}
    for op in graph.ops:
        if op.kind == "batch_norm":
            for name, (low, high) in zip(
                op.inputs[1:], ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5)), strict=True
            ):
                changed[name] = rng.uniform(low, high, graph.shape(name)).astype(np.float32)
        elif op.kind in ("conv", "linear") and len(op.inputs) > 2:
            changed[op.inputs[2]] = rng.uniform(-0.5, 0.5, graph.shape(op.inputs[2])).astype(np.float32)
    values = [replace(v, data=changed[v.name]) if v.name in changed else v for v in graph.values.values()]
    return Graph.build(graph.name, graph.ops, values, graph.inputs, graph.outputs)
