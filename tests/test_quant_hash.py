"""The hash of a graph: equal for what computes the same by construction, different for any other number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from edgecnn.ir.graph import Graph, QParams
from edgecnn.ir.hash import graph_hash
from edgecnn.ir.text import parse
from tests.strategies import RESIDUAL, graphs


@given(graphs())
def test_a_copy_has_the_same_hash(graph: Graph) -> None:
    assert graph_hash(graph.edit().finish()) == graph_hash(graph)


def test_names_of_graphs_source_lines_and_written_out_defaults_do_not_count() -> None:
    graph = parse(RESIDUAL)
    same = (
        RESIDUAL.replace("graph residual", "graph other"),
        RESIDUAL.replace("clip=(0.0,None)", "clip=(0.0,None)  # body.0 net.py:3", 1),
        RESIDUAL.replace("y = conv(s, wy[6,8,1,1], by[6])", "y = conv(s, wy[6,8,1,1], by[6]) stride=(1,1) groups=1"),
    )
    for text in same:
        assert graph_hash(parse(text)) == graph_hash(graph)


@pytest.mark.parametrize(
    ("old", "new"), [("pad=(1,1,1,1)\n", "pad=(1,1,1,1) clip=(0.0,6.0)\n"), ("add(b, x)", "add(x, b)"), ("wy", "wz")]
)
def test_ops_count(old: str, new: str) -> None:
    assert RESIDUAL.count(old) > 0
    assert graph_hash(parse(RESIDUAL.replace(old, new))) != graph_hash(parse(RESIDUAL))


def test_the_last_bit_of_a_constant_and_every_parameter_count() -> None:
    graph = parse(RESIDUAL)
    seen = {graph_hash(graph)}
    edit = graph.edit()
    data = graph.const("ba").copy()
    data[0] = np.nextafter(data[0], np.float32(9))
    edit.values["ba"] = replace(edit.values["ba"], data=data)
    seen.add(graph_hash(edit.finish()))
    for q in (
        QParams.per_tensor(0.5),
        QParams.per_tensor(0.5, 1),
        QParams.per_tensor(0.5, 1, "uint8"),
        QParams.per_tensor(0.5, 1, qmin=-127),
        QParams.per_tensor(float(np.nextafter(np.float32(0.5), np.float32(1)))),
    ):
        edit = graph.edit()
        edit.set_q("x", q)
        seen.add(graph_hash(edit.finish()))
    assert len(seen) == 7
