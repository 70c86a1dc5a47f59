"""Merges convolutions of one value that are summed into one convolution, where that computes no more than the widest.

    conv3x3(x, A) + conv1x1(x, B) + depthwise1x1(x, c)  =  conv3x3(x, A')

This is the deployed form of nets that train with parallel branches (RepVGG, arXiv:2101.03697, section 3.3; MobileOne,
arXiv:2206.04040), and it is exact: a 1x1 kernel is a 3x3 kernel with zeros around it, fewer groups are more groups with
zeros between them. A batch norm on the identity has become a depthwise 1x1 convolution by then (`fold_batchnorm`).

One branch must hold the others: every tap of theirs meets a tap of its kernel, and its groups divide theirs. So the sum
costs what that branch alone costs. A heterogeneous convolution has no such branch and is left to `passes.hetconv`.

In 8 bits it is not for free: one step of codes serves all taps of an output channel, and the branch with the largest
weights sets it. An identity among the 576 small weights of a 3x3 kernel leaves them a few codes (RepVGG-A0 with random
weights: 14 dB in place of 27 for the whole net). So integer targets ask for `least_db` of signal over rounding noise in
the merged weights, and a branch that would spoil it stays a branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Note, Op
from edgecnn.ir.ops import NO_CLIP, attrs_of

RULE = "merge_branches"


@dataclass(frozen=True)
class _Term:
    """One summand of a tree of sums: a value, and whether it is taken away."""

    name: str
    minus: bool = False


def merge_branches(graph: Graph, *, least_db: float = -math.inf) -> tuple[Graph, list[Note]]:
    """The graph with parallel convolutions in sums merged, and a note for each merger.

    Args:
        graph: in which batch norms are folded.
        least_db: of the merged weights over their rounding to 8 bits, unless the widest branch alone has less.
    """
    notes = []
    for name in [op.output for op in graph.ops if op.kind in ("add", "sub")]:
        while (merged := _merged(graph, name, least_db)) is not None:
            graph, joined = merged
            notes.append(Note(RULE, name, True, f"{len(joined)} convolutions as one: " + ", ".join(joined)))
    return graph, notes


def _merged(graph: Graph, name: str, least_db: float) -> tuple[Graph, list[str]] | None:
    """The graph after one merger in the sum `name`, and what became one; None if there is none to make."""
    root = graph.makers.get(name)
    if root is None or not _is_sum(graph, root):
        return None
    reader = graph.only_user(name)
    if reader is not None and _is_sum(graph, reader) and name in _sums_in(graph, reader):
        return None  # its terms are counted there
    terms = _terms(graph, root)
    convs = [t for t in terms if _is_branch(graph, t.name)]
    families = [_family(graph, host, convs, least_db) for host in convs]
    joined = max(families, key=len, default=[])
    if len(joined) < 2:
        return None
    edit, rest = graph.edit(), [t for t in terms if t not in joined]
    if rest:
        output = edit.activation(f"{name}_merged", graph.shape(name))
        edit.swap(root, _joined(graph, edit, joined, output=output), *_chain(edit, root, output, rest))
    else:
        clip = {"clip": root.attrs["clip"]} if "clip" in root.attrs else {}
        edit.swap(root, _joined(graph, edit, joined, output=name).with_attrs(**clip))
    return edit.finish(), [t.name for t in joined]


def _family(graph: Graph, host: _Term, convs: list[_Term], least_db: float) -> list[_Term]:
    """`host` and those that it takes in, the ones with the smallest weights first."""
    held = [t for t in convs if t is not host and _holds(graph, host, t)]
    family = [host]
    if held and least_db > -math.inf:
        # So that merging step by step comes to no other end than merging at once, the bound knows no history.
        least_db = min(least_db, _signal_db(_joined_weight(graph, family)))
    for term in sorted(held, key=lambda t: float(np.abs(graph.const(graph.makers[t.name].inputs[1])).max())):
        if least_db == -math.inf or _signal_db(_joined_weight(graph, [*family, term])) >= least_db:
            family.append(term)
    return family


def _signal_db(weight: Array) -> float:
    """The power of the weights over that of rounding them to 8 bits, one step per output channel; zeros are exact."""
    rows = weight.reshape(len(weight), -1)
    steps = np.abs(rows).max(1) / 127
    noise = float((steps**2 / 12 * (rows != 0).sum(1)).sum())
    return 10 * math.log10(float((rows**2).sum()) / noise) if noise else math.inf


def _is_sum(graph: Graph, op: Op) -> bool:
    """Whether `op` adds or subtracts two different activations of one shape."""
    first, *others = (graph.shape(i) for i in (op.output, *op.inputs))
    return op.kind in ("add", "sub") and op.inputs[0] != op.inputs[1] and all(s == first for s in others)


def _sums_in(graph: Graph, op: Op) -> list[str]:
    """The operands of the sum `op` that are sums without activation which nothing else reads."""
    makers = [graph.makers.get(name) for name in op.inputs]
    return [
        maker.output
        for maker in makers
        if maker is not None
        and _is_sum(graph, maker)
        and attrs_of(maker)["clip"] == NO_CLIP
        and graph.only_user(maker.output) is op
    ]


def _terms(graph: Graph, op: Op, *, minus: bool = False) -> list[_Term]:
    sums, terms = _sums_in(graph, op), []
    for index, name in enumerate(op.inputs):
        taken = minus != (op.kind == "sub" and index == 1)
        terms += _terms(graph, graph.makers[name], minus=taken) if name in sums else [_Term(name, taken)]
    return terms


def _is_branch(graph: Graph, name: str) -> bool:
    op = graph.makers.get(name)
    return (
        op is not None and op.kind == "conv" and graph.only_user(name) is not None and attrs_of(op)["clip"] == NO_CLIP
    )


def _holds(graph: Graph, wide: _Term, narrow: _Term) -> bool:
    """Whether the convolution of `wide` can take in that of `narrow` without growing."""
    host, other = graph.makers[wide.name], graph.makers[narrow.name]
    a, b = attrs_of(host), attrs_of(other)
    return (
        host.inputs[0] == other.inputs[0]
        and graph.shape(host.output) == graph.shape(other.output)
        and a["stride"] == b["stride"]
        and b["groups"] % a["groups"] == 0
        and _taps(graph, host, other) is not None
    )


def _taps(graph: Graph, host: Op, other: Op) -> tuple[list[int], list[int]] | None:
    """For every row and column of `other`'s kernel the one of `host`'s that reads the same pixel; None if one has none.

    Tap t reads pixel i * stride - pad + t * dilation.
    """
    a, b = attrs_of(host), attrs_of(other)
    found = []
    for axis in (0, 1):
        size, meeting = graph.shape(host.inputs[1])[2 + axis], []
        for tap in range(graph.shape(other.inputs[1])[2 + axis]):
            place = tap * b["dilation"][axis] - b["pad"][2 * axis] + a["pad"][2 * axis]
            at, off = divmod(place, a["dilation"][axis])
            if off or not 0 <= at < size:
                return None
            meeting.append(at)
        found.append(meeting)
    return found[0], found[1]


def _joined_weight(graph: Graph, terms: list[_Term]) -> Array:
    host = graph.makers[terms[0].name]
    weight = np.zeros(graph.shape(host.inputs[1]))
    for term in terms:
        op = graph.makers[term.name]
        rows, columns = _taps(graph, host, op) or ([], [])  # every term is held by the host
        taps = _in_groups(graph, op, attrs_of(host)["groups"])
        weight[:, :, np.array(rows)[:, None], columns] += -taps if term.minus else taps
    return weight


def _joined(graph: Graph, edit: Editor, terms: list[_Term], *, output: str) -> Op:
    host, weight = graph.makers[terms[0].name], _joined_weight(graph, terms)
    bias = np.zeros(weight.shape[0])
    for term in terms:
        op = graph.makers[term.name]
        if len(op.inputs) > 2:
            bias += (-1.0 if term.minus else 1.0) * graph.const(op.inputs[2]).astype(np.float64)
    inputs = [host.inputs[0], edit.const(f"{output}_weight", weight)]
    if any(len(graph.makers[t.name].inputs) > 2 for t in terms):
        inputs.append(edit.const(f"{output}_bias", bias))
    return replace(host, inputs=tuple(inputs), output=output)


def _in_groups(graph: Graph, op: Op, groups: int) -> Array:
    """The weight of `op` for a convolution with fewer groups: zeros for the channels that are not of its own group."""
    weight = graph.const(op.inputs[1]).astype(np.float64)
    own: int = attrs_of(op)["groups"]
    rows, columns = weight.shape[:2]
    finer = own // groups  # groups of `op` within one of the new ones
    wide = np.zeros((rows, finer * columns, *weight.shape[2:]))
    for row in range(rows):
        group = row // (rows // own) % finer
        wide[row, group * columns : (group + 1) * columns] = weight[row]
    return wide


def _chain(edit: Editor, root: Op, total: str, rest: list[_Term]) -> list[Op]:
    """The other terms added to `total`, or taken away, one by one; the last op is the root with its activation."""
    ops = []
    for term in rest[:-1]:
        name = edit.activation(f"{root.output}_sum", edit.values[root.output].shape)
        ops.append(Op("sub" if term.minus else "add", (total, term.name), name, {}, root.source))
        total = name
    return [*ops, replace(root, kind="sub" if rest[-1].minus else "add", inputs=(total, rest[-1].name))]
