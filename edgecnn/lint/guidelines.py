"""The four guidelines of ShuffleNet V2 as rules.

Source: Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", arXiv:1807.11164,
section 2: G1 equal channel width minimises memory access; G2 excessive group convolution increases it; G3 fragmentation
reduces parallelism; G4 element-wise operations are not negligible.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod, sqrt

from edgecnn.ir.graph import Graph, Op
from edgecnn.lint.finding import Candidate
from edgecnn.lint.shapes import convs, nearest_multiple, resized

UNEQUAL = 2.0
"""Widths of 1 : 2 already raise the memory access of a 1x1 convolution by some 6 %, the paper's first step."""

ELEMENT_WISE = frozenset(
    {"add", "sub", "mul", "clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu"}
    | {"batch_norm", "lrn"}
)
FRAGMENTS = 3
"""So many branches with a convolution of their own, joined by a concatenation or sums, count as fragmented."""


def equal_widths(graph: Graph, tile: int) -> Iterator[Candidate]:
    """G1: 1x1 convolutions whose widths differ by more than `UNEQUAL`, against equal ones of as many multiply-adds."""
    for conv in convs(graph):
        wide, narrow = max(conv.in_channels, conv.out_channels), min(conv.in_channels, conv.out_channels)
        if not conv.pointwise or conv.groups > 1 or conv.positions == 1 or wide < UNEQUAL * narrow:
            continue
        equal = nearest_multiple(sqrt(wide * narrow), tile)
        # The paper's lower bound for B multiply-adds on hw positions: 2 * sqrt(hw * B) + B / hw.
        least = 2 * sqrt(conv.positions * conv.macs) + conv.macs / conv.positions
        excess = conv.memory_access / least
        yield Candidate(
            "G1-channel-widths",
            (conv.op.name,),
            f"{conv.in_channels} to {conv.out_channels} channels: {conv.memory_access:,} elements moved, "
            f"{excess:.2f} times the least for {conv.macs:,} multiply-adds",
            f"widths nearer to {equal} to {equal} do the same work faster; in an inverted residual, less expansion",
            resized(graph, conv.op, in_channels=equal, out_channels=equal),
            wide * narrow / equal**2,
            None,
            {
                "in_channels": conv.in_channels,
                "out_channels": conv.out_channels,
                "memory_access_elements": conv.memory_access,
                "times_the_least": round(excess, 3),
            },
        )


def groups(graph: Graph, tile: int) -> Iterator[Candidate]:
    """G2: grouped convolutions that are not depthwise, against dense ones of as many multiply-adds."""
    for conv in convs(graph):
        if conv.groups == 1 or conv.depthwise:
            continue
        dense_in = nearest_multiple(conv.in_channels / sqrt(conv.groups), tile)
        dense_out = nearest_multiple(conv.out_channels / sqrt(conv.groups), tile)
        yield Candidate(
            "G2-groups",
            (conv.op.name,),
            f"{conv.name} in {conv.groups} groups of {conv.in_channels // conv.groups} to "
            f"{conv.out_channels // conv.groups} channels",
            f"a dense {dense_in} to {dense_out} convolution has about as many multiply-adds; or fewer groups",
            resized(graph, conv.op, in_channels=dense_in, out_channels=dense_out),
            conv.in_channels * conv.out_channels / conv.groups / (dense_in * dense_out),
            None,
            {"groups": conv.groups, "in_channels": conv.in_channels, "out_channels": conv.out_channels},
        )


def fragments(graph: Graph) -> Iterator[Candidate]:
    """G3: blocks of several branches with convolutions of their own."""
    makers = graph.makers
    for op in graph.ops:
        if op.kind != "concat" and not (op.kind == "add" and not _feeds_add(graph, op)):
            continue
        branches = _branches(graph, op)
        found = [path for path in (_back(graph, makers, name) for name in branches) if path]
        if len(found) < FRAGMENTS:
            continue
        inside = tuple(dict.fromkeys(step for path in found for step in path))
        weights = [c for c in inside if makers[c].kind == "conv"]
        yield Candidate(
            "G3-fragmentation",
            (*inside, op.name),
            f"{len(found)} branches with {len(weights)} convolutions of "
            f"{_mean_macs(graph, weights):,} multiply-adds in the mean, in {len(inside) + 1} operators",
            "fewer, larger convolutions: merge parallel ones of equal kernel, or drop branches",
            facts={"branches": len(found), "operators": len(inside) + 1},
        )


def _feeds_add(graph: Graph, op: Op) -> bool:
    user = graph.only_user(op.output)
    return user is not None and user.kind == "add"


def _branches(graph: Graph, op: Op) -> list[str]:
    """What a concatenation joins; of a chain of sums, everything that is added up."""
    if op.kind == "concat":
        return list(graph.activations(op))
    found: list[str] = []
    for name in graph.activations(op):
        maker = graph.makers.get(name)
        sums = maker is not None and maker.kind == "add" and graph.only_user(name) is op
        found += _branches(graph, maker) if sums and maker else [name]
    return found


def _back(graph: Graph, makers: dict[str, Op], name: str) -> list[str]:
    """The ops from `name` back to where its branch began; empty if no convolution is among them."""
    path: list[str] = []
    at: str | None = name
    while at is not None and at in makers and (at == name or len(graph.users[at]) == 1):
        op = makers[at]
        path.append(at)
        inputs = graph.activations(op)
        at = inputs[0] if len(inputs) == 1 else None
    return path if any(makers[step].kind == "conv" for step in path) else []


def _mean_macs(graph: Graph, names: list[str]) -> int:
    total = sum(prod(graph.shape(graph.makers[n].inputs[1])) * prod(graph.shape(n)[2:]) for n in names)
    return total // max(1, len(names))


def element_wise(graph: Graph) -> Iterator[Candidate]:
    """G4: the element-wise operators of each kind together."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for op in graph.ops:
        if op.kind in ELEMENT_WISE:
            by_kind[op.kind].append(op.name)
    for kind, names in by_kind.items():
        elements = sum(prod(graph.shape(n)[1:]) for n in names)
        yield Candidate(
            "G4-element-wise",
            tuple(names),
            f"{len(names)} `{kind}` over {elements:,} elements",
            ELEMENT_WISE_ADVICE.get(kind, "fewer of them, or where the maps are small"),
            facts={"kind": kind, "operators": len(names), "elements": elements},
        )


ELEMENT_WISE_ADVICE = {
    "add": "a residual sum reads two maps and writes one: concatenate, or sum where the maps are small",
    "mul": "gates (squeeze-and-excitation) multiply whole maps: use them in late, small stages only",
    "clip": "use ReLU right behind a convolution, where it costs nothing",
    "silu": "hard-swish or ReLU cost less in integers",
    "gelu": "hard-swish or ReLU cost less in integers",
    "batch_norm": "put batch norm right behind a convolution, where it folds away",
}
