"""From learned parameters to a graph that a target takes: shared, within limits, and biases on the grid of the sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Graph, QParams
from edgecnn.quant.learned import is_rigid
from edgecnn.quant.limits import widened
from edgecnn.quant.ties import shared_groups
from edgecnn.quant.weights import bias_q, least_weight_scale, sums_type

_ROUNDS = 8
"""A widened value can push the next op over its limit; each round settles at least one op of such a chain."""


def finished(graph: Graph, q: Mapping[str, QParams]) -> Graph:
    """`graph` with the parameters `q` on the values they name, and on every bias those that follow from them.

    Scales are widened where their ratios are out of the limits of XNNPACK's kernels (`quant.limits`), and those of
    weights where a bias would not fit into int32.

    Args:
        graph: with parameters on its values already, whose groups are kept.
        q: new parameters: the same for all values of a group.
    """
    groups = {name: g.values for g in shared_groups(graph) if not is_rigid(graph, g) for name in g.values}
    found = dict(q)
    for _ in range(_ROUNDS):
        result = _with_constants(graph, found)
        factors = {name: factor for name, factor in widened(result).items() if name in groups}
        if not factors:
            break
        for name, factor in factors.items():
            old = found[name]
            wider = replace(old, scale=np.asarray(float(old.scale) * factor, np.float32))
            found.update(dict.fromkeys(groups[name], wider))
    return _with_constants(graph, found)


def _with_constants(graph: Graph, q: Mapping[str, QParams]) -> Graph:
    """`graph` with `q`, the weights' scales no smaller than they may be, and the biases' scales."""
    edit = graph.edit()
    for name, new in q.items():
        edit.set_q(name, new)
    for op in graph.ops:
        if op.kind not in ("conv", "linear") or any(graph.value(n).q is None for n in (*op.inputs[:2], op.output)):
            continue
        x_q, w_q, y_q = (edit.values[name].q for name in (*op.inputs[:2], op.output))
        assert x_q is not None
        assert w_q is not None
        assert y_q is not None
        bias = graph.value(op.inputs[2]) if len(op.inputs) > 2 else None
        data = None if bias is None else bias.data
        least = least_weight_scale(data, float(x_q.scale), float(y_q.scale), sums=sums_type(x_q))
        w_q = replace(w_q, scale=np.maximum(w_q.scale, least).astype(np.float32))
        edit.set_q(op.inputs[1], w_q)
        if bias is not None and bias.q is not None:
            edit.set_q(bias.name, bias_q(np.float32(x_q.scale), w_q, sums=sums_type(x_q)))
    return edit.finish()
