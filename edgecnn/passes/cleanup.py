"""Removes ops that do nothing, merges ops that do one thing in several steps, moves constant arithmetic into layers.

Every rule is exact. In the order in which they are tried at each op, until none applies anywhere:

- idle: a reshape to the same shape, a transposition in order, a slice of everything, a pad of nothing, a concatenation
  of one, a clip without bounds, a shuffle in one group or in groups of one.
- twice: an op that computes what an earlier one already did (the slices of a split written out twice).
- pairs: two reshapes (or flattens), transpositions, slices, pads or clips in a row; a pad with zeros before a conv.
- constants: `layer * c`, `layer + c`, `layer - c`, `c - layer` with c constant per channel go into the layer's weight
  and bias (`passes.affine`), also through a sum of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgecnn.ir.graph import Editor, Graph, Note, Op
from edgecnn.ir.ops import NO_CLIP, attrs_of
from edgecnn.passes import clips
from edgecnn.passes.affine import Affine, Refused, absorb, fold_after, layers_behind, set_clip

RULE = "cleanup"

Rule = Callable[[Graph, Op], "tuple[Graph, str] | None"]
"""The graph after one rewrite at an op, and what was done; None if the rule has nothing to do there."""


def cleanup(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph without idle, repeated and mergeable ops, and a note for each rewrite."""
    notes: dict[str, Note] = {}
    at = 0
    while at < len(graph.ops):
        op = graph.ops[at]
        try:
            found = _first(graph, op)
        except Refused as reason:
            notes[op.output] = Note(RULE, op.output, False, str(reason))
            found = None
        if found is None:
            at += 1
            continue
        graph, what = found
        notes[f"{op.output}: {what}"] = Note(RULE, op.output, True, what)
        at = 0  # a rewrite can make work for a rule further up
    return graph, [note for note in notes.values() if note.did or note.at in graph.makers]


def _first(graph: Graph, op: Op) -> tuple[Graph, str] | None:
    for rule in RULES:
        if (found := rule(graph, op)) is not None:
            return found
    return None


def _drop_idle(graph: Graph, op: Op) -> tuple[Graph, str] | None:
    idle = IDLE.get(op.kind)
    if idle is None or not idle(graph, op):
        return None
    edit, source = graph.edit(), op.inputs[0]
    if op.output not in graph.outputs:
        edit.redirect(op.output, source)
    elif source in graph.makers and graph.only_user(source) is op:
        absorb(edit, graph.makers[source], op)
    else:
        return None  # an output keeps its name, and its maker is needed under another one
    return edit.finish(), f"{op.kind} without effect"


def _drop_repeated(graph: Graph, op: Op) -> tuple[Graph, str] | None:
    if op.output in graph.outputs:
        return None
    for other in graph.users[op.inputs[0]]:
        if other is op:
            break
        if other.kind == op.kind and other.inputs == op.inputs and attrs_of(other) == attrs_of(op):
            edit = graph.edit()
            edit.redirect(op.output, other.output)
            return edit.finish(), f"the same as `{other.output}`"
    return None


def _merge_pair(graph: Graph, op: Op) -> tuple[Graph, str] | None:
    first = graph.makers.get(op.inputs[0])
    if first is None or (first.kind, op.kind) not in PAIRS:
        return None
    merged = PAIRS[first.kind, op.kind](graph, first, op)
    if merged is None:
        return None
    kind, attrs = merged
    edit = graph.edit()
    edit.swap(op, Op(kind, (first.inputs[0], *op.inputs[1:]), op.output, attrs, op.source))
    return edit.finish(), f"{first.kind} `{first.output}` merged into it"


Merged = tuple[str, dict[str, Any]]


def _view_view(graph: Graph, first: Op, second: Op) -> Merged:
    shape = graph.shape(second.output)
    # `flatten` is what emitters know best; it is defined on maps.
    if len(shape) == 2 and len(graph.shape(first.inputs[0])) == 4:
        return "flatten", {}
    return "reshape", {"shape": shape}


def _transpose_transpose(graph: Graph, first: Op, second: Op) -> Merged:
    return "transpose", {"perm": tuple(first.attrs["perm"][axis] for axis in second.attrs["perm"])}


def _slice_slice(graph: Graph, first: Op, second: Op) -> Merged | None:
    if first.attrs["axis"] != second.attrs["axis"]:
        return None
    start = first.attrs["start"]
    return "slice", {**second.attrs, "start": start + second.attrs["start"], "stop": start + second.attrs["stop"]}


def _clip_clip(graph: Graph, first: Op, second: Op) -> Merged:
    lo, hi = clips.compose(clips.of_attrs(**first.attrs), clips.of_attrs(**second.attrs))
    return "clip", {"lo": lo, "hi": hi}


def _pad_pad(graph: Graph, first: Op, second: Op) -> Merged | None:
    if attrs_of(first)["value"] != attrs_of(second)["value"] or not _only_grows(first, second):
        return None
    return "pad", {**second.attrs, "pad": _sum(first.attrs["pad"], second.attrs["pad"])}


def _pad_conv(graph: Graph, first: Op, second: Op) -> Merged | None:
    value = attrs_of(first)["value"]
    if any(np.ravel(value)) or not _only_grows(first):
        return None
    return "conv", {**second.attrs, "pad": _sum(first.attrs["pad"], attrs_of(second)["pad"])}


def _only_grows(*pads: Op) -> bool:
    return all(size >= 0 for op in pads for size in op.attrs["pad"])


def _sum(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _fold_constant(graph: Graph, op: Op) -> tuple[Graph, str] | None:
    if op.kind not in ("add", "sub", "mul"):
        return None
    constants = [i for i in op.inputs if graph.value(i).is_const]
    if len(constants) != 1:
        return None
    source = next(i for i in op.inputs if i != constants[0])
    affine = Affine.of_arithmetic(graph, op)
    edit = graph.edit()
    targets = layers_behind(graph, source, affine, reader=op)
    folded = {layer.output: fold_after(edit, layer, share) for layer, share in targets}
    last = absorb(edit, folded.get(source, graph.makers[source]), op)
    _carry_clip(edit, last, op)
    return edit.finish(), "constant into " + ", ".join(f"`{name}`" for name in folded)


def _carry_clip(edit: Editor, last: Op, op: Op) -> None:
    """Gives the clip of the removed `op` to the op that took its name."""
    outer = attrs_of(op)["clip"]
    if outer != NO_CLIP:
        set_clip(edit, last, clips.compose(attrs_of(last).get("clip", NO_CLIP), outer))


IDLE: dict[str, Callable[[Graph, Op], bool]] = {
    "reshape": lambda graph, op: graph.shape(op.inputs[0]) == graph.shape(op.output),
    "flatten": lambda graph, op: graph.shape(op.inputs[0]) == graph.shape(op.output),
    "transpose": lambda graph, op: tuple(op.attrs["perm"]) == tuple(range(len(op.attrs["perm"]))),
    "slice": lambda graph, op: graph.shape(op.inputs[0]) == graph.shape(op.output),
    "pad": lambda graph, op: not any(op.attrs["pad"]),
    "concat": lambda graph, op: len(op.inputs) == 1,
    "clip": lambda graph, op: op.attrs["lo"] is None and op.attrs["hi"] is None,
    "channel_shuffle": lambda graph, op: op.attrs["groups"] in (1, graph.shape(op.output)[1]),
}

PAIRS: dict[tuple[str, str], Callable[[Graph, Op, Op], Merged | None]] = {
    **{(a, b): _view_view for a in ("reshape", "flatten") for b in ("reshape", "flatten")},
    ("transpose", "transpose"): _transpose_transpose,
    ("slice", "slice"): _slice_slice,
    ("clip", "clip"): _clip_clip,
    ("pad", "pad"): _pad_pad,
    ("pad", "conv"): _pad_conv,
}

RULES: tuple[Rule, ...] = (_drop_idle, _drop_repeated, _merge_pair, _fold_constant)
