"""The identity of a graph: one hash over everything that decides what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecnn.ir.graph import Graph, QParams, Value
from edgecnn.ir.ops import attrs_of


def graph_hash(graph: Graph) -> str:
    """The sha256 (hex) of `graph`: ops with names and attributes, shapes, constants to the bit, quantisation.

    The graph's own name and the source lines of its ops do not count: moving the user's file changes no number.
    """
    digest = hashlib.sha256()

    def add(record: Mapping[str, Any]) -> None:
        digest.update(json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")

    add({"inputs": graph.inputs, "outputs": graph.outputs})
    for op in graph.ops:
        # Defaults are filled in, so that leaving an attribute out and writing its default are the same graph.
        add({"op": op.output, "kind": op.kind, "inputs": op.inputs, "attrs": attrs_of(op)})
    for name in sorted(graph.values):
        add(_record(graph.values[name]))
    return digest.hexdigest()


def _record(value: Value) -> dict[str, Any]:
    record: dict[str, Any] = {"value": value.name, "shape": value.shape}
    if value.data is not None:
        record["data"] = hashlib.sha256(np.ascontiguousarray(value.data, np.float32).data).hexdigest()
    if value.q is not None:
        record["q"] = _q_record(value.q)
    return record


def _q_record(q: QParams) -> list[Any]:
    return [q.scale.tobytes().hex(), q.zero_point.tolist(), q.dtype, q.axis, q.qmin, q.qmax]
