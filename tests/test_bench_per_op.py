"""Per-op latencies: one figure per op in the graph's order, equal ops timed once, and larger ops slower."""

from __future__ import annotations

import pytest
from litert_runs import quantised

from edgecnn.bench.per_op import op_latencies, signature
from edgecnn.ir.text import parse
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions

GRAPH = parse(
    """graph two(x: [N,64,28,28]) {
  a = conv(x, w1[64,64,3,3]) pad=(1,1,1,1)
  b = conv(a, w2[64,64,3,3]) pad=(1,1,1,1)
  c = conv(b, w3[8,64,1,1])
  d = mul(c, c)
  return d
}"""
)


def test_equal_ops_have_one_signature_and_others_their_own() -> None:
    a, b, c, d = GRAPH.ops
    assert signature(GRAPH, a) == signature(GRAPH, b)
    assert len({signature(GRAPH, op) for op in (a, c, d)}) == 3
    assert signature(quantised(GRAPH), a) != signature(GRAPH, a)


@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32", "onnx-int8", "onnx-fp32"])
def test_every_op_is_timed_in_its_runtime(target: str) -> None:
    graph = quantised(GRAPH) if target.endswith("int8") else GRAPH
    found = op_latencies(all_targets()[target], graph, options=EmitOptions(), rounds=5)
    assert [f.op for f in found] == [op.name for op in graph.ops]
    a, b, c, d = found
    assert a.latency_us == b.latency_us > 0
    assert a.macs == 64 * 64 * 9 * 28 * 28
    # 72 times the multiply-adds of `c`; even on a busy machine they do not take less than twice its time.
    assert a.latency_us > 2 * c.latency_us
    assert d.macs_per_s == 0


def test_only_some_ops() -> None:
    found = op_latencies(
        all_targets()["tflite-fp32"], GRAPH, options=EmitOptions(), rounds=2, only=lambda op: op.kind == "mul"
    )
    assert [f.kind for f in found] == ["mul"]
