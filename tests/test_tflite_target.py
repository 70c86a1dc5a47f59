"""The TFLite targets as a whole: whole nets in one partition, inputs and outputs, settings, metadata, refusals."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from litert_runs import TARGETS, emitted, graph_of, images, load, nhwc, quantised

from edgecnn.errors import UnsupportedOp, UsageError
from edgecnn.ir import quantized, reference
from edgecnn.ir.cut import cut
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Array, Graph, QParams, Source
from edgecnn.ir.text import parse
from edgecnn.nets import build_net
from edgecnn.passes.embed_normalization import embed_normalization
from edgecnn.passes.standard import run_passes
from edgecnn.targets.tflite_ops import RULES

X86 = platform.machine() in ("x86_64", "AMD64")


def coded(graph: Graph, x_nchw: Array) -> Array:
    q = graph.value(graph.inputs[0]).q
    assert q is not None
    return q.quantize(x_nchw)


def net(name: str, size: int, *, target: str = "tflite-int8", **settings: str) -> Graph:
    """A net of ours with random weights after the passes of its target."""
    torch.manual_seed(0)
    module = build_net(name).eval()
    graph = import_module(module, (3, size, size), name=name)
    return run_passes(graph, TARGETS[target].passes("x86", settings))[0]


# ---- whole nets


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v3_small", 64),
        ("shufflenet_v2_x0_5", 64),
        ("resnet20", 32),
        ("hetconv_small", 32),
        ("squeezenet1_1", 64),
    ],
)
def test_an_int8_net_is_one_partition_and_gives_the_codes_of_the_reference(name: str, size: int) -> None:
    graph = quantised(net(name, size))
    codes = coded(graph, images(graph, n=1))
    loaded = load(emitted(graph).data)
    assert (loaded.partitions, loaded.left_out) == (1, [])
    (expected,) = quantized.run_codes(graph, codes)
    if X86 or all(op.kind != "mul" for op in graph.ops):  # on ARM a flipped half in a product grows: only per op there
        assert np.array_equal(loaded.run(codes), expected)


def test_an_int8_efficientnet_is_one_partition() -> None:
    loaded = load(emitted(quantised(net("efficientnet_b0", 32))).data)
    assert (loaded.partitions, loaded.left_out) == (1, [])


def test_a_float_net_is_one_partition_and_agrees_with_torch() -> None:
    graph = net("mobilenet_v3_small", 64, target="tflite-fp32")
    torch.manual_seed(0)
    module = build_net("mobilenet_v3_small").eval()
    x = images(graph, n=1)
    loaded = load(emitted(graph, target="tflite-fp32").data)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert (loaded.partitions, loaded.left_out) == (1, [])
    # The project's bound for float artifacts: 1e-4 of the largest output.
    np.testing.assert_allclose(loaded.run(x), expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_emitting_is_quick_and_always_gives_the_same_bytes() -> None:
    graph = quantised(net("mobilenet_v3_large", 32))  # the resolution does not change the size of the file
    started = time.process_time()
    first = emitted(graph).data
    assert time.process_time() - started < 1.0
    assert emitted(graph).data == first


# ---- inputs, outputs, metadata

TINY = """
graph tiny(x: [N,3,8,8]) {
  c = conv(x, w[8,3,3,3], b[8]) stride=(2,2) pad=(1,1,1,1)
  h = hard_swish(c)
  g = global_pool(h)
  y = conv(g, v[5,8,1,1], d[5])
  z = flatten(y)
  return z
}
"""


def test_every_input_type_means_the_same_image() -> None:
    graph = quantised(parse(TINY))
    x, q, out = images(graph, n=1), graph.value("x").q, graph.value("z").q
    assert q is not None
    assert out is not None
    codes = q.quantize(x)
    expected = load(emitted(graph).data).run(codes)
    bytes_ = load(emitted(graph, input_type="uint8").data)
    assert not bytes_.left_out
    assert np.array_equal(bytes_.run((codes.astype(int) + 128).astype(np.uint8)), expected.astype(int) + 128)
    floats = load(emitted(graph, input_type="float32").data)
    assert not floats.left_out
    # A pixel at the very middle between two codes may fall to either; this seed has none.
    assert np.array_equal(floats.run(x), out.dequantize(expected))


def test_the_input_type_is_noted_with_its_cost() -> None:
    notes = [str(n) for n in emitted(quantised(parse(TINY)), input_type="uint8").notes]
    assert "input_type: x (uint8 to int8: one more pass over the input)" in notes


def test_the_file_can_be_called_by_name_and_carries_its_metadata() -> None:
    graph = parse(TINY)
    data = emitted(graph, target="tflite-fp32", batch=3, metadata={"mean": "0.5", "layout": "NHWC"}).data
    x = images(graph, n=3)
    runner = load(data).interpreter.get_signature_runner("serving_default")
    assert runner(input=nhwc(x))["output"].shape == (3, 5)
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entries = {e.name.decode(): bytes(model.buffers[e.buffer].data) for e in model.metadata}
    assert json.loads(entries["edgecnn"]) == {"layout": "NHWC", "mean": "0.5"}
    assert "reduced_precision_support" not in entries


def test_fp16_is_the_float_file_with_the_word_that_xnnpack_looks_for() -> None:
    data = emitted(parse(TINY), target="tflite-fp16").data
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entries = {e.name: bytes(model.buffers[e.buffer].data) for e in model.metadata}
    assert entries[b"reduced_precision_support"] == b"fp16accfp16"
    assert load(data).interpreter.get_input_details()[0]["dtype"] == np.float32


def test_several_inputs_keep_the_names_of_the_graph() -> None:
    graph = quantised(parse("graph g(x: [N,4,3,3]) {\n  a = hard_swish(x)\n  y = add(a, x)\n  return y\n}"))
    single = cut(graph, graph.makers["y"])
    details = load(emitted(single).data).interpreter.get_input_details()
    assert [d["name"] for d in details] == list(single.inputs)


# ---- forms


@pytest.mark.parametrize("size", [16, 24])
def test_pairs_of_pixels_change_no_code(size: int) -> None:
    graph = quantised(parse(TINY.replace("8,8]", f"{size},{size}]")))
    codes = coded(graph, images(graph, n=1))
    paired, plain = (emitted(graph, settings={"stem": form}) for form in ("pair", "plain"))
    assert f"({size} columns of 3 channels read as {size // 2} of 6)" in str(paired.notes[0])
    assert plain.notes == ()
    assert np.array_equal(load(paired.data).run(codes), load(plain.data).run(codes))


@pytest.mark.parametrize("stem", ["pair", "plain"])
def test_raw_pixels_are_padded_with_what_the_net_takes_for_zero(stem: str) -> None:
    """The padding of an embedded normalisation is made in the first layer's own form, borders included."""
    embed = embed_normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    graph, _ = run_passes(parse(TINY), [embed])
    assert graph.makers[graph.makers["c"].inputs[0]].kind == "pad"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.float32)
    expected = reference.run(graph, pixels)[0]
    loaded = load(emitted(graph, target="tflite-fp32", batch=2).data)
    assert not loaded.left_out
    # 27 products of up to 255 * w are summed in another order: 27 * 2**-24 of the sum of their sizes, here below 1e-5.
    np.testing.assert_allclose(loaded.run(pixels), expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
    coded_graph = quantised(graph)
    codes = coded(coded_graph, images(coded_graph))
    loaded = load(emitted(coded_graph, batch=2, settings={"stem": stem}).data)
    assert not loaded.left_out
    assert np.array_equal(loaded.run(codes), quantized.run_codes(coded_graph, codes)[0])


GATED = """
graph gated(x: [N,16,8,8]) {
  g = global_pool(x)
  h = conv(g, wh[16,16,1,1], bh[16]) clip=(0.0,1.0)
  m = mul(x, h)
  y = conv(m, wy[12,16,1,1], by[12])
  return y
}
"""


def test_a_gate_in_the_weight_is_nearly_the_same_and_one_partition() -> None:
    graph = quantised(parse(GATED))
    codes = coded(graph, images(graph))
    seen: dict[str, Array] = {}
    quantized.run_codes(graph, codes, watch=seen.__setitem__)
    x, gate = (graph.value(name).q.dequantize(seen[name]) for name in ("x", "h"))  # type: ignore[union-attr]
    weight, bias, y_q = graph.const("wy")[:, :, 0, 0], graph.const("by"), graph.value("y").q
    assert y_q is not None
    exact = np.einsum("oc,nchw->nohw", weight, x * gate) + bias.reshape(1, -1, 1, 1)

    made = emitted(graph, batch=2, settings={"se": "matmul"})
    assert str(made.notes[0]) == "gate_in_weight: y (64 pixels, 12 output channels)"
    loaded = load(made.data)
    assert not loaded.left_out
    # Half a step each: of the weight and of the gated weight (no larger, as the gate is below 1), times the sum of |x|;
    # of the product, whose range is that of y and of the bias; of the bias; of y.
    step_w, step_b = np.abs(weight).max() / 127, np.abs(bias).max() / 127
    step_product = float(y_q.scale) + (bias.max() - bias.min()) / 255
    steps = 2 * step_w * np.abs(x).sum(axis=1).max() + step_product + step_b + float(y_q.scale)
    assert np.abs(y_q.dequantize(loaded.run(codes)) - exact).max() <= steps / 2


def test_a_gate_stays_on_the_map_where_the_form_does_not_pay() -> None:
    few_pixels = quantised(parse(GATED.replace("8,8]", "4,4]")))
    assert emitted(few_pixels, settings={"se": "matmul"}).notes == ()


def test_scales_that_xnnpack_does_not_take_are_computed_in_float_and_noted() -> None:
    graph = quantised(graph_of("8,5,5", "add(x, c[8,1,1])"))
    edit = graph.edit()
    edit.set_q("x", QParams.per_tensor(2.0**-13))
    edit.set_q("y", QParams.per_tensor(2.0**-2))
    made = emitted(edit.finish(), batch=2)
    assert str(made.notes[0]) == (
        "int8: left y: runs in float: an input's scale is 0.000488 times the output's; XNNPACK takes 2**-10 up to 2**8"
    )
    assert not load(made.data).left_out


# ---- refusals


def test_a_kind_without_a_rule_is_refused_with_its_place_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(RULES) - {"add", "mul"}:
        monkeypatch.delitem(RULES, name)
    graph = graph_of("4,9,9", "gelu(x)")
    placed = replace(graph.ops[0], source=Source("blocks.3.act", "my_net.py:71"))
    graph = Graph(graph.name, (placed,), graph.values, graph.inputs, graph.outputs)
    with pytest.raises(UnsupportedOp) as caught:
        emitted(graph, target="tflite-fp32")
    assert str(caught.value) == (
        "UnsupportedOp: tflite-fp32 cannot lower `gelu`\n"
        "  at       my_net.py:71  (blocks.3.act)\n"
        "  expected one of add, mul\n"
        "  got      `y`: there is no rule for it\n"
        "  do       replace the `gelu`, or add a rule to edgecnn/targets/tflite_ops.py"
    )


@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32"])
def test_a_form_that_has_no_operator_is_refused(target: str) -> None:
    graph = parse("""
        graph moved(x: [N,4,9,9]) {
          o = conv(x, wo[18,4,3,3], bo[18])
          y = deform_conv(x, w[4,4,3,3], b[4], o)
          return y
        }
    """)
    with pytest.raises(UnsupportedOp) as caught:
        emitted(quantised(graph) if target == "tflite-int8" else graph, target=target)
    assert str(caught.value) == (
        f"UnsupportedOp: {target} cannot lower `deform_conv`\n"
        "  at       ?  (top level)\n"
        "  got      `y`: only what `deform_sampling` makes of it\n"
        "  do       run the target's passes before emitting"
    )


def test_a_batch_norm_that_no_pass_folded_is_refused() -> None:
    graph = graph_of("4,3,3", "batch_norm(x, g[4], b[4], m[4], v[4]) eps=1e-05")
    with pytest.raises(UnsupportedOp) as caught:
        emitted(graph, target="tflite-fp32")
    assert str(caught.value) == (
        "UnsupportedOp: tflite-fp32 cannot lower `batch_norm`\n"
        "  at       ?  (top level)\n"
        "  got      `y`: the pass `fold_batchnorm` turns it into a convolution before\n"
        "  do       run the target's passes before emitting"
    )


def test_an_unknown_value_of_a_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown value of the setting stem `pairs`"):
        emitted(quantised(parse(TINY)), settings={"stem": "pairs"})
    with pytest.raises(UsageError, match="unknown value of the setting se `matmuls`"):
        TARGETS["tflite-int8"].passes("x86", {"se": "matmuls"})
