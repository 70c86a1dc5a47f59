"""From a choice of channels to a graph: `apply` removes them, `mask` makes them count for nothing; equal answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Array, Graph, Op, Value
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.verify import verify
from edgecnn.prune.coupling import LOCKED, PRODUCERS, Coupling

Units = Iterable[int] | Array


def apply(coupling: Coupling, removed: Units) -> Graph:
    """The graph without the channels of the units `removed`; names of ops and values stay.

    A slice that loses all its channels goes, and so does what it was joined into; nothing else may lose all.

    Raises:
        ValueError: a layer would be left without input or output: `coupling.kept_alive` says what prevents it.
    """
    graph, gone = coupling.graph, _gone(coupling, removed)
    keep = {key: ~gone[labels] for key, labels in coupling.labels.items()}
    values = {name: _smaller(coupling, value, keep) for name, value in graph.values.items()}
    for op in graph.ops:
        if op.kind == "conv" and coupling.ways.get(op.output) == "positions":
            values[op.inputs[1]] = _fewer_per_group(coupling, op, gone)
    dead = {name for name, value in values.items() if value.data is None and 0 in value.shape}
    ops = [_rewritten(coupling, op, values, keep, dead) for op in graph.ops if op.output not in dead]
    pruned = Graph.build(graph.name, ops, values.values(), graph.inputs, graph.outputs)
    verify(pruned)
    return pruned


def restricted(coupling: Coupling, removed: Units, pruned: Graph) -> Coupling:
    """The coupling of `apply(coupling, removed)`, with units numbered anew: what is coupled stays as it was decided."""
    gone = _gone(coupling, removed)
    number = np.cumsum(~gone) - 1
    number[-1] = LOCKED
    labels = {key: number[found[~gone[found]]] for key, found in coupling.labels.items()}
    return replace(coupling, graph=pruned, units=int((~gone[:-1]).sum()), labels=labels)


def mask(coupling: Coupling, removed: Units) -> Graph:
    """The graph in its old shape, in which the channels of the units `removed` are zero wherever they are made.

    Rows of weights, biases, scales and shifts of batch norm are zero, and so is what every op makes of zero, but for a
    few (sigmoid makes one half): layers that read such a channel have their columns for it zero, too.
    """
    graph, gone = coupling.graph, _gone(coupling, removed)
    data = {name: np.array(value.data) for name, value in graph.values.items() if value.data is not None}

    def clear(name: str, axis: int) -> None:
        index = (slice(None),) * axis + (gone[coupling.labels[name, axis]],)
        data[name][index] = 0.0

    zero: dict[str, bool] = dict.fromkeys(graph.inputs, True)
    for op in graph.ops:
        if op.kind in PRODUCERS:
            for name in op.inputs[1:3]:
                clear(name, 0)
            if not zero[op.inputs[0]] and (columns := coupling.columns(op)) is not None:
                data[op.inputs[1]][gone[columns]] = 0.0
        elif op.kind == "batch_norm":
            clear(op.inputs[1], 0)
            clear(op.inputs[2], 0)
        else:
            for name, axis in coupling.labels:
                if name in op.inputs and name in data:
                    clear(name, axis)
        zero[op.output] = _stays_zero(graph, op, zero)
    values = [replace(v, data=data[v.name]) if v.name in data else v for v in graph.values.values()]
    return Graph.build(graph.name, graph.ops, values, graph.inputs, graph.outputs)


def _gone(coupling: Coupling, removed: Units) -> Array:
    """Whether each unit goes; the last place is `LOCKED`'s, which never does."""
    gone = np.zeros(coupling.units + 1, bool)
    gone[np.fromiter(removed, int)] = True
    gone[-1] = False
    return gone


def _smaller(coupling: Coupling, value: Value, keep: dict[tuple[str, int], Array]) -> Value:
    if value.data is None:
        axis = coupling.axis[value.name]
        shape = list(value.shape)
        if axis:
            shape[axis] = int(keep[value.name, axis].sum())
        return replace(value, shape=tuple(shape))
    data = value.data
    for axis in range(data.ndim):
        if (value.name, axis) in keep:
            data = np.compress(keep[value.name, axis], data, axis)
    return replace(value, shape=data.shape, data=np.ascontiguousarray(data))


def _fewer_per_group(coupling: Coupling, op: Op, gone: Array) -> Value:
    """The weight of a convolution whose groups each lose equally many rows and columns, but not the same ones."""
    weight = coupling.graph.value(op.inputs[1])
    columns = coupling.columns(op)
    assert weight.data is not None  # the weights of a convolution are constant
    assert columns is not None  # and its channels go by positions
    rows = ~gone[coupling.filters(op)]
    kept = ~gone[columns[rows]]
    data = weight.data[rows][kept].reshape(len(kept), -1, *weight.shape[2:])
    return replace(weight, shape=data.shape, data=data)


def _rewritten(
    coupling: Coupling, op: Op, values: dict[str, Value], keep: dict[tuple[str, int], Array], dead: set[str]
) -> Op:
    if op.kind == "concat":
        return replace(op, inputs=tuple(name for name in op.inputs if name not in dead and 0 not in values[name].shape))
    if any(name in dead for name in op.inputs):
        raise ValueError(f"op `{op.output}` ({op.kind}): nothing is left of its input")
    x = op.inputs[0]
    if op.kind == "conv" and coupling.ways.get(op.output) == "groups":
        return op.with_attrs(groups=values[x].shape[1] // values[op.inputs[1]].shape[1])
    if op.kind == "channel_shuffle" and coupling.ways[op.output] == "groups":
        each = coupling.graph.shape(x)[1] // op.attrs["groups"]
        return op.with_attrs(groups=values[x].shape[1] // each)
    if op.kind == "slice" and op.attrs["axis"] == coupling.axis[x]:
        kept = keep[x, coupling.axis[x]]
        start, stop = op.attrs["start"], op.attrs["stop"]
        return op.with_attrs(start=int(kept[:start].sum()), stop=int(kept[:stop].sum()))
    if op.kind == "reshape":
        return op.with_attrs(shape=values[op.output].shape)
    if op.kind == "pad" and isinstance(attrs_of(op)["value"], tuple):
        kept = keep[x, coupling.axis[x]]
        return op.with_attrs(value=tuple(v for v, k in zip(op.attrs["value"], kept, strict=True) if k))
    return op


_ZERO_TO_ZERO = frozenset(
    {"leaky_relu", "hard_swish", "silu", "tanh", "gelu", "max_pool", "avg_pool", "global_pool", "upsample"}
    | {"slice", "channel_shuffle", "flatten", "reshape", "transpose", "lrn"}
)


def _stays_zero(graph: Graph, op: Op, zero: dict[str, bool]) -> bool:
    """Whether a masked channel of the op's output is exactly zero."""
    attrs = attrs_of(op)
    low, high = attrs.get("clip") or (attrs.get("lo"), attrs.get("hi"))
    if (low is not None and low > 0) or (high is not None and high < 0):
        return False
    if op.kind in PRODUCERS or op.kind == "batch_norm":
        return True
    inputs = [zero[name] for name in graph.activations(op)]
    if op.kind in ("add", "sub"):
        # A constant per channel is masked with it; a single number meets all channels and is not.
        return all(inputs) and not any(graph.value(i).is_const and graph.const(i).size == 1 for i in op.inputs)
    if op.kind == "mul":
        return any(inputs)
    if op.kind in ("concat", "clip") or op.kind in _ZERO_TO_ZERO:
        return all(inputs)
    if op.kind == "pad":
        value = attrs["value"]
        return all(inputs) and not isinstance(value, tuple) and value == 0
    return False
