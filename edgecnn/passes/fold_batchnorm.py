"""Folds every `batch_norm` into the layers before it, else into the layers after it, else into a depthwise 1x1 layer.

A batch norm in eval mode is a map per channel,

    y = gamma * (x - mean) / sqrt(var + eps) + beta = s * x + t,    s = gamma / sqrt(var + eps),    t = beta - mean * s

so (`passes.affine`), in the order in which the places are tried:

1. behind a layer:                     s * (W x + b) + t        =  (s W) x + (s b + t)
   behind a sum of layers (HetConv):   s * (A x + B z + b) + t  =  (s A) x + (s b + t) + (s B) z
   behind a concatenation of layers:   each takes its own channels of s and t.
   behind a channel shuffle of layers: s and t, shuffled back.
2. in front of layers without padding: W (s x + t) + b          =  (W s) x + (W t + b)
3. alone:                              a depthwise 1x1 convolution with weight s and bias t: one op that every target
                                       has; a linear layer with diagonal weight if the value has no height and width.

The third is what DenseNet needs behind its concatenations. With its ReLU it is one op, where a product and a sum are
two and round twice: on x86 (AVX-512 VNNI, 1 thread) LiteRT does 3.6 G numbers a second in int8 so, against 2.2 G/s; in
ONNX Runtime neither form is faster at all sizes.

Layers are folded per call site: a weight that two layers read becomes two constants. A value that something else reads,
or that has passed an activation, cannot take the map; the note says which it was.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Editor, Graph, Note, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.affine import (
    LAYERS,
    Affine,
    Refused,
    absorb,
    depthwise,
    fold_after,
    fold_before,
    layers_behind,
)

RULE = "fold_batchnorm"


def fold_batchnorm(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph without batch norms, and a note for each: where it went, or why it became a layer of its own."""
    notes = []
    for name in [op.output for op in graph.ops if op.kind == "batch_norm"]:
        graph, note = _fold(graph, graph.makers[name])
        notes.append(note)
    return graph, notes


def _fold(graph: Graph, norm: Op) -> tuple[Graph, Note]:
    affine = Affine.of_batch_norm(graph, norm)
    try:
        return _into_layers_before(graph, norm, affine)
    except Refused as before:
        try:
            return _into_layers_after(graph, norm, affine)
        except Refused as after:
            return _into_own_layer(graph, norm, affine, why=f"{before}; {after}")


def _into_layers_before(graph: Graph, norm: Op, affine: Affine) -> tuple[Graph, Note]:
    edit, source = graph.edit(), norm.inputs[0]
    targets = layers_behind(graph, source, affine, reader=norm)
    folded = {layer.output: fold_after(edit, layer, share) for layer, share in targets}
    absorb(edit, folded.get(source, graph.makers[source]), norm)
    return edit.finish(), Note(RULE, norm.output, True, "into " + _names(list(folded)))


def _into_layers_after(graph: Graph, norm: Op, affine: Affine) -> tuple[Graph, Note]:
    users = graph.users[norm.output]
    if norm.output in graph.outputs:
        raise Refused(f"`{norm.output}` is an output of the graph")
    for user in users:
        _check_takes_input_map(graph, norm, user)
    edit = graph.edit()
    for user in users:
        fold_before(edit, user, affine)
    edit.redirect(norm.output, norm.inputs[0])
    return edit.finish(), Note(RULE, norm.output, True, "forward into " + _names([u.output for u in users]))


def _check_takes_input_map(graph: Graph, norm: Op, user: Op) -> None:
    if user.kind not in LAYERS:
        raise Refused(f"`{user.output}` behind it is {user.kind}")
    if user.kind == "deform_conv":
        raise Refused(f"`{user.output}` behind it reads zeros where its offsets leave the image")
    if any(attrs_of(user).get("pad", ())):
        raise Refused(f"`{user.output}` behind it pads with zeros, which the shift would have to reach")
    if user.kind == "linear" and len(graph.shape(norm.output)) != 2:
        raise Refused(f"`{user.output}` behind it is a linear layer over another axis")


def _into_own_layer(graph: Graph, norm: Op, affine: Affine, *, why: str) -> tuple[Graph, Note]:
    edit, rank = graph.edit(), len(graph.shape(norm.output))
    if rank == 4:
        layer = depthwise(edit, affine, source=norm.inputs[0], output=norm.output, origin=norm.source)
        form = "depthwise 1x1"
    elif rank == 2:
        layer = _diagonal(edit, norm, affine)
        form = "diagonal linear"
    else:
        return graph, Note(RULE, norm.output, False, f"{why}; and a value of {rank} axes has no layer to become")
    edit.swap(norm, layer)
    return edit.finish(), Note(RULE, norm.output, False, f"{why}; it becomes a {form} layer of its own")


def _diagonal(edit: Editor, norm: Op, affine: Affine) -> Op:
    weight = edit.const(f"{norm.output}_weight", np.diag(affine.scale))
    bias = edit.const(f"{norm.output}_bias", affine.shift)
    return replace(norm, kind="linear", inputs=(norm.inputs[0], weight, bias), attrs={})


def _names(names: list[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)
