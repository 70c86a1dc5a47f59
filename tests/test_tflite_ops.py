"""Every op kind, lowered alone and run in the real LiteRT: the same codes as the integer reference, the same floats."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from litert_runs import emitted, graph_of, images, load, quantised

from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import OPS
from edgecnn.ir.text import parse
from edgecnn.targets.tflite_ops import RULES, UNSUPPORTED

X86 = platform.machine() in ("x86_64", "AMD64")

ONE_OP = [
    # dense, depthwise and grouped convolutions with the paddings that SAME and VALID can and cannot say
    ("16,6,6", "conv(x, w[24,16,1,1], b[24])"),
    ("16,6,6", "conv(x, w[24,16,1,1]) stride=(2,2)"),
    ("5,7,9", "conv(x, w[8,5,3,3], b[8]) pad=(1,1,1,1) clip=(0.0,None)"),
    ("5,8,8", "conv(x, w[8,5,3,3], b[8]) pad=(1,1,1,1) stride=(2,2) clip=(0.0,6.0)"),
    ("5,7,9", "conv(x, w[8,5,3,5], b[8]) pad=(2,0,1,3) stride=(2,1) clip=(-1.0,1.0)"),
    ("5,9,9", "conv(x, w[8,5,3,3]) pad=(2,2,2,2) dilation=(2,2) clip=(0.0,1.0)"),
    ("5,9,9", "conv(x, w[8,5,3,3]) pad=(4,4,4,4) clip=(-0.5,0.25)"),
    ("8,8,8", "conv(x, w[8,1,5,5], b[8]) pad=(2,2,2,2) stride=(2,2) groups=8"),
    ("8,8,8", "conv(x, w[24,1,3,3]) pad=(1,1,1,1) groups=8"),
    ("8,9,9", "conv(x, w[8,1,3,3]) pad=(2,2,2,2) dilation=(2,2) groups=8"),
    ("8,8,8", "conv(x, w[12,2,3,3], b[12]) pad=(1,1,1,1) groups=4"),
    # the first layer in pairs of pixels
    ("3,16,16", "conv(x, w[8,3,3,3], b[8]) pad=(1,1,1,1) stride=(2,2)"),
    ("3,16,16", "conv(x, w[8,3,3,3], b[8]) pad=(0,1,0,1) stride=(2,2)"),
    ("3,16,16", "conv(x, w[8,3,4,4], b[8]) pad=(2,2,1,1) stride=(2,2)"),
    ("3,20,16", "conv(x, w[8,3,7,7]) pad=(3,3,3,3) stride=(2,2) clip=(0.0,None)"),
    ("3,9,8", "conv(x, w[8,3,3,3]) stride=(2,2)"),
    ("3,9,7", "conv(x, w[8,3,3,3]) stride=(2,2)"),
    ("12", "linear(x, w[10,12], b[10]) clip=(0.0,None)"),
    ("5,12", "linear(x, w[10,12])"),
    ("8,5,7", "global_pool(x)"),
    ("8,5,7", "global_pool(x) keepdims=False"),
    ("8,5,7", "lrn(x) size=5 alpha=0.5 beta=0.75 k=2.0"),
    ("8,5,7", "lrn(x) size=4 alpha=0.5 beta=0.6 k=1.0"),
    ("8,5,7", "lrn(x) size=1 alpha=0.5 beta=0.5 k=1.0"),
    ("3,5,7", "lrn(x) size=11 alpha=0.5 beta=0.5 k=1.0"),
    ("8,8,8", "max_pool(x) kernel=(2,2) stride=(2,2)"),
    ("8,8,8", "max_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)"),
    ("8,9,9", "max_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)"),
    ("8,9,9", "max_pool(x) kernel=(1,1) stride=(2,2)"),
    ("8,8,8", "avg_pool(x) kernel=(2,2) stride=(2,2)"),
    ("8,8,8", "avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1) counted=(1,1,1,1)"),
    ("8,8,8", "avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)"),
    ("8,8,8", "avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,2,1,2) counted=(1,1,1,1)"),
    ("8,5,5", "hard_swish(x)"),
    ("8,5,5", "hard_sigmoid(x)"),
    ("8,5,5", "sigmoid(x)"),
    ("8,5,5", "silu(x)"),
    ("8,5,5", "tanh(x)"),
    ("8,5,5", "gelu(x)"),
    ("8,5,5", "leaky_relu(x) slope=0.1"),
    ("8,5,5", "clip(x) lo=0.0 hi=6.0"),
    ("8,5,5", "clip(x) lo=-0.25 hi=0.5"),
    ("8,5,5", "softmax(x) axis=1"),
    ("8,5,5", "softmax(x) axis=2"),
    ("10", "softmax(x) axis=1"),
    ("8,5,5", "add(x, x)"),
    ("8,5,5", "add(x, c[8,1,1]) clip=(0.0,None)"),
    ("8,5,5", "sub(c[8,5,5], x)"),
    ("8,5,5", "mul(x, c[1,5,5]) clip=(0.0,6.0)"),
    ("8,5,5", "mul(x, x) clip=(0.0,0.5)"),
    ("8", "add(x, c[8])"),
    ("8,5,5", "concat(x) axis=1"),
    ("8,5,5", "concat(x, x) axis=1"),
    ("8,5,5", "concat(x, x, x, x, x, x, x) axis=2"),
    ("8,5,5", "slice(x) axis=1 start=3 stop=8"),
    ("8,5,5", "slice(x) axis=3 start=1 stop=2"),
    ("8,5,5", "channel_shuffle(x) groups=4"),
    ("8,5,7", "upsample(x) factor=(2,3)"),
    ("3,5,4", "upsample(x) factor=(1,8)"),
    ("8,1,1", "upsample(x) factor=(5,1)"),
    ("8,5,5", "pad(x) pad=(1,2,3,4)"),
    ("3,5,5", "pad(x) pad=(1,2,0,1) value=(0.5,-0.25,0.125)"),
    ("3,5,5", "pad(x) pad=(0,2,3,0) value=-0.5"),
    ("8,5,5", "flatten(x)"),
    ("8,1,1", "flatten(x)"),
    ("8,3,5", "reshape(x) shape=(-1,6,10,2)"),
    ("8,3,5", "reshape(x) shape=(-1,8,15)"),
    ("8", "reshape(x) shape=(-1,2,2,2)"),
    ("8,3,5", "transpose(x) perm=(0,2,3,1)"),
    ("8,3", "transpose(x) perm=(0,2,1)"),
]
cases = pytest.mark.parametrize(("shape", "op"), ONE_OP, ids=[f"{op} of {shape}" for shape, op in ONE_OP])


def test_every_kind_is_lowered_here_or_has_a_reason() -> None:
    tried = {op.split("(")[0] for _, op in ONE_OP}
    assert set(OPS) - set(RULES) == set(UNSUPPORTED)
    assert set(RULES) == tried | {"deform_conv"}  # which reads several values: see test_deform_export.py


@cases
def test_int8_gives_the_codes_of_the_reference_in_one_partition(shape: str, op: str) -> None:
    graph = quantised(graph_of(shape, op))
    codes = graph.value("x").q.quantize(images(graph))  # type: ignore[union-attr]
    (expected,) = quantized.run_codes(graph, codes)
    loaded = load(emitted(graph, batch=2).data)
    assert not loaded.left_out
    # XNNPACK on ARM multiplies in fixed point: halves may fall to the other side, so 1 code. Everything else is exact.
    tolerance = 0 if X86 or graph.ops[0].kind not in ("mul", "softmax") else 1
    np.testing.assert_allclose(loaded.run(codes).astype(int), expected.astype(int), rtol=0, atol=tolerance)


@cases
def test_float_gives_the_numbers_of_the_reference_in_one_partition(shape: str, op: str) -> None:
    graph = graph_of(shape, op)
    x = images(graph)
    (expected,) = reference.run(graph, x)
    loaded = load(emitted(graph, target="tflite-fp32", batch=2).data)
    assert not loaded.left_out
    # At most 150 products are summed, in two orders: 150 * 2**-24 of the largest, and as much for transcendental ops.
    np.testing.assert_allclose(loaded.run(x), expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


MAX_POOLED = """
graph pooled(x: [N,4,8,8]) {{
  y = {op}
  p = max_pool(y) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)
  return p
}}
"""


@pytest.mark.parametrize(
    ("op", "form"),
    [
        ("conv(x, w[8,4,1,1]) clip=(0.0,None)", {"PAD"}),  # zeros are the smallest numbers
        ("conv(x, w[8,4,1,1])", {"CONCATENATION"}),  # zeros would win against negative ones
    ],
)
@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32"])
def test_padding_of_a_max_pool_never_wins(op: str, form: set[str], target: str) -> None:
    graph = parse(MAX_POOLED.format(op=op))
    graph = quantised(graph) if target == "tflite-int8" else graph
    x = images(graph)
    if target == "tflite-int8":
        x = graph.value("x").q.quantize(x)  # type: ignore[union-attr]
    (expected,) = quantized.run_codes(graph, x) if target == "tflite-int8" else reference.run(graph, x)
    loaded = load(emitted(graph, target=target, batch=2).data)
    assert form == {"PAD", "CONCATENATION"} & operators(loaded.interpreter)
    # Codes are exact; 4 products per sum leave 4 * 2**-24 in float.
    np.testing.assert_allclose(loaded.run(x), expected, rtol=0, atol=0 if target == "tflite-int8" else 1e-6)


def operators(interpreter: object) -> set[str]:
    return {op["op_name"] for op in interpreter._get_ops_details()}  # type: ignore[attr-defined]


def test_a_shared_range_wider_than_the_clip_keeps_the_clip() -> None:
    """The two tied values span -2 to 6, so saturation alone would let numbers below zero through."""
    graph = parse("""
        graph tied(x: [N,4,6,6]) {
          a = conv(x, wa[4,4,1,1], ba[4]) clip=(0.0,6.0)
          b = conv(x, wb[4,4,1,1], bb[4])
          c = conv(x, wc[4,4,1,1], bc[4]) clip=(-0.25,0.25)
          y = concat(a, b, c) axis=1
          return y
        }
    """)
    coded: Graph = quantised(graph)
    codes = coded.value("x").q.quantize(images(coded))  # type: ignore[union-attr]
    (expected,) = quantized.run_codes(coded, codes)
    loaded = load(emitted(coded, batch=2).data)
    assert not loaded.left_out
    assert np.array_equal(loaded.run(codes), expected)
