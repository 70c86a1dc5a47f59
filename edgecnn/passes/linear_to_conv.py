"""Turns linear layers into 1x1 convolutions, the form in which int8 runtimes have their best kernels.

    linear(x)                       =  flatten(conv1x1(reshape(x, [N, C, 1, 1])))
    linear(flatten(m)), m is HxW    =  flatten(conv(m)) with the weight's columns as C x H x W kernels, without padding

Then values stay maps as long as they can: a flatten in front of an elementwise op goes behind it, a global pool keeps
its 1x1 dimensions, and `cleanup` removes each flatten that meets the reshape of the next layer. What stays is one
flatten at the end. Run it after activations are fused, since a flatten would stand between a layer and its clip.
"""

from __future__ import annotations

from dataclasses import replace

from edgecnn.ir.graph import BATCH, Editor, Graph, Note, Op, walk_back
from edgecnn.ir.ops import Shape, attrs_of
from edgecnn.passes.affine import own_constant
from edgecnn.passes.cleanup import cleanup

RULE = "linear_to_conv"
ELEMENTWISE = frozenset(
    {"clip", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu", "leaky_relu"},
)


def linear_to_conv(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with its linear layers on [N, C] as convolutions, which keep the names; a note for each."""
    linears = [op.output for op in graph.ops if op.kind == "linear"]
    if not linears:
        return graph, []
    notes = []
    for name in linears:
        axes = len(graph.shape(name))
        if axes == 2:
            graph, kernel = _convert(graph, graph.makers[name])
            notes.append(Note(RULE, name, True, f"a {kernel[0]}x{kernel[1]} convolution"))
        else:
            notes.append(Note(RULE, name, False, f"it is over the last of {axes} axes, not over channels"))
    graph = _sink_flattens(_keep_pooled_dims(graph))
    graph, cleaned = cleanup(graph)
    return graph, notes + cleaned


def _convert(graph: Graph, linear: Op) -> tuple[Graph, Shape]:
    edit, source = graph.edit(), linear.inputs[0]
    channels, *kernel = _map_shape(graph, source)
    image = edit.activation(f"{linear.output}_in", (BATCH, channels, *kernel))
    edit.insert(Op("reshape", (source,), image, {"shape": (BATCH, channels, *kernel)}, linear.source))
    weight = graph.const(linear.inputs[1]).reshape(-1, channels, *kernel)
    w_oihw = own_constant(edit, linear.inputs[1], weight)
    conv = replace(linear, kind="conv", inputs=(image, w_oihw, *linear.inputs[2:]))
    _as_map(edit, linear, conv, (BATCH, len(weight), 1, 1))
    return edit.finish(), tuple(kernel)


def _map_shape(graph: Graph, features: str) -> Shape:
    """The C, H, W that were flattened into `features`; C, 1, 1 if there was no map."""
    source = features
    for op in walk_back(graph, features, ELEMENTWISE):
        source = op.inputs[0]
    maker = graph.makers.get(source)
    if maker is not None and maker.kind in ("flatten", "reshape") and len(graph.shape(maker.inputs[0])) == 4:
        return graph.shape(maker.inputs[0])[1:]
    return (graph.shape(features)[1], 1, 1)


def _keep_pooled_dims(graph: Graph) -> Graph:
    edit = graph.edit()
    for op in graph.ops:
        if op.kind == "global_pool" and not attrs_of(op)["keepdims"]:
            _as_map(edit, op, op.with_attrs(keepdims=True), (*graph.shape(op.output), 1, 1))
    return edit.finish()


def _sink_flattens(graph: Graph) -> Graph:
    """The graph with flattens behind the elementwise ops that followed them."""
    while (pair := _flatten_then_elementwise(graph)) is not None:
        flatten, op = pair
        edit, source = graph.edit(), flatten.inputs[0]
        _as_map(edit, op, replace(op, inputs=(source,)), graph.shape(source))
        graph = edit.finish()
    return graph


def _flatten_then_elementwise(graph: Graph) -> tuple[Op, Op] | None:
    for flatten in graph.ops:
        if flatten.kind == "flatten" and len(graph.shape(flatten.inputs[0])) == 4:
            for op in graph.users[flatten.output]:
                if op.kind in ELEMENTWISE:
                    return flatten, op
    return None


def _as_map(edit: Editor, old: Op, new: Op, shape: Shape) -> None:
    """Puts `new`, which gives a map of `shape`, in the place of `old`, with a flatten for all who read `old`.

    The map keeps the name, since it is what the user's module is about; at an output of the graph the flatten does.
    """
    image = flat = old.output
    if old.output in edit.outputs:
        image = edit.activation(f"{old.output}_map", shape)
    else:
        flat = edit.activation(f"{old.output}_flat", edit.values[old.output].shape)
        edit.redirect(old.output, flat)
        edit.set_shape(old.output, shape)
    edit.swap(old, replace(new, output=image), Op("flatten", (image,), flat, {}, old.source))
