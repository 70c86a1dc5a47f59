"""Other forms of the activations that no runtime has as one fast integer op.

- `fold_hard_sigmoid`: hard_sigmoid(W x + b) = clip((W x + b + 3) / 6, 0, 1), so a layer in front takes W / 6 and
  (b + 3) / 6 and a fused activation of (0, 1): the gate of a squeeze-and-excitation block costs no op.
- `split_silu` and `expand_hard_swish`: the gate and the product as two ops, x * sigmoid(x) and x * hard_sigmoid(x).
- `silu_to_hard_swish`: another function of similar shape. It CHANGES VALUES and is for nets that are tuned after it.
"""

from __future__ import annotations

from dataclasses import replace

from edgecnn.ir.graph import Graph, Note, Op
from edgecnn.passes.affine import LAYERS, Affine, Refused, absorb, fold_after, layers_behind, set_clip

UNIT = (0.0, 1.0)


def fold_hard_sigmoid(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with hard sigmoids folded into the layer before them, which takes their name; a note for each."""
    rule, notes = "fold_hard_sigmoid", []
    for name in [op.output for op in graph.ops if op.kind == "hard_sigmoid"]:
        try:
            graph, layer = _fold_hard_sigmoid(graph, graph.makers[name])
            notes.append(Note(rule, name, True, f"into `{layer}`"))
        except Refused as reason:
            notes.append(Note(rule, name, False, str(reason)))
    return graph, notes


def _fold_hard_sigmoid(graph: Graph, gate: Op) -> tuple[Graph, str]:
    source = gate.inputs[0]
    layer = graph.makers.get(source)
    if layer is None or layer.kind not in LAYERS:
        raise Refused(f"`{source}` is " + (f"made by {layer.kind}" if layer else "an input of the graph"))
    sixth = Affine.uniform(graph.shape(layer.inputs[1])[0], scale=1 / 6, shift=1 / 2)
    [(layer, affine)] = layers_behind(graph, source, sixth, reader=gate)
    edit = graph.edit()
    absorb(edit, set_clip(edit, fold_after(edit, layer, affine), UNIT), gate)
    return edit.finish(), source


def split_silu(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with each silu as a sigmoid (`<name>_sigmoid`) and a product, which keeps the name; a note for each."""
    return _split(graph, "silu", gate="sigmoid", rule="split_silu")


def expand_hard_swish(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with each hard_swish as a hard_sigmoid (`<name>_hard_sigmoid`) and a product, which keeps the name."""
    return _split(graph, "hard_swish", gate="hard_sigmoid", rule="expand_hard_swish")


def _split(graph: Graph, kind: str, *, gate: str, rule: str) -> tuple[Graph, list[Note]]:
    edit, notes = graph.edit(), []
    for op in graph.ops:
        if op.kind == kind:
            middle = edit.activation(f"{op.output}_{gate}", graph.shape(op.output))
            gating = Op(gate, op.inputs, middle, {}, op.source)
            edit.swap(op, gating, Op("mul", (op.inputs[0], middle), op.output, {}, op.source))
            notes.append(Note(rule, op.output, True, f"x * {gate}(x)"))
    return edit.finish(), notes


def silu_to_hard_swish(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with hard_swish for every silu. This changes values: tune the net afterwards."""
    edit, notes = graph.edit(), []
    for op in graph.ops:
        if op.kind == "silu":
            edit.swap(op, replace(op, kind="hard_swish"))
            notes.append(Note("silu_to_hard_swish", op.output, True, "CHANGES VALUES: tune the net after this"))
    return edit.finish(), notes
