"""The rules every graph keeps; run after each edit, so that a broken pass is caught where it happened."""

from __future__ import annotations

from edgecnn.ir.graph import BATCH, Graph, Op
from edgecnn.ir.ops import OPS, REQUIRED, infer_shape


def verify(graph: Graph) -> None:
    """Checks names, order, arity, attributes and shapes.

    Raises:
        ValueError: a rule is broken; the message names the op.
    """
    known = set(graph.inputs) | {n for n, v in graph.values.items() if v.is_const}
    for name in graph.inputs:
        shape = graph.shape(name)
        if not shape or shape[0] != BATCH:
            raise ValueError(f"input `{name}` of shape {shape} does not begin with the batch")
    for op in graph.ops:
        _verify_op(graph, op, known)
        known.add(op.output)
    for name in graph.outputs:
        if name not in known:
            raise ValueError(f"output `{name}` is made by no op")


def _verify_op(graph: Graph, op: Op, known: set[str]) -> None:
    here = f"op `{op.output}` ({op.kind})"
    kind = OPS.get(op.kind)
    if kind is None:
        raise ValueError(f"{here}: unknown kind")
    low, high = kind.arity
    if not low <= len(op.inputs) <= high:
        raise ValueError(f"{here}: {len(op.inputs)} inputs, expected {low} to {high}")
    if stray := set(op.attrs) - set(kind.attrs):
        raise ValueError(f"{here}: unknown attributes {sorted(stray)}")
    if missing := [k for k, d in kind.attrs.items() if d is REQUIRED and k not in op.attrs]:
        raise ValueError(f"{here}: attributes {missing} are missing")
    if missing_inputs := [i for i in op.inputs if i not in known]:
        raise ValueError(f"{here}: inputs {missing_inputs} are not made before it")
    if op.output in known:
        raise ValueError(f"{here}: its output is made twice")
    try:
        shape = infer_shape(graph, op)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error
    if any(size < 1 for size in shape[1:]):
        raise ValueError(f"{here}: nothing is left of its input, the shape is {shape}")
    if shape != graph.shape(op.output):
        raise ValueError(f"{here}: the shape is {graph.shape(op.output)}, the rule of its kind gives {shape}")
