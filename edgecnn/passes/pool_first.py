"""Puts an average pool in front of the 1x1 convolution before it, which then has fewer pixels to compute.

    mean over a window of (W x + b)  =  W (mean over the window of x) + b

exact where the window counts no padding, since then the mean of b is b. DenseNet's transitions are written this way:
their convolutions are 11 % of DenseNet-121's multiply-adds, of which three quarters go (a 2x2 pool). The pool pays for
it if the convolution has more input channels than output channels, so the place must be worth it; see `MACS_PER_TAP`.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from edgecnn.ir.graph import Graph, Note, Op
from edgecnn.ir.ops import NO_CLIP, attrs_of, macs_of
from edgecnn.passes.affine import Refused, sole_reader

RULE = "pool_first"

MACS_PER_TAP = 32
"""Multiply-adds of a 1x1 convolution in the time in which a pool reads one more number. Measured on x86 with AVX-512
VNNI, one thread: 25 in int8 (200 G/s against 8 G/s), fewer in float32."""


def pool_first(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with average pools in front of 1x1 convolutions where that is less work, and a note for each pair."""
    notes = []
    for name in [op.output for op in graph.ops if op.kind in ("avg_pool", "global_pool")]:
        pool = graph.makers[name]
        conv = graph.makers.get(pool.inputs[0])
        if conv is None or conv.kind != "conv":
            continue
        try:
            graph = _exchange(graph, conv, pool)
            notes.append(Note(RULE, name, True, f"in front of `{conv.output}`"))
        except Refused as reason:
            notes.append(Note(RULE, name, False, str(reason)))
    return graph, notes


def _exchange(graph: Graph, conv: Op, pool: Op) -> Graph:
    _check_commutes(graph, conv, pool)
    source, full, pooled = (graph.shape(name) for name in (conv.inputs[0], conv.output, pool.output))
    if prod(pooled[2:]) >= prod(full[2:]):
        raise Refused("it has as many pixels behind it")
    saved_macs = macs_of(graph, conv) * (1 - prod(pooled[2:]) / prod(full[2:]))
    more_taps = (source[1] - full[1]) * prod(pooled[2:]) * prod(pool.attrs.get("kernel", full[2:]))
    if saved_macs < MACS_PER_TAP * more_taps:
        raise Refused(f"pooling {source[1]} channels instead of {full[1]} costs more than it saves")
    edit = graph.edit()
    means = edit.activation(f"{pool.output}_in", (*source[:2], *pooled[2:]))
    edit.remove(conv)
    edit.swap(
        pool,
        replace(pool, inputs=conv.inputs[:1], output=means),
        replace(conv, inputs=(means, *conv.inputs[1:]), output=pool.output),
    )
    return edit.finish()


def _check_commutes(graph: Graph, conv: Op, pool: Op) -> None:
    attrs = attrs_of(conv)
    if graph.shape(conv.inputs[1])[2:] != (1, 1) or attrs["stride"] != (1, 1) or any(attrs["pad"]):
        raise Refused(f"`{conv.output}` is no 1x1 convolution with stride 1")
    if attrs["clip"] != NO_CLIP:
        raise Refused(f"`{conv.output}` has an activation, {attrs['clip']}")
    if any(pool.attrs.get("counted", ())):
        raise Refused("zeros of the padding count in its means")
    if not pool.attrs.get("keepdims", True):
        raise Refused("its means have no height and width")
    sole_reader(graph, conv.output, pool)
