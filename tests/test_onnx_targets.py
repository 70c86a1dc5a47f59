"""The records for ONNX Runtime: what each core decides, the settings, and that nothing in a net stays float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_cases import checked, execute, images, op_types, quantised

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.quantized import run_codes
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.passes.standard import run_passes
from edgecnn.targets import all_targets
from edgecnn.targets.target import CPUS, EmitOptions, Target

# A small MobileNetV3 and ShuffleNetV2 in one: every form that the int8 target has a rule for.
NET = """graph net(x: [N,3,16,16]) {
  a = conv(x, wa[16,3,3,3]) stride=(2,2) pad=(1,1,1,1)
  n = batch_norm(a, gamma[16], beta[16], mean[16], var[16]) eps=1e-05
  h = hard_swish(n)
  e = conv(h, we[24,16,1,1], be[24])
  r = clip(e) lo=0.0 hi=None
  d = conv(r, wd[24,1,3,3], bd[24]) pad=(1,1,1,1) groups=24
  g = global_pool(d)
  f1 = conv(g, w1[8,24,1,1], b1[8]) clip=(0.0,None)
  f2 = conv(f1, w2[24,8,1,1], b2[24])
  gate = hard_sigmoid(f2)
  m = mul(d, gate)
  s = channel_shuffle(m) groups=2
  left = slice(s) axis=1 start=0 stop=12
  right = slice(s) axis=1 start=12 stop=24
  c = conv(right, wc[12,12,1,1], bc[12]) clip=(0.0,None)
  cat = concat(left, c) axis=1
  o = conv(cat, wo[16,24,1,1], bo[16])
  act = silu(o)
  mp = max_pool(act) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)
  p = global_pool(mp) keepdims=False
  y = linear(p, wy[10,16], by[10])
  return y
}"""


@pytest.fixture(scope="module")
def int8() -> Target:
    return all_targets()["onnx-int8"]


def prepared(target: Target, cpu, **settings: str) -> Graph:
    graph, _ = run_passes(parse(NET), target.passes(cpu, settings))
    assert target.scheme is not None
    return quantised(graph, target.scheme(cpu))


def test_activations_are_uint8_but_on_cores_with_dot_product_alone(int8: Target) -> None:
    assert int8.scheme is not None
    types = {cpu: int8.scheme(cpu).act_dtype for cpu in CPUS}
    assert types == {
        "x86": "uint8",
        "x86-amx": "uint8",
        "armv8-a53": "uint8",
        "armv8": "uint8",
        "armv8-dot": "int8",
        "armv8-i8mm": "uint8",
    }


@pytest.mark.parametrize("cpu", CPUS)
def test_a_model_for_any_core_agrees_with_the_integer_reference(int8: Target, cpu) -> None:
    graph = prepared(int8, cpu)
    x, q_in, q_out = images(graph, count=1), graph.value("x").q, graph.value("y").q
    assert q_in is not None
    assert q_out is not None
    emitted = int8.emit(graph, EmitOptions(cpu=cpu))
    checked(emitted.data)
    assert emitted.notes == ()
    expected = q_out.dequantize(run_codes(graph, q_in.quantize(x))[0])
    # Ties may round in two ways (one code per op); on their way to a mean over 64 pixels they count for less than two.
    assert np.abs(execute(emitted.data, x)[0] - expected).max() <= 2 * float(q_out.scale)


def test_on_x86_every_operator_works_on_integers(int8: Target, tmp_path: Path) -> None:
    graph = prepared(int8, "x86")
    optimized = tmp_path / "optimized.onnx"
    execute(int8.emit(graph, EmitOptions()).data, images(graph, count=1), optimized=str(optimized))
    types = op_types(onnx.load(optimized))
    assert types.count("QuantizeLinear") == types.count("DequantizeLinear") == 1
    assert not {"Conv", "Gemm", "Mul", "Add", "Sigmoid", "GlobalAveragePool", "MaxPool", "HardSwish"} & set(types)


def test_the_passes_compute_the_same_function(int8: Target) -> None:
    before = parse(NET)
    x = images(before)
    for cpu in CPUS:
        after, _ = run_passes(before, int8.passes(cpu, {}))
        # Twenty float32 ops of at most 150 terms in another order: 20 * 150 * 2^-24 = 2e-4 of the largest magnitude.
        np.testing.assert_allclose(run(after, x)[0], run(before, x)[0], rtol=0, atol=2e-4)


def kinds(int8: Target, cpu, **settings: str) -> list[str]:
    return [op.kind for op in prepared(int8, cpu, **settings).ops]


def test_shuffles_stay_on_cores_without_dot_product(int8: Target) -> None:
    assert "channel_shuffle" in kinds(int8, "armv8")
    assert "channel_shuffle" in kinds(int8, "armv8-a53")
    assert "channel_shuffle" in kinds(int8, "armv8-dot")
    assert "channel_shuffle" not in kinds(int8, "armv8-i8mm")
    assert "channel_shuffle" not in kinds(int8, "armv8", shuffle="fold")
    assert "channel_shuffle" in kinds(int8, "x86", shuffle="transpose")


def test_each_setting_has_an_effect_and_a_meaning(int8: Target) -> None:
    assert prepared(int8, "x86").shape("d")[1] == 32
    assert prepared(int8, "x86", pad_channels="off").shape("d")[1] == 24
    assert {"silu", "sigmoid"} & set(kinds(int8, "x86", silu="float")) == {"silu"}
    assert {"silu", "sigmoid"} & set(kinds(int8, "x86")) == {"sigmoid"}
    assert "linear" in kinds(int8, "armv8")
    assert "linear" not in kinds(int8, "x86")
    graph = prepared(int8, "x86")
    stems = {s: int8.emit(graph, EmitOptions(settings={"stem": s})).data for s in ("fold", "pad", "plain")}
    assert len(set(stems.values())) == 3
    assert int8.emit(graph, EmitOptions()).data == stems["fold"]
    assert int8.emit(graph, EmitOptions(cpu="armv8")).data == stems["plain"]
    assert int8.emit(graph, EmitOptions(cpu="armv8-dot")).data == stems["fold"]
    assert int8.settings["stem"] == (
        "fold: the first convolution reads 2x2 blocks as channels; pad: four channels; auto: fold, not on armv8 "
        "(auto | fold | pad | plain; default auto)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stem": "folt"},
            "UsageError: unknown value of the setting stem `folt`\n"
            "  expected one of auto, fold, pad, plain\n"
            "  do       did you mean `fold`?",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_the_legal_ones(int8: Target, settings, message: str) -> None:
    graph = prepared(int8, "x86")
    with pytest.raises(UsageError) as error:
        int8.emit(graph, EmitOptions(settings=settings))
    assert str(error.value) == message


def test_a_wrong_value_of_a_pass_setting_is_refused_before_anything_runs(int8: Target) -> None:
    for name in ("hetconv_form", "pad_channels", "shuffle", "silu", "linear"):
        with pytest.raises(UsageError, match=f"unknown value of the setting {name} `7`"):
            int8.passes("x86", {name: "7"})


def test_the_float_target_keeps_real_numbers_throughout() -> None:
    target = all_targets()["onnx-fp32"]
    assert target.scheme is None
    graph, _ = run_passes(parse(NET), target.passes("x86", {}))
    x = images(graph)
    data = target.emit(graph, EmitOptions(batch=2)).data
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(op_types(checked(data)))
    np.testing.assert_allclose(execute(data, x)[0], run(graph, x)[0], rtol=0, atol=2e-4)


def het(channels: int, size: int) -> Graph:
    c = channels
    return parse(
        f"""graph het(x: [N,{c},{size},{size}]) {{
          g = conv(x, wg[{c},{c // 4},3,3], bg[{c}]) pad=(1,1,1,1) groups=4
          p = conv(x, wp[{c},{c},1,1], bp[{c}])
          y = add(g, p) clip=(0.0,None)
          return y
        }}"""
    )


def test_a_heterogeneous_convolution_takes_the_form_that_is_fast_at_its_size(int8: Target) -> None:
    narrow, _ = run_passes(het(64, 32), int8.passes("x86", {}))
    assert [op.kind for op in narrow.ops] == ["conv"]
    wide, notes = run_passes(het(256, 28), int8.passes("x86", {}))
    assert [op.kind for op in wide.ops].count("slice") == 4
    assert "P=4 as split; expected us: dense 1565, split 817" in [n.why for n in notes]
    for cpu, settings in (("armv8", {}), ("x86", {"hetconv_form": "grouped"})):
        kept, _ = run_passes(het(64, 32), int8.passes(cpu, settings))
        assert [op.kind for op in kept.ops] == ["conv", "conv", "add"]
