"""The ONNX emitter as a whole: bytes, names, ends, QDQ placement, and the forms that runtimes want."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import numpy_helper
from onnx_cases import case, checked, execute, images, op_types, quantised
from strategies import INVERTED_RESIDUAL, SQUEEZE_EXCITE, graphs

import edgecnn
from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.passes.standard import STANDARD, run_passes
from edgecnn.quant.scheme import ORT_S8, ORT_U8
from edgecnn.targets.onnx import emit
from edgecnn.targets.onnx_ops import gate_parameters
from edgecnn.targets.onnx_writer import Form
from edgecnn.targets.target import EmitOptions

NET = """graph net(x: [N,3,12,12]) {
  a = conv(x, wa[16,3,3,3], ba[16]) stride=(2,2) pad=(1,1,1,1)
  h = hard_swish(a)
  b = conv(h, wb[16,1,3,3], bb[16]) pad=(1,1,1,1) groups=16 clip=(0.0,6.0)
  s = add(h, b)
  p = global_pool(s) keepdims=False
  y = linear(p, wy[5,16], by[5])
  return y
}"""


@pytest.fixture(scope="module")
def net() -> Graph:
    return quantised(parse(NET), ORT_U8)


@given(graph=graphs())
def test_any_graph_gives_a_legal_model_that_computes_the_reference(graph: Graph) -> None:
    graph, _ = run_passes(graph, STANDARD)
    x = images(graph)
    data = emit(graph, EmitOptions(batch=2)).data
    checked(data)
    # Eight ops of at most 72 terms each, summed in another order: 8 * 72 * 2^-24 = 3.5e-5 of the largest magnitude.
    expected = run(graph, x)[0]
    np.testing.assert_allclose(execute(data, x)[0], expected, rtol=0, atol=3.5e-5 * (1 + np.abs(expected).max()))


@given(graph=graphs())
def test_any_quantised_graph_gives_a_legal_model_and_the_same_bytes_twice(graph: Graph) -> None:
    coded = quantised(run_passes(graph, STANDARD)[0], ORT_U8)
    data = emit(coded, EmitOptions()).data
    assert emit(coded, EmitOptions()).data == data
    checked(data)
    execute(data, images(coded, count=1))


def test_the_model_says_who_made_it_and_what_the_caller_adds(net: Graph) -> None:
    model = checked(emit(net, EmitOptions(metadata={"b": "2", "a": "1"})).data)
    assert (model.producer_name, model.producer_version) == ("edgecnn", edgecnn.__version__)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert [(p.key, p.value) for p in model.metadata_props] == [("a", "1"), ("b", "2")]


def test_values_keep_their_names_and_shapes(net: Graph) -> None:
    model = checked(emit(net, EmitOptions(batch=3)).data)
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    expected = {name: (3, *net.shape(name)[1:]) for name in ("x", "a", "h", "b", "s", "y")}
    assert {name: shapes[name] for name in expected} == expected


def test_parameters_per_tensor_are_0d_and_biases_int32(net: Graph) -> None:
    tensors = {t.name: numpy_helper.to_array(t) for t in checked(emit(net, EmitOptions()).data).graph.initializer}
    for name in ("x/codes/scale", "x/codes/zero", "h/codes/scale", "h/codes/zero"):
        assert tensors[name].shape == ()
    assert (tensors["wa"].dtype, tensors["wa/scale"].shape, tensors["wa/zero"].dtype) == ("int8", (16,), "int8")
    assert (tensors["ba"].dtype, tensors["ba/scale"].shape) == ("int32", (16,))
    np.testing.assert_array_equal(tensors["ba"], net.value("ba").codes)


def test_fused_activations_cost_no_node_where_the_codes_end_at_their_bounds(net: Graph) -> None:
    assert not {"Relu", "Clip"} & set(
        op_types(checked(emit(quantised(parse(INVERTED_RESIDUAL), ORT_U8), EmitOptions()).data))
    )
    # Here the only clip is the gate of the hard-swish.
    assert op_types(checked(emit(net, EmitOptions()).data)).count("Clip") == 1


def test_a_bound_inside_the_codes_is_a_clip_of_codes() -> None:
    graph = quantised(case("conv"), ORT_U8)
    edit = graph.edit()
    op = edit.ops[0]
    edit.swap(op, op.with_attrs(clip=(0.0, 0.5)))
    data = emit(edit.finish(), EmitOptions()).data
    assert "Clip" in op_types(checked(data))
    assert 0.4 < execute(data, images(graph, count=1))[0].max() <= 0.5


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8], ids=lambda s: s.name)
def test_a_clip_beside_other_readers_clips_codes(scheme) -> None:
    graph = quantised(case("clip.shared"), scheme)
    model = checked(emit(graph, EmitOptions()).data)
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    low, high = (numpy_helper.to_array(t) for name in clip.input[1:] for t in model.graph.initializer if t.name == name)
    q = graph.value("x").q
    assert q is not None
    assert low.dtype == high.dtype == q.dtype
    assert (low, high) == (q.quantize(np.asarray(-0.5)), q.quantize(np.asarray(0.7)))


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8], ids=lambda s: s.name)
def test_codes_at_the_ends_mean_the_same_in_either_type(scheme) -> None:
    graph = quantised(parse(NET), scheme)
    x, q_in, q_out = images(graph, count=1), graph.value("x").q, graph.value("y").q
    assert q_in is not None
    assert q_out is not None
    real = execute(emit(graph, EmitOptions()).data, x)[0]
    for dtype in ("uint8", "int8"):
        shift = (dtype == "uint8") * 128 - (scheme.act_dtype == "uint8") * 128
        emitted = emit(graph, EmitOptions(input_type=dtype))
        model = checked(emitted.data)
        codes = (q_in.quantize(x).astype(int) + shift).astype(dtype)
        found = execute(emitted.data, codes)[0]
        assert found.dtype == dtype
        np.testing.assert_array_equal(q_out.dequantize(found.astype(int) - shift), real)
        said = {p.key: p.value for p in model.metadata_props}
        assert said["edgecnn.quantization.x"] == f"{float(q_in.scale)!r} {int(q_in.zero_point) + shift}"
        assert [n.rule for n in emitted.notes] == ["recode"] * (2 if shift else 0)


def test_a_float_model_takes_no_codes() -> None:
    with pytest.raises(UsageError) as error:
        emit(case("conv"), EmitOptions(input_type="uint8"))
    assert str(error.value) == (
        "UsageError: the input of a float model cannot be uint8\n"
        "  expected float32\n"
        "  got      uint8\n"
        "  do       leave out --input-type, or choose a quantised target"
    )


def test_what_stays_float_is_named_with_the_reason() -> None:
    notes = [str(n) for n in emit(quantised(case("tanh"), ORT_U8), EmitOptions()).notes]
    assert notes == ["float: left y: ONNX Runtime has no integer tanh"]
    shared = [str(n) for n in emit(quantised(case("hard_swish.shared"), ORT_U8), EmitOptions()).notes]
    assert shared == ["float: left h: the input of hard_swish has no scale 6/k with zero point k/2"]


@pytest.mark.parametrize(("scheme", "offset"), [(ORT_U8, 0), (ORT_S8, -128)], ids=["u8", "s8"])
def test_the_gate_of_a_hard_swish_is_its_codes_read_again(scheme, offset: int) -> None:
    graph = quantised(parse(NET), scheme)
    q = graph.value("a").q
    gate = gate_parameters(q)
    assert q is not None
    assert gate is not None
    codes = np.arange(256) + offset
    x = q.dequantize(codes).astype(np.float64)
    read = gate.dequantize(np.minimum(codes, gate.qmax))
    # float32 holds 1/k and 6/k to 2^-24, so k steps of it are off by no more than 256 * 2^-24 < 2e-5.
    np.testing.assert_allclose(read, np.clip(x + 3, 0, 6) / 6, rtol=0, atol=2e-5)


def test_a_form_without_integer_tensors_computes_on_pairs_only() -> None:
    """What TensorRT reads: no operator on codes, weights quantised in the graph, and the same numbers."""
    graph = quantised(parse(SQUEEZE_EXCITE), ORT_S8)
    edit = graph.edit()
    for name in ("b1", "b2"):
        edit.set_q(name, None)
    graph = edit.finish()
    form = Form(moves_codes=False, weight_codes=False)
    data = emit(graph, EmitOptions(), form=form).data
    model = checked(data)
    made = {o: n.op_type for n in model.graph.node for o in n.output}
    weights = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and re.fullmatch(r"w\d", n.input[0])]
    assert len(weights) == 2
    assert {t.data_type for t in model.graph.initializer if t.name in ("w1", "b1", "w2", "b2")} == {
        onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Clip"):
            assert all(made.get(i) != "QuantizeLinear" for i in node.input), node.name
