"""Turns a clip (ReLU, ReLU6, any bounds) into the `clip` attribute of the op before it.

    clip(conv(x, w, b), lo, hi)  =  conv(x, w, b) clip=(lo, hi)

The op takes the clip's name. Two clips in a row become one (`passes.clips`). An op that something else reads before its
clip keeps its values, and the clip stays.
"""

from __future__ import annotations

from edgecnn.ir.graph import Graph, Note, Op
from edgecnn.ir.ops import CLIPPING, attrs_of
from edgecnn.passes import clips
from edgecnn.passes.affine import Refused, absorb, set_clip, sole_reader

RULE = "fuse_activation"


def fuse_activation(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with clips fused into conv, linear, add, sub and mul, and a note for each clip."""
    notes = []
    for name in [op.output for op in graph.ops if op.kind == "clip"]:
        clip = graph.makers[name]
        try:
            graph = _fuse(graph, clip)
            notes.append(Note(RULE, name, True, f"into `{clip.inputs[0]}`"))
        except Refused as reason:
            notes.append(Note(RULE, name, False, str(reason)))
    return graph, notes


def _fuse(graph: Graph, clip: Op) -> Graph:
    source = clip.inputs[0]
    maker = graph.makers.get(source)
    if maker is None:
        raise Refused(f"`{source}` is an input of the graph")
    if maker.kind not in CLIPPING:
        raise Refused(f"`{source}` is made by {maker.kind}, which has no activation")
    sole_reader(graph, source, clip)
    edit = graph.edit()
    bounds = clips.compose(attrs_of(maker)["clip"], clips.of_attrs(**clip.attrs))
    absorb(edit, set_clip(edit, maker, bounds), clip)
    return edit.finish()
