"""Which values must share one set of codes, and which ops compute on codes at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.ops import SAME_CODES
from edgecnn.quant.scheme import Scheme


@dataclass(frozen=True)
class Group:
    """Values that share quantisation parameters, because ops between them only move or clip codes.

    Args:
        values: names in the order of the graph.
        computed: those whose numbers are not moved from another value of the group: their ranges make the group's.
            A clip's output is among them, so that it keeps its whole range where the caller sees it.
    """

    values: tuple[str, ...]
    computed: tuple[str, ...]


def stays_float(graph: Graph, op: Op, scheme: Scheme) -> str | None:
    """Why `op` computes in float under `scheme`; None if it computes on codes."""
    if op.kind in scheme.float_kinds:
        return f"`{op.kind}` stays float in {scheme.name}"
    if op.kind == "deform_conv":
        return "it reads in between pixels, which no integer kernel does"
    if op.kind == "batch_norm":
        return "a batch_norm that was not folded has no integer form"
    if op.kind in ("conv", "linear") and any(not graph.value(i).is_const for i in op.inputs[1:]):
        return "its weight is not a constant"
    return None


class _Forest:
    """Union-find over names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def find(self, name: str) -> str:
        """The representative of the set that holds `name`."""
        while self._parent[name] != name:
            self._parent[name] = name = self._parent[self._parent[name]]
        return name

    def join(self, a: str, b: str) -> None:
        """Makes one set of the sets of `a` and `b`."""
        self._parent[self.find(a)] = self.find(b)


def tying(graph: Graph, scheme: Scheme) -> frozenset[str]:
    """The outputs of the ops that make them from their inputs' codes, with their inputs' parameters.

    Those are the moves and, where the runtime clips codes, unfused clips. A clip's input is coded already, so
    its output loses nothing by the same parameters; but it keeps its own where they would be forced on others (a
    concatenation moves it together with other numbers) or where a reader needs special ones (hard-swish's grid).
    """
    moves = [op for op in graph.ops if op.kind in SAME_CODES and op.kind not in scheme.float_kinds]
    tied = {op.output for op in moves}
    if not scheme.clip_codes or "clip" in scheme.float_kinds:
        return frozenset(tied)
    forest = _joined(graph, moves)
    together: dict[str, list[str]] = defaultdict(list)
    for name in graph.values:
        together[forest.find(name)].append(name)
    for op in graph.ops:
        if op.kind == "clip":
            group = together[forest.find(op.output)]
            alone = [name for name in group if name not in {m.output for m in moves}] == [op.output]
            gates = scheme.hard_swish == "clip_mul" and any(
                reader.kind == "hard_swish" for name in group for reader in graph.users[name]
            )
            if alone and not gates:
                tied.add(op.output)
    return frozenset(tied)


def _joined(graph: Graph, ops: Iterable[Op]) -> _Forest:
    """The values of a graph, those joined that `ops` read and make."""
    forest = _Forest(graph.values)
    for op in ops:
        for name in op.inputs:
            forest.join(name, op.output)
    return forest


def shared_groups(graph: Graph) -> list[Group]:
    """The groups of a graph that has its parameters: values that ops between them only move, or clip as codes.

    They are those of `coded_groups`, found without the scheme; values without parameters are in none.
    """
    q = {name: value.q for name, value in graph.values.items()}
    tied = [
        op
        for op in graph.ops
        if (op.kind in SAME_CODES or op.kind == "clip")
        and q[op.output] is not None
        and all(q[name] == q[op.output] for name in op.inputs)
    ]
    forest = _joined(graph, tied)
    moved = {op.output for op in tied if op.kind != "clip"}
    constants = {name for op in tied for name in op.inputs}
    members: dict[str, list[str]] = defaultdict(list)
    for name, value in graph.values.items():
        if q[name] is not None and (not value.is_const or name in constants):
            members[forest.find(name)].append(name)
    return [Group(tuple(names), tuple(n for n in names if n not in moved)) for names in members.values()]


def coded_groups(graph: Graph, scheme: Scheme) -> list[Group]:
    """The groups of values that carry codes, in the order of the graph.

    A group carries codes if an integer op (other than a move) makes or reads one of its values, or if no float op
    does; so a move between two float ops stays float with them. Constants that a concatenation moves are members.
    """
    tied = tying(graph, scheme)
    moves = [op for op in graph.ops if op.output in tied]
    forest = _joined(graph, moves)

    integer, floating = set[str](), set[str]()
    for op in graph.ops:
        if op.output not in tied:
            touched = floating if stays_float(graph, op, scheme) else integer
            touched.update(forest.find(name) for name in (*graph.activations(op), op.output))

    members: dict[str, list[str]] = defaultdict(list)
    for name in (*graph.inputs, *(op.output for op in graph.ops), *(i for op in moves for i in op.inputs)):
        if name not in members[forest.find(name)]:
            members[forest.find(name)].append(name)
    moved = {op.output for op in moves if op.kind != "clip"}
    return [
        Group(tuple(names), tuple(n for n in names if n not in moved))
        for root, names in members.items()
        if root in integer or root not in floating
    ]
