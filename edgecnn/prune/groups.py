"""Groups: units whose channels are made by the same filters, and so are alike in everything but what they have learned.

A group is what pruning decides about: how many of its units stay. Its layers lose equally many filters each, a multiple
of them where a unit holds several filters of one layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import gcd, lcm
from typing import Any

import numpy as np

from edgecnn.errors import InputError, UsageError, nearest
from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.channel_shuffle import fold_channel_shuffle
from edgecnn.prune.coupling import LOCKED, Coupling
from edgecnn.prune.rules import couple


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are made by the same layers.

    Args:
        name: that of its first layer.
        units: their numbers, in the order of the first layer's filters.
        layers: what makes them, in order, with how many filters each unit has there. Depthwise convolutions are not
            among them: they follow their input, channel by channel.
    """

    name: str
    units: Array
    layers: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.units)

    @property
    def channels(self) -> int:
        """Filters of its first layer that are the group's."""
        return len(self.units) * next(iter(self.layers.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "units": len(self.units), "channels": self.channels, "layers": dict(self.layers)}


def unshuffled(graph: Graph) -> Graph:
    """The graph with its channel shuffles folded into the weights around them, or as it is where one cannot be.

    A shuffle between dense convolutions is a matter of naming; without it each channel can go alone. One beside a
    grouped convolution stays, and couples channels.
    """
    folded, notes = fold_channel_shuffle(graph)
    return graph if any(not note.did for note in notes) else folded


def prunable(graph: Graph) -> tuple[Coupling, tuple[Group, ...]]:
    """The form of a graph that is pruned, with its units and groups.

    Raises:
        InputError: there is nothing that could be removed.
    """
    coupling = couple(unshuffled(graph))
    groups = groups_of(coupling)
    if not any(len(group) > 1 for group in groups):
        reasons = "\n".join(dict.fromkeys(f"{lock.at}: {lock.why}" for lock in coupling.locks[:8]))
        raise InputError("the net has nothing to prune", where=graph.name, got=reasons)
    return coupling, groups


def groups_of(coupling: Coupling) -> tuple[Group, ...]:
    """The groups, in the order of their first layers; also those of a single unit, which stays."""
    made: dict[int, dict[str, int]] = defaultdict(dict)
    first: dict[int, int] = {}
    for op in coupling.producers():
        if _is_depthwise(coupling.graph, op):
            continue
        found, at, counts = np.unique(coupling.filters(op), return_index=True, return_counts=True)
        for unit, row, count in zip(found.tolist(), at.tolist(), counts.tolist(), strict=True):
            if unit != LOCKED:
                made[unit][op.output] = count
                first.setdefault(unit, row)
    alike: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for unit in sorted(made, key=lambda u: first[u]):
        alike[tuple(made[unit].items())].append(unit)
    order = {op.output: at for at, op in enumerate(coupling.graph.ops)}
    groups = []
    # By what pruning does not change, so that names stay.
    for layers, units in sorted(alike.items(), key=lambda item: [(order[name], -count) for name, count in item[0]]):
        groups.append(Group(layers[0][0], np.array(units), dict(layers)))
    return _named(groups)


def _named(groups: list[Group]) -> tuple[Group, ...]:
    """Groups that begin in the same layer (parts of it are coupled with others) are told apart by a number."""
    seen: dict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        name = group.name if number == 1 else f"{group.name}#{number}"
        named.append(Group(name, group.units, group.layers))
    return tuple(named)


def _is_depthwise(graph: Graph, op: Op) -> bool:
    return op.kind == "conv" and attrs_of(op)["groups"] > 1 and graph.shape(op.inputs[1])[1] == 1


def without(groups: Sequence[Group], coupling: Coupling, keep: Sequence[str]) -> tuple[Group, ...]:
    """The groups of which no layer's name or module matches one of the patterns `keep`.

    Raises:
        UsageError: a pattern matches no layer that could be pruned; the nearest names are offered.
        InputError: nothing is left.
    """
    matched = matching(coupling.graph, [layer for group in groups for layer in group.layers], keep)
    left = tuple(g for g in groups if not matched & g.layers.keys())
    if not any(len(g) > 1 for g in left):
        raise InputError("nothing is left to prune", where="--keep", got=" ".join(keep))
    return left


def matching(graph: Graph, layers: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The layers whose name, or the module they come from, matches one of the patterns.

    Raises:
        UsageError: a pattern matches none; the nearest names are offered.
    """
    names = {layer: {layer, graph.makers[layer].source.module} - {""} for layer in layers}
    everything = set().union(*names.values())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in everything):
            close = nearest(pattern, everything)
            raise UsageError(
                f"`{pattern}` matches no layer that could be pruned",
                where="--keep",
                expected="a name or pattern such as " + (close[0] if close else sorted(everything)[0]),
                do="see the names with --show-groups",
            )
    return frozenset(layer for layer, own in names.items() if any(fnmatchcase(n, p) for n in own for p in patterns))


def alive(coupling: Coupling, scores: Array) -> Array:
    """Units that must stay lest some op loses its whole input: of each value that is read, the one of highest score.

    Slices and concatenations may lose all of theirs. Shapes: bool (units,).
    """
    graph, needed = coupling.graph, np.zeros(coupling.units, bool)
    for op in graph.ops:
        if op.kind in ("slice", "concat"):
            continue
        for name in graph.activations(op):
            labels = coupling.of(name)
            if not (labels == LOCKED).any():
                units = np.unique(labels)
                needed[units[np.argmax(scores[units])]] = True
    return needed


def filtered_alone(group: Group, coupling: Coupling) -> bool:
    """Whether a depthwise convolution filters the group's channels."""
    alone = [coupling.filters(op) for op in coupling.producers() if _is_depthwise(coupling.graph, op)]
    return any(np.isin(group.units, units).any() for units in alone)


def fitting(tile: int, channels: int) -> int:
    """The tile, halved for a layer of less than two of them, down to 4: below that kernels do not count in tiles."""
    while tile > 4 and channels < 2 * tile:
        tile //= 2
    return tile


def step_of(group: Group, tile: int, *, auto: bool) -> int:
    """By how many units a group may shrink, so that the channels of its layers fill tiles.

    Args:
        group: the group.
        tile: channels that a kernel computes together.
        auto: whether the tile is `fitting`: else narrow nets are left alone.
    """
    step = 1
    for each in group.layers.values():
        own = fitting(tile, len(group) * each) if auto else tile
        step = lcm(step, own // gcd(own, each))
    return step


def kept_counts(group: Group, step: int, minimum: int) -> list[int]:
    """The numbers of units that may stay, from all of them down to the least."""
    size = len(group)
    least = max(1, min(minimum, size))
    return [size, *(n for n in range((size - 1) // step * step, 0, -step) if n >= least)]


def least_first(groups: Iterable[Group], scores: Array, protected: Array) -> dict[str, Array]:
    """Each group's units by score, those that must stay last."""
    return {g.name: g.units[np.lexsort((scores[g.units], protected[g.units]))] for g in groups}


def allowed(group: Group, counts: Sequence[int], protected: Array) -> list[int]:
    """Those of `counts` that leave the units that must stay."""
    return [n for n in counts if n >= int(protected[group.units].sum())] or [len(group)]


def removed_units(kept: Mapping[str, int], order: Mapping[str, Array], groups: Iterable[Group]) -> Array:
    """The units that go if each group keeps so many; `order` has each group's units, the least worthy first."""
    found = [order[g.name][: len(g) - kept[g.name]] for g in groups]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, int)
