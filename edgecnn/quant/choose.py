"""Range estimators chosen value by value, by what each does to the output of the net.

No estimator is best everywhere: cutting the tail of one activation buys resolution, of another it cuts the answer off.
So each group of values that share codes tries the range of each estimator while all else stays as it is, in the order
of the net, and takes the one with the least error of the net's output.

A net answers to the least change of rounding with noise of its own, and the least of five noisy errors is less than the
mean of any: only what is better by more than the standard error of the difference, image by image, is taken.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from edgecnn.ir.graph import Array, Graph, Note, QParams
from edgecnn.quant.assign import assign
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.quant.ranges import Ranges
from edgecnn.quant.scheme import Scheme
from edgecnn.quant.simulate import Simulation, errors, float_constants, lost
from edgecnn.quant.ties import Group, coded_groups

BY_VALUE = "choose"
"""What stands for no single estimator where one is named."""
PROBES = 128
"""Images that each trial of a range is run on."""


@dataclass(frozen=True)
class Choice:
    """Which estimator each value got.

    Args:
        graph: with the parameters.
        estimators: by value, of those that are measured.
        error: of the output on the images it was chosen on: noise over signal power.
        singles: the like for each estimator everywhere.
        notes: of `assign`.
    """

    graph: Graph
    estimators: dict[str, str]
    error: float
    singles: dict[str, float]
    notes: list[Note]

    @property
    def best_single(self) -> str:
        """The estimator that is best if all values have the same."""
        return min(self.singles, key=self.singles.__getitem__)


def choose(
    graph: Graph, ranges: Ranges, scheme: Scheme, images: Array, *, estimators: Collection[str] | None = None
) -> Choice:
    """`graph` with parameters by the estimator that is best for each value; never worse on `images` than the best one.

    Args:
        graph: the float graph that was measured.
        ranges: from `measure`.
        scheme: the rules of the runtime.
        images: float32 (N, C, H, W), to compute the output's error on; memory and time are theirs times the net.
        estimators: names in `ESTIMATORS` to choose from; None: all.
    """
    names = list(estimators or ESTIMATORS)
    assigned = {name: assign(graph, ranges, scheme, estimator=name) for name in names}
    wanted = Simulation(graph, float_constants(graph)).run(images, {})
    singles = {name: lost(Simulation(coded).run(images), wanted) for name, (coded, _) in assigned.items()}
    first = min(singles, key=singles.__getitem__)
    base = assigned[first][0]
    groups = [group for group in coded_groups(graph, scheme) if _is_open(graph, group)]
    options = {
        group: {name: q for name in names if (q := assigned[name][0].value(group.values[0]).q) is not None}
        for group in groups
    }
    picked = _descend(base, options, first, images, wanted)
    mapping = dict.fromkeys(ranges.stats, first)
    for group, name in picked.items():
        mapping.update(dict.fromkeys(group.computed, name))
    # The limits of the kernels may have widened a single estimator's scale, or widen the mixture's.
    mixed, notes = assign(graph, ranges, scheme, estimator=mapping)
    error = lost(Simulation(mixed).run(images), wanted)
    if error > singles[first]:
        return Choice(base, dict.fromkeys(ranges.stats, first), singles[first], singles, assigned[first][1])
    return Choice(mixed, mapping, error, singles, notes)


def _is_open(graph: Graph, group: Group) -> bool:
    """Whether estimators have a say: the net's inputs and outputs keep their whole range."""
    return not set(group.values) & {*graph.inputs, *graph.outputs}


def _descend(
    base: Graph, options: dict[Group, dict[str, QParams]], first: str, images: Array, wanted: torch.Tensor
) -> dict[Group, str]:
    """One pass over the groups in the order of the net; what is before a group is computed once."""
    simulation = Simulation(base)
    q = simulation.codes()
    error = errors(simulation.run(images), wanted)
    group_at = {_first_op(base, group): group for group in options}
    picked = dict.fromkeys(options, first)
    with torch.inference_mode():
        live = simulation.begin(images, q)
        for at in range(len(base.ops)):
            if (group := group_at.get(at)) is not None:
                found = {options[group][first]: (error, first)}
                for name, candidate in options[group].items():
                    if candidate not in found:
                        trial = {**q, **dict.fromkeys(group.values, candidate)}
                        found[candidate] = errors(simulation.finish(live, at, trial), wanted), name
                best = min(found, key=lambda candidate: float(found[candidate][0].mean()))
                if _is_better(error, found[best][0]):
                    error, picked[group] = found[best]
                    q.update(dict.fromkeys(group.values, best))
            simulation.advance(live, at, q)
    return picked


def _is_better(now: Array, then: Array) -> bool:
    gain = now - then
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))


def _first_op(graph: Graph, group: Group) -> int:
    """The number of the first op that makes a value of `group`; the number of ops if none does."""
    made = {name for name in group.values if name in graph.makers}
    return next((at for at, op in enumerate(graph.ops) if op.output in made), len(graph.ops))
