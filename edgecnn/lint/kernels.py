"""Rules about how well the runtime's kernels are used: tiles, paths, movement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecnn.ir.graph import Graph, Note
from edgecnn.lint.finding import Candidate
from edgecnn.lint.shapes import convs, resized
from edgecnn.targets.executed import Execution

MOVES = frozenset({"transpose", "channel_shuffle", "pad", "slice", "concat"})
TILE_INT8: dict[str, int] = {"x86": 16, "x86-amx": 64, "armv8-a53": 8, "armv8": 8, "armv8-dot": 16, "armv8-i8mm": 16}
TILE_FLOAT: dict[str, int] = {"x86": 16, "x86-amx": 16, "armv8-a53": 8, "armv8": 8, "armv8-dot": 8, "armv8-i8mm": 8}
"""Output channels that the kernels of XNNPACK and MLAS compute together: on x86 by timing, on ARM by counting
instructions under emulation; with AMX, XNNPACK's int8 kernels work on 64."""
DEPTHWISE_TILE = 16
"""Channels that the kernels of depthwise convolutions compute together, on all of them."""


def tile_of(cpu: str, *, int8: bool) -> int:
    """Output channels that a kernel computes together on this core."""
    return (TILE_INT8 if int8 else TILE_FLOAT)[cpu]


def channel_tile(graph: Graph, tile: int, *, depthwise_tile: int) -> Iterator[Candidate]:
    """Convolutions whose last tile is not full, against the next smaller count that fills it."""
    for conv in convs(graph):
        size = depthwise_tile if conv.depthwise else tile
        rest = conv.out_channels % size
        if rest == 0 or conv.out_channels < size or (conv.groups > 1 and not conv.depthwise):
            continue
        full = conv.out_channels - rest
        padded = full + size
        wasted = 1 - conv.out_channels / padded
        alternative = (
            resized(graph, conv.op, in_channels=full, out_channels=full, groups=full)
            if conv.depthwise
            else resized(graph, conv.op, in_channels=conv.in_channels, out_channels=full)
        )
        yield Candidate(
            "channel-tile",
            (conv.op.name,),
            f"{conv.name} of {conv.out_channels} output channels takes {padded // size} tiles of {size}: the last is "
            f"{rest / size:.0%} full, {wasted:.0%} of the lanes are wasted",
            f"{full} or {padded} channels",
            alternative,
            conv.out_channels / full,
            wasted,
            {"channels": conv.out_channels, "tile": size, "wasted": round(wasted, 4)},
        )


def movement(graph: Graph) -> Iterator[Candidate]:
    """Ops that only move bytes; padding that a convolution takes in for nothing is none."""
    for op in graph.ops:
        if op.kind not in MOVES:
            continue
        users = graph.users[op.output]
        if op.kind == "pad" and users and all(user.kind == "conv" for user in users):
            continue
        shape = "x".join(map(str, graph.shape(op.output)[1:]))
        yield Candidate("data-movement", (op.name,), f"`{op.kind}` makes {shape}", MOVE_ADVICE[op.kind])


MOVE_ADVICE = {
    "transpose": "keep one order of axes through the net",
    "channel_shuffle": "put it between convolutions, whose weights can take it in",
    "pad": "pad inside the convolution or pool (its `padding`)",
    "slice": "let the convolution before make fewer channels, or split by groups",
    "concat": "a sum, or fewer joins; at a high resolution each copies whole maps",
}


def no_int8_form(graph: Graph) -> Iterator[Candidate]:
    """Ops of a quantised graph that compute in float."""
    for op in graph.ops:
        if graph.value(op.output).q is None and op.output not in graph.outputs:
            yield Candidate(
                "no-int8-form",
                (op.name,),
                f"`{op.kind}` computes in float between integers",
                "choose an activation with an integer form: ReLU, ReLU6, hard-swish, hard-sigmoid, sigmoid",
            )


def outside(execution: Execution, graph: Graph | None) -> Iterator[Candidate]:
    """What the runtime says it does not run in its fast path; findings name the graph's op where the name is known."""
    for op in execution.ops:
        if op.place == "outside":
            name = op.name if graph is not None and op.name in graph.makers else ""
            yield Candidate(
                "fast-path",
                (name or op.name,),
                f"{op.kind}: {op.reason}",
                "choose another operator, activation or target; `edgecnn doctor` says whether the runtime is to blame",
                facts={"operator": op.kind, "macs": op.macs},
            )


def left(notes: Sequence[Note]) -> Iterator[Candidate]:
    """Places that a rewrite or the emitter did not take, with its own reason."""
    for note in notes:
        if not note.did:
            yield Candidate(
                "left-by-rewrite", (note.at,), f"{note.rule}: {note.why}", "see the reason; often a small change helps"
            )
