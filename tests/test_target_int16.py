"""tflite-int16x8: activations in 16 bits, weights in 8, in LiteRT's reference kernels, which are slow and say so."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from litert_runs import images
from small_export import small_export

from edgecnn.coverage import coverage_of
from edgecnn.errors import CheckFailed
from edgecnn.ir.quantized import run_codes
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.parity import op_differences, sqnr_db
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT, LITERT_S16
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import EmitOptions

TARGET = "tflite-int16x8"
all_targets()

MANY_KINDS = """graph many(x: [N,8,8,8]) {
  a = conv(x, w1[16,8,3,3], b1[16]) pad=(1,1,1,1) clip=(0.0,6.0)
  b = conv(a, w2[16,1,3,3], b2[16]) pad=(1,1,1,1) groups=16
  c = hard_swish(b)
  d = add(a, c) clip=(0.0,None)
  e = sub(d, c)
  f = max_pool(e) kernel=(2,2) stride=(2,2)
  g = avg_pool(d) kernel=(2,2) stride=(2,2)
  h = concat(f, g) axis=1
  i = global_pool(h) keepdims=True
  j = sigmoid(i)
  k = mul(h, j)
  l = conv(k, w3[16,8,1,1], b3[16]) groups=4
  m = slice(l) axis=1 start=0 stop=8
  n = global_pool(m) keepdims=False
  y = linear(n, w4[10,8], b4[10])
  return y
}
"""


def coded(scheme):
    graph = parse(MANY_KINDS, seed=0)
    return graph, assign(graph, measure(graph, [images(graph, n=8)]), scheme)[0]


def test_every_op_is_within_a_code_of_its_meaning():
    graph, quantized = coded(LITERT_S16)
    found = list(op_differences(TARGETS[TARGET], quantized, images(graph), cpu_options=EmitOptions()))
    assert {d.kind for d in found} == {op.kind for op in graph.ops}
    assert [d for d in found if not d.ok] == []


def test_16_bits_leave_the_rounding_of_the_weights_alone():
    """With float weights in their place, the noise of 16-bit activations is that of 8 bits over 2**8."""
    noise = {}
    for scheme in (LITERT, LITERT_S16):
        graph, quantized = coded(scheme)
        # The float net with the weights and biases that the codes stand for.
        constants = {v.name: v.q.dequantize(v.codes) for v in quantized.values.values() if v.is_const}
        twin = parse(MANY_KINDS, constants=constants)
        x = images(graph, n=8)  # those of calibration: nothing saturates
        (y,) = run_codes(quantized, quantized.value("x").q.quantize(x))
        noise[scheme.name] = sqnr_db(quantized.value("y").q.dequantize(y), run(twin, x)[0])
    assert noise["litert-s16"] > noise["litert-s8"] + 35, noise


def test_sums_of_scales_of_any_ratio_say_so_in_the_file():
    _, quantized = coded(LITERT_S16)
    data = TARGETS[TARGET].emit(quantized, EmitOptions()).data
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    ops = model.subgraphs[0].operators
    sums = [o.builtinOptions for o in ops if isinstance(o.builtinOptions, (schema.AddOptionsT, schema.SubOptionsT))]
    assert len(sums) == 2
    assert not any(o.potScaleInt16 for o in sums)
    types = {t.type for t in model.subgraphs[0].tensors}
    assert {schema.TensorType.INT16, schema.TensorType.INT8, schema.TensorType.INT64} <= types


def test_a_large_bias_keeps_the_weights_resolution():
    """In int32 a bias of 1e6 steps of the input would make the weights coarser; sums of 16-bit codes are int64."""
    text = "graph g(x: [N,4,4,4]) {\n  y = conv(x, w[4,4,1,1], b[4])\n  return y\n}"
    plain = {v.name: v.data for v in parse(text).values.values() if v.is_const}
    graph = parse(text, constants=plain | {"b": np.full(4, 1e5, np.float32)})
    quantized = assign(graph, measure(graph, [images(graph, n=4)]), LITERT_S16)[0]
    weight = graph.value("w").data
    step = np.abs(weight).reshape(4, -1).max(1) / 127
    assert np.allclose(quantized.value("w").q.scale, step, rtol=1e-6)
    assert quantized.value("b").q.dtype == "int64"


def test_it_is_refused_unless_the_slow_path_is_asked_for(tmp_path):
    with pytest.raises(CheckFailed, match=r"no kernel for 16-bit activations"):
        small_export(tmp_path, target=TARGET)
    assert list(tmp_path.iterdir()) == []
    artifact = small_export(tmp_path, target=TARGET, min_coverage=0.0)
    assert artifact.manifest["parity"]["ok"]
    assert artifact.manifest["parity"]["summary"].count("int16")
    found = coverage_of(artifact.path)
    assert (found.precision, found.macs_share) == ("int16", 0.0)
