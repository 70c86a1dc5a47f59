"""Recognises heterogeneous convolutions and brings them into the form that a target runs best.

A HetConv layer of part P has k x k kernels on one P-th of its input channels and 1x1 kernels on the others (HetConv,
CVPR 2019, arXiv:1903.04120, section 3). In the graph it is a sum of two convolutions of the same value,

    y = conv(x, a, groups=P) + conv(x, b)          a is k x k, b is 1x1

where the block diagonal of b may be zero or not. Three forms of one function, C channels in and M out, per pixel:

    grouped   k*k*C*M/P + C*M multiply-adds     as it stands
    split     k*k*C*M/P + C*M                   P slices, P convolutions of one group and a concatenation for the first
    dense     k*k*C*M                           one convolution; zeros where a has no weight, b on the tap that meets it

A 1x1 kernel with padding q reads x[i * stride - q], tap t of the k x k kernel reads x[i * stride - pad + t * dilation]:
the tap that meets it is t = (pad - q) / dilation, the centre in the usual case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np

from edgecnn.errors import unknown
from edgecnn.ir.graph import Array, Graph, Note, Op, Pass
from edgecnn.ir.ops import NO_CLIP, attrs_of, macs_of
from edgecnn.passes.affine import Refused

RULE = "hetconv"
Form = Literal["grouped", "split", "dense"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, eq=False)
class HetConv:
    """One heterogeneous convolution of a graph: the sum, its grouped and its pointwise branch."""

    sum: Op
    grouped: Op
    pointwise: Op
    tap: tuple[int, int]
    macs: dict[Form, int]

    @property
    def part(self) -> int:
        """P: one P-th of the channels has k x k kernels."""
        groups: int = self.grouped.attrs["groups"]
        return groups

    def __str__(self) -> str:
        counts = ", ".join(f"{form} {count / 1e6:.2f} M" for form, count in self.macs.items())
        return f"HetConv P={self.part}: multiply-adds {counts}"


def find_hetconv(graph: Graph) -> list[HetConv]:
    """The heterogeneous convolutions of a graph, in order, with the multiply-adds that each form executes."""
    found = []
    for op in graph.ops:
        if op.kind == "add":
            try:
                found.append(_recognise(graph, op))
            except Refused:
                continue  # an add of something else
    return found


def cheapest_hetconv(
    graph: Graph, cost: Callable[[Graph, HetConv], Mapping[Form, float]], *, unit: str
) -> tuple[Graph, list[Note]]:
    """The graph with each heterogeneous convolution in the form for which `cost` is least, and a note for each."""
    notes = []
    for layer in find_hetconv(graph):
        costs = cost(graph, layer)
        form = min(costs, key=lambda name: costs[name])
        told = ", ".join(f"{name} {value:.0f}" for name, value in costs.items())
        graph = REWRITES[form](graph, layer)
        notes.append(Note(RULE, layer.sum.output, True, f"P={layer.part} as {form}; expected {unit}: {told}"))
    return graph, notes


def hetconv(form: Form) -> Pass:
    """A pass that brings every heterogeneous convolution into `form`; a batch norm must have been folded.

    Raises:
        UsageError: there is no such form.
    """
    if form not in FORMS:
        raise unknown("HetConv form", form, FORMS)
    return partial(_hetconv, form=form)


def _hetconv(graph: Graph, form: Form) -> tuple[Graph, list[Note]]:
    notes = []
    for layer in find_hetconv(graph):
        graph = REWRITES[form](graph, layer)
        did = form != "grouped"
        notes.append(Note(RULE, layer.sum.output, did, f"P={layer.part} {'as' if did else 'stays'} {form}"))
    return graph, notes


def _recognise(graph: Graph, add: Op) -> HetConv:
    makers = [graph.makers.get(name) for name in add.inputs]
    convs = [op for op in makers if op is not None and op.kind == "conv" and _is_branch(graph, op)]
    if len(convs) != 2 or convs[0] is convs[1] or convs[0].inputs[0] != convs[1].inputs[0]:
        raise Refused("not a sum of two convolutions of one value")
    grouped, pointwise = sorted(convs, key=lambda op: attrs_of(op)["groups"], reverse=True)
    wide, narrow = attrs_of(grouped), attrs_of(pointwise)
    kernel = graph.shape(grouped.inputs[1])[2:]
    if narrow["groups"] != 1 or wide["groups"] == 1 or graph.shape(pointwise.inputs[1])[2:] != (1, 1):
        raise Refused("not a grouped and a pointwise convolution")
    if wide["stride"] != narrow["stride"] or graph.shape(grouped.output) != graph.shape(pointwise.output):
        raise Refused("the branches do not step alike")
    tap = _meeting_tap(wide, narrow, kernel)
    executed = macs_of(graph, grouped) + macs_of(graph, pointwise)
    dense = macs_of(graph, pointwise) * kernel[0] * kernel[1]
    return HetConv(add, grouped, pointwise, tap, {"grouped": executed, "split": executed, "dense": dense})


def _is_branch(graph: Graph, conv: Op) -> bool:
    return graph.only_user(conv.output) is not None and attrs_of(conv)["clip"] == NO_CLIP


def _meeting_tap(
    wide: dict[str, tuple[int, ...]], narrow: dict[str, tuple[int, ...]], kernel: tuple[int, ...]
) -> tuple[int, int]:
    tap = []
    for axis, size in enumerate(kernel):
        begin = wide["pad"][2 * axis] - narrow["pad"][2 * axis]
        at, rest = divmod(begin, wide["dilation"][axis])
        if rest or not 0 <= at < size:
            raise Refused("no tap of the kernel meets the pointwise one")
        tap.append(at)
    return tap[0], tap[1]


def _as_grouped(graph: Graph, layer: HetConv) -> Graph:
    return graph


def _as_dense(graph: Graph, layer: HetConv) -> Graph:
    edit = graph.edit()
    name = layer.sum.output
    weight = edit.const(f"{name}_weight", _dense_weight(graph, layer))
    biases = [
        graph.const(op.inputs[2]).astype(np.float64) for op in (layer.grouped, layer.pointwise) if len(op.inputs) == 3
    ]
    inputs = [layer.grouped.inputs[0], weight]
    if biases:
        inputs.append(edit.const(f"{name}_bias", np.sum(biases, axis=0)))
    conv = replace(layer.grouped, inputs=tuple(inputs), output=name)
    edit.swap(layer.sum, conv.with_attrs(groups=1, clip=attrs_of(layer.sum)["clip"]))
    return edit.finish()


def _dense_weight(graph: Graph, layer: HetConv) -> Array:
    blocks = np.split(graph.const(layer.grouped.inputs[1]).astype(np.float64), layer.part)
    rows, columns, *kernel = blocks[0].shape
    dense = np.zeros((rows * layer.part, columns * layer.part, *kernel))
    for group, block in enumerate(blocks):
        dense[group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = block
    dense[:, :, layer.tap[0], layer.tap[1]] += graph.const(layer.pointwise.inputs[1])[:, :, 0, 0]
    return dense


def _as_split(graph: Graph, layer: HetConv) -> Graph:
    edit, conv = graph.edit(), layer.grouped
    source, name, source_shape = conv.inputs[0], conv.output, graph.shape(conv.inputs[0])
    constants = [np.split(graph.const(i), layer.part) for i in conv.inputs[1:]]
    columns = source_shape[1] // layer.part
    batch, channels, *size = graph.shape(name)
    ops, parts = [], []
    for group in range(layer.part):
        piece = edit.activation(f"{name}_in{group}", (batch, columns, *source_shape[2:]))
        bounds = {"axis": 1, "start": group * columns, "stop": (group + 1) * columns}
        ops.append(Op("slice", (source,), piece, bounds, conv.source))
        part = edit.activation(f"{name}_part{group}", (batch, channels // layer.part, *size))
        own = [edit.const(f"{i}_{group}", data[group]) for i, data in zip(conv.inputs[1:], constants, strict=True)]
        ops.append(replace(conv.with_attrs(groups=1), inputs=(piece, *own), output=part))
        parts.append(part)
    edit.swap(conv, *ops, Op("concat", tuple(parts), name, {"axis": 1}, conv.source))
    return edit.finish()


REWRITES: dict[Form, Callable[[Graph, HetConv], Graph]] = {
    "grouped": _as_grouped,
    "split": _as_split,
    "dense": _as_dense,
}
