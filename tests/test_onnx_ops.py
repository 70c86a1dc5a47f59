"""Every op kind in ONNX: real numbers against the float reference, codes against the integer one."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_cases import LINES, case, checked, execute, images, quantised

from edgecnn.errors import UnsupportedOp
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Source
from edgecnn.ir.ops import OPS
from edgecnn.ir.quantized import apply_codes, run_codes, stored
from edgecnn.ir.reference import run
from edgecnn.quant.scheme import ORT_S8, ORT_U8
from edgecnn.targets import onnx_ops
from edgecnn.targets.onnx import emit
from edgecnn.targets.onnx_writer import Form
from edgecnn.targets.target import EmitOptions


def test_each_kind_is_lowered_and_shown_here() -> None:
    assert set(onnx_ops.LOWER) == set(OPS)
    assert {name.split(".")[0] for name in LINES} == set(OPS)
    assert set(onnx_ops.FLOAT_KINDS) < set(OPS)


@pytest.mark.parametrize("name", LINES)
def test_a_float_model_computes_what_the_reference_does(name: str) -> None:
    graph = case(name)
    x = images(graph)
    data = emit(graph, EmitOptions(batch=2)).data
    checked(data)
    # A sum of n = 256 terms in another order differs by less than n * 2^-24 = 1.6e-5 of the sum of magnitudes.
    np.testing.assert_allclose(execute(data, x)[0], run(graph, x)[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("form", [Form(), Form(stem="fold"), Form(moves_codes=False, weight_codes=False)], ids=repr)
@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", LINES)
def test_an_op_on_codes_agrees_with_the_integer_reference(name: str, scheme, form: Form) -> None:
    graph = quantised(case(name), scheme)
    q = graph.value("x").q
    if q is None:
        pytest.skip("the scheme leaves it in float, which another test covers")
    codes = {"x": q.quantize(images(graph, count=1))}
    run_codes(graph, codes["x"], watch=codes.__setitem__)
    for op in graph.ops:
        single = cut(graph, op)
        data = emit(single, EmitOptions(input_type=scheme.act_dtype), form=form).data
        checked(data)
        found = execute(data, *(codes[i] for i in single.inputs))[0]
        inputs = [codes[i] if i in codes else stored(graph.value(i)) for i in op.inputs]
        expected = apply_codes(graph, op, inputs)
        assert found.dtype == expected.dtype
        if found.dtype == np.float32:  # as in the float model, on the real numbers of the codes
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
            continue
        # One real number is rounded in two ways at most: at a tie, or a float32 ulp away from one.
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
        # Ties are rare, but for hard_sigmoid: with [-3, 3] and [0, 1] in 256 codes, all values lie near one.
        assert np.mean(found != expected) < 0.01 or op.kind == "hard_sigmoid"


def test_an_op_without_a_rule_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.targets.onnx.LOWER", {"add": onnx_ops.LOWER["add"], "mul": onnx_ops.LOWER["mul"]})
    graph = case("gelu")
    object.__setattr__(graph.ops[0], "source", Source("blocks.3.act", "my_net.py:71"))
    with pytest.raises(UnsupportedOp) as error:
        emit(graph, EmitOptions())
    assert str(error.value) == (
        "UnsupportedOp: onnx cannot lower `gelu`\n"
        "  at       my_net.py:71  (blocks.3.act)\n"
        "  expected one of add, mul\n"
        "  do       replace the op in the net, or add a rule to edgecnn/targets/onnx_ops.py"
    )
