"""Mixed precision: the ops whose codes cost the output most are computed in float, as far as a budget of time goes.

What an op in float saves is the rounding of its weights, and that of a value between two such ops. So an op is a
candidate alone, and together with all that read what it makes. Candidates are taken in the order of noise taken away
per microsecond spent, each only if the noise of the whole really falls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.ops import SAME_CODES
from edgecnn.quant.loss import op_losses
from edgecnn.quant.simulate import Simulation, float_constants, lost
from edgecnn.quant.ties import shared_groups

CANDIDATES = 16
"""Ops that are looked at: those that cost most when they alone are quantised."""

LEAST_US = 0.1
"""What an op in float costs at least, also where it is no slower: its ends have to be converted."""


@dataclass(frozen=True)
class Spent:
    """What was bought.

    Args:
        graph: with fewer parameters.
        ops: the outputs of the ops that are in float now, in the order of the net.
        extra_us: what they cost more than in codes, by the costs that were given.
        before: noise over signal power of the output on the images, all ops in codes; `after`: as bought.
        after: see `before`.
    """

    graph: Graph
    ops: tuple[str, ...]
    extra_us: float
    before: float
    after: float


def spend(
    float_graph: Graph,
    graph: Graph,
    images: Array,
    extra_us: Mapping[str, float],
    *,
    budget_us: float,
    lone: bool = True,
) -> Spent:
    """Ops in float for at most `budget_us` more, by noise taken away per microsecond.

    Args:
        float_graph: the same ops in real numbers.
        graph: with parameters.
        images: float32 (N, C, H, W), to compute the output's noise on.
        extra_us: what each op (by its output) costs in float more than in codes; those that are missing are not
            candidates.
        budget_us: microseconds.
        lone: whether the runtime computes a layer in float that stands between codes; ONNX Runtime quantises its
            weights when it loads the file.
    """
    wanted = Simulation(float_graph, float_constants(float_graph)).run(images, {})

    def noise(kept: Collection[str]) -> float:
        return lost(Simulation(keep_float(float_graph, graph, kept)).run(images), wanted)

    def cost(kept: Collection[str]) -> float:
        return sum(max(extra_us[name], LEAST_US) for name in kept)

    start = now = noise(())
    options = [o for o in _options(float_graph, graph, images) if o <= extra_us.keys() and cost(o) <= budget_us]
    if not lone:
        options = [o for o in options if not lone_layers(keep_float(float_graph, graph, o))]
    gains = {option: (start - noise(option)) / cost(option) for option in options}
    kept: frozenset[str] = frozenset()
    for option in sorted(options, key=lambda o: -gains[o]):
        more = kept | option
        if gains[option] <= 0 or more == kept or cost(more) > budget_us:
            continue
        if (found := noise(more)) < now:
            kept, now = more, found
    order = tuple(op.output for op in graph.ops if op.output in kept)
    return Spent(keep_float(float_graph, graph, order), order, cost(order), start, now)


def lone_layers(graph: Graph) -> list[Op]:
    """The layers with float weights that read codes and make codes."""
    return [
        op
        for op in graph.ops
        if op.kind in ("conv", "linear")
        and graph.value(op.inputs[1]).q is None
        and all(graph.value(name).q is not None for name in (op.inputs[0], op.output))
    ]


def _options(float_graph: Graph, graph: Graph, images: Array) -> Iterator[frozenset[str]]:
    """Each of the ops that lose most, alone and with its readers; none twice."""
    with torch.inference_mode():
        ranked = [found.name for found in op_losses(float_graph, graph, images) if found.kind != "input"]
    by_name = {op.name: op for op in graph.ops}
    seen = set[frozenset[str]]()
    for name in ranked[:CANDIDATES]:
        op = by_name[name]
        for option in (frozenset({op.output}), frozenset({op.output, *(o.output for o in _readers(graph, op))})):
            if option not in seen:
                seen.add(option)
                yield option


def _readers(graph: Graph, op: Op) -> Iterator[Op]:
    """The ops that compute with what `op` makes, or with a copy of it."""
    for user in graph.users[op.output]:
        if user.kind in SAME_CODES:
            yield from _readers(graph, user)
        else:
            yield user


def keep_float(float_graph: Graph, graph: Graph, ops: Collection[str]) -> Graph:
    """`graph` where some ops compute in real numbers, with the constants of `float_graph`.

    A value has no codes either if all that make it and all that read it are among them; the graph's inputs and outputs
    keep theirs.

    Args:
        float_graph: the same ops in real numbers.
        graph: with parameters.
        ops: the outputs of those that shall be in float.
    """
    edit, kept = graph.edit(), set(ops)
    for op in graph.ops:
        if op.output not in kept:
            continue
        for name, twin in zip(op.inputs, float_graph.makers[op.output].inputs, strict=False):
            value = graph.value(name)
            if value.is_const:
                edit.values[name] = replace(value, data=float_graph.const(twin), q=None)
        for name in op.inputs[len(float_graph.makers[op.output].inputs) :]:
            # A bias that only codes needed, and what a correction put there.
            edit.values[name] = replace(graph.value(name), data=np.zeros_like(graph.const(name)), q=None)
    for group in shared_groups(graph):
        inside = set(group.values)
        if inside & {*graph.inputs, *graph.outputs} or any(graph.value(name).is_const for name in inside):
            continue
        makers = {graph.makers[name] for name in group.computed}
        readers = {op for name in inside for op in graph.users[name] if op.output not in inside}
        if all(op.output in kept for op in makers | readers):
            for name in inside:
                edit.set_q(name, None)
    return edit.finish()
