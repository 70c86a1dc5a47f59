"""Residual branches as a whole: what is added to a value that is there without them can go, with all its layers.

Each op costs time besides that of its multiply-adds, so a net with fewer layers is faster than one with as many
multiply-adds in thinner layers. What is left is not a net of the same form, but one with fewer blocks.

Source: Elkerdawy et al. 2020, "To filter prune, or to layer prune, that is the question", arXiv:2007.05667: by latency,
    layers that go save more than filters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from edgecnn.ir.graph import Graph, Op
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, groups_of


@dataclass(frozen=True)
class Branch:
    """A part of a net that can go.

    Args:
        sum: the output of the addition at its end.
        around: the value that stays in the sum's place.
        ops: the outputs of its ops, in the order of the net; the addition is not among them.
    """

    sum: str
    around: str
    ops: tuple[str, ...]


def branches_of(graph: Graph) -> tuple[Branch, ...]:
    """The branches of a graph: each computed from the value it is added to and from nothing else, read by nobody else.

    A shortcut with a layer of its own is no such value; the first block of a stage stays.
    """
    order = {op.output: at for at, op in enumerate(graph.ops)}
    found = []
    for op in graph.ops:
        sides = graph.activations(op)
        if op.kind != "add" or len(sides) != 2 or op.output in graph.outputs:
            continue
        for around, side in (sides, sides[::-1]):
            if graph.shape(around) == graph.shape(op.output) and (inside := _between(graph, around, side, op)):
                found.append(Branch(op.output, around, tuple(sorted(inside, key=order.__getitem__))))
                break
    return tuple(found)


def _between(graph: Graph, start: str, end: str, reader: Op) -> frozenset[str]:
    """The ops that make `end` of `start` alone, if only they and `reader` read what they make; else none."""
    inside, todo = set[str](), [end]
    while todo:
        name = todo.pop()
        if name == start or name in inside:
            continue
        if name not in graph.makers or name in graph.outputs:
            return frozenset()
        inside.add(name)
        todo += graph.activations(graph.makers[name])
    readers = {user.output for name in inside for user in graph.users[name]}
    return frozenset(inside) if readers <= inside | {reader.output} else frozenset()


def without_branches(graph: Graph, branches: Iterable[Branch]) -> Graph:
    """The graph without them; names of ops and values stay, but what read a sum reads what was added to."""
    edit = graph.edit()
    for branch in branches:
        edit.redirect(branch.sum, next(op for op in edit.ops if op.output == branch.sum).inputs[_side(graph, branch)])
        edit.remove(graph.makers[branch.sum])
    return edit.finish()


def _side(graph: Graph, branch: Branch) -> int:
    """Which input of the sum stays; its name may have changed by then, when the sum before it went."""
    return graph.makers[branch.sum].inputs.index(branch.around)


def removable(coupling: Coupling, groups: Collection[Group]) -> tuple[Branch, ...]:
    """The branches whose layers all belong to `groups`, and without which all other groups are what they were."""
    layers = {layer for group in groups_of(coupling) for layer in group.layers}
    free = {layer for group in groups for layer in group.layers}
    found = []
    for branch in branches_of(coupling.graph):
        if not (layers - free).intersection(branch.ops) and layers.intersection(branch.ops):
            rest = replace(coupling, graph=without_branches(coupling.graph, [branch]))
            sizes = {group.name: len(group) for group in groups_of(rest)}
            if all(sizes.get(group.name, len(group)) == len(group) for group in groups):
                found.append(branch)
    return tuple(found)
