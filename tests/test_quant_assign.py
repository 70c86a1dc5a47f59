"""Assigning: what every quantised graph keeps, and what each rule does on a graph of a few lines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.errors import InputError, UsageError
from edgecnn.ir.graph import Array, Graph, Note, QParams
from edgecnn.ir.hash import graph_hash
from edgecnn.ir.ops import SAME_CODES
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.quant.limits import ADD_RATIO, CONV_RATIO, MUL_RATIO
from edgecnn.quant.measure import measure
from edgecnn.quant.ranges import Ranges
from edgecnn.quant.scheme import LITERT, ORT_S8, ORT_U8, Scheme
from tests.strategies import FEATURE_KINDS, RESIDUAL, graphs, image_batch

SYMMETRIC = Scheme("symmetric", symmetric=True, float_bias=True)
SCHEMES = (LITERT, ORT_U8, ORT_S8, SYMMETRIC)
FOLDED = tuple(kind for kind in FEATURE_KINDS if kind != "batch_norm")


def quantized(graph: Graph, scheme: Scheme = LITERT, *, x: Array | None = None) -> tuple[Graph, list[Note]]:
    return assign(graph, measure(graph, [image_batch(graph, n=4) if x is None else x]), scheme)


def q_of(graph: Graph, name: str) -> QParams:
    q = graph.value(name).q
    assert q is not None
    return q


def with_constants(text: str, constants: Mapping[str, Array]) -> Graph:
    """The graph of `text` with some constants given instead of drawn."""
    graph = parse(text)
    edit = graph.edit()
    for name, data in constants.items():
        edit.redirect(name, edit.const(f"{name}_given", data))
    return edit.finish()


# ---- laws ------------------------------------------------------------------------------------------------------------


@given(graphs(kinds=FOLDED), st.sampled_from(SCHEMES))
def test_every_quantised_graph_keeps_the_rules(graph: Graph, scheme: Scheme) -> None:
    before = graph_hash(graph)
    result, _ = quantized(graph, scheme)
    assert graph_hash(graph) == before
    for op in result.ops:
        y = q_of(result, op.output)
        for name in result.activations(op):
            if op.kind in SAME_CODES:
                assert q_of(result, name) == y
        if op.kind in ("conv", "linear"):
            x, w, b = op.inputs
            weight, bias = q_of(result, w), result.value(b).q
            assert np.abs(result.value(w).codes.astype(int)).max(initial=0) <= 127
            assert (weight.dtype, weight.axis, weight.zero_point.any()) == ("int8", 0, False)
            assert (bias is None) == scheme.float_bias
            if bias is not None:
                assert np.array_equal(bias.scale, (q_of(result, x).scale * weight.scale).astype(np.float32))
    for value in result.values.values():
        if not value.is_const:
            q = q_of(result, value.name)
            assert q.dtype == scheme.act_dtype
            assert q.qmin <= int(q.zero_point) <= q.qmax
            assert float(q.scale) > 0
            assert not scheme.symmetric or int(q.zero_point) == 0


@given(graphs(kinds=FOLDED), st.sampled_from(SCHEMES), st.sampled_from(list(ESTIMATORS)))
def test_assigning_again_changes_nothing(graph: Graph, scheme: Scheme, estimator: str) -> None:
    ranges = measure(graph, [image_batch(graph)])
    once, _ = assign(graph, ranges, scheme, estimator=estimator)
    twice, _ = assign(once, ranges, scheme, estimator=estimator)
    assert graph_hash(twice) == graph_hash(once)


@given(graphs(kinds=("conv", "depthwise", "sigmoid", "add", "concat", "slice", "max_pool")))
def test_codes_of_what_was_measured_are_within_half_a_step(graph: Graph) -> None:
    """Of inputs, whose whole range is kept: the error of a code is at most half a step, and zero is exact."""
    x = image_batch(graph)
    q = q_of(quantized(graph, x=x)[0], "x")
    error = np.abs(q.dequantize(q.quantize(x)).astype(np.float64) - x)
    # An end of the range may lose another half step, because zero is moved to a code.
    assert error.max() <= float(q.scale) * (1 + 1e-6)
    assert np.percentile(error, 99) <= float(q.scale) / 2 * (1 + 1e-6)
    assert q.dequantize(q.quantize(np.zeros(1)))[0] == 0.0


# ---- ranges ----------------------------------------------------------------------------------------------------------


def test_the_whole_range_of_inputs_and_outputs_is_kept() -> None:
    graph = parse(RESIDUAL)
    x = image_batch(graph, n=4) * np.array([1, 1, 1, 9], np.float32).reshape(-1, 1, 1, 1)
    ranges = measure(graph, [x])
    result, _ = assign(graph, ranges, LITERT)
    for name in ("x", "y"):
        lo, hi = q_of(result, name).real_range
        stats, step = ranges.stats[name], float(q_of(result, name).scale)
        assert lo <= stats.min + step / 2
        assert hi >= stats.max - step / 2
    assert q_of(result, "b").real_range[1] < ranges.stats["b"].max  # the mean over images is narrower


CLIPS = """graph clips(x: [N,4,6,6]) {
  relu = conv(x, w1[4,4,1,1]) clip=(0.0,None)
  relu6 = conv(relu, w2[4,4,1,1], b2[4]) clip=(0.0,6.0)
  y = add(relu6, relu) clip=(None,0.5)
  return y
}"""


@pytest.mark.parametrize("scheme", [LITERT, ORT_U8])
def test_saturation_of_the_codes_is_the_fused_clip(scheme: Scheme) -> None:
    result, _ = quantized(with_constants(CLIPS, {"b2": np.full(4, 20.0, np.float32)}), scheme)
    lowest = np.iinfo(scheme.act_dtype).min
    assert int(q_of(result, "relu").zero_point) == int(q_of(result, "relu6").zero_point) == lowest
    assert q_of(result, "relu6").real_range == (0.0, pytest.approx(6.0, rel=1e-7))
    assert q_of(result, "y").real_range[1] == pytest.approx(0.5, abs=float(q_of(result, "y").scale) / 2)


CONCAT = """graph joined(x: [N,4,6,6]) {
  a = conv(x, wa[4,4,1,1], ba[4]) clip=(0.0,None)
  b = conv(x, wb[4,4,1,1], bb[4])
  big = mul(b, ten[1,1,1])
  m = max_pool(big) kernel=(3,3) stride=(1,1) pad=(1,1,1,1)
  y = concat(a, m) axis=1
  z = conv(y, wz[3,8,1,1], bz[3])
  return z
}"""


def test_values_joined_by_a_concat_share_the_union_of_their_ranges() -> None:
    graph = with_constants(CONCAT, {"ten": np.full((1, 1, 1), 10.0, np.float32)})
    ranges = measure(graph, [image_batch(graph, n=4)])
    result, _ = assign(graph, ranges, LITERT, estimator="minmax")
    assert q_of(result, "a") == q_of(result, "big") == q_of(result, "m") == q_of(result, "y")
    lo, hi = q_of(result, "y").real_range
    step = float(q_of(result, "y").scale)
    assert lo == pytest.approx(min(ranges.stats["big"].min, 0), abs=step)
    assert hi == pytest.approx(max(ranges.stats["big"].max, ranges.stats["a"].max), abs=step)


def test_a_pads_value_is_inside_its_range() -> None:
    graph = parse(
        "graph g(x: [N,2,4,4]) {\n p = pad(x) pad=(1,1,1,1) value=(50.0,-3.0)\n y = conv(p, w[2,2,3,3])\n return y\n}"
    )
    lo, hi = q_of(quantized(graph)[0], "x").real_range
    assert hi == pytest.approx(50.0, rel=0.01)
    assert lo <= -2.9


SHARED_CLIP = """graph shared(x: [N,4,6,6]) {
  c = conv(x, w1[4,4,3,3], b1[4])
  r = clip(c) lo=0.0 hi=None
  d = conv(r, w2[4,4,1,1], b2[4])
  y = sub(d, c)
  return y
}
"""


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8])
def test_a_clip_of_what_others_read_too_keeps_its_inputs_codes(scheme: Scheme) -> None:
    result, _ = quantized(parse(SHARED_CLIP), scheme)
    assert q_of(result, "r") == q_of(result, "c")
    assert q_of(result, "c").real_range[0] < -0.1
    apart, _ = quantized(parse(SHARED_CLIP), LITERT)
    assert q_of(apart, "r") != q_of(apart, "c")


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8])
@pytest.mark.parametrize("moved", ["c", "max_pool(c) kernel=(2,2) stride=(2,2)"])
def test_numbers_that_only_clips_read_need_no_codes_beyond_their_bounds(scheme: Scheme, moved: str) -> None:
    lines = ["c = conv(x, w[4,4,3,3], b[4])", "m = " + moved, "r = clip(m) lo=0.0 hi=0.5", "y = sub(r, r)"]
    if moved == "c":
        lines = [line.replace("clip(m)", "clip(c)") for line in lines if not line.startswith("m =")]
    graph = parse("graph g(x: [N,4,6,6]) {\n " + "\n ".join(lines) + "\n return y\n}")
    lo, hi = q_of(quantized(graph, scheme)[0], "c").real_range
    assert lo == 0.0
    assert hi == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_op_that_computes_inside_a_group_sees_the_whole_range(scheme: Scheme) -> None:
    """The sum reads `c` below zero, although its own result is concatenated with `c` and then clipped."""
    graph = parse(
        "graph g(x: [N,4,6,6]) {\n c = conv(x, w[4,4,3,3], b[4])\n a = add(c, c)\n"
        " j = concat(c, a) axis=1\n r = clip(j) lo=0.0 hi=None\n y = sub(r, r)\n return y\n}"
    )
    assert q_of(quantized(graph, scheme)[0], "c").real_range[0] < -0.1


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8])
def test_a_clip_that_the_caller_sees_keeps_its_whole_range(scheme: Scheme) -> None:
    graph = parse(SHARED_CLIP.replace("return y", "return y, r"))
    x = image_batch(graph, n=4) * np.array([1, 1, 1, 9], np.float32).reshape(-1, 1, 1, 1)
    ranges = measure(graph, [x])
    q = q_of(assign(graph, ranges, scheme)[0], "r")
    assert q.real_range[1] >= ranges.stats["r"].max - float(q.scale) / 2


# ---- fixed parameters and grids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "zero"), [(LITERT, -128), (ORT_U8, 0), (ORT_S8, -128)])
def test_a_sigmoid_has_the_parameters_its_runtime_demands(scheme: Scheme, zero: int) -> None:
    graph = parse("graph g(x: [N,2,4,4]) {\n s = sigmoid(x)\n f = flatten(s)\n return f\n}")
    result, notes = quantized(graph, scheme)
    assert q_of(result, "s") == q_of(result, "f") == QParams.per_tensor(1 / 256, zero, scheme.act_dtype)
    assert notes == []


def test_a_sigmoid_joined_with_wider_numbers_gives_way_and_says_so() -> None:
    graph = parse(
        "graph g(x: [N,2,4,4]) {\n s = sigmoid(x)\n c = conv(x, w[2,2,1,1])\n y = concat(s, c) axis=1\n return y\n}"
    )
    result, notes = quantized(graph)
    assert q_of(result, "s") == q_of(result, "c")
    assert q_of(result, "s").real_range[1] >= 0.99
    assert [str(n) for n in notes] == [
        "assign: left s: it shares codes with `c`, so its parameters are not the fixed ones of its kind"
    ]


SWISH = "graph g(x: [N,4,6,6]) {\n c = conv(x, w[4,4,3,3], b[4])\n y = hard_swish(c)\n return y\n}"


@pytest.mark.parametrize("scheme", [ORT_U8, ORT_S8])
@pytest.mark.parametrize(("offset", "clips"), [(-20.0, False), (0.0, True), (4.0, True), (400.0, True)])
def test_the_input_of_a_hard_swish_stands_on_the_gates_grid(scheme: Scheme, offset: float, clips: bool) -> None:
    """scale 6/k and zero k/2, so that min(code, k) / k is exactly hard_sigmoid, and nothing above -3 saturates."""
    graph = with_constants(SWISH, {"b": np.full(4, offset, np.float32)})
    ranges = measure(graph, [image_batch(graph, n=4)])
    q = q_of(assign(graph, ranges, scheme)[0], "c")
    k = 2 * (int(q.zero_point) - q.qmin)
    assert float(q.scale) == pytest.approx(6 / k, rel=2**-24)
    assert (k <= 255) == clips
    codes = np.arange(q.qmin, q.qmax + 1)
    gate = np.minimum(codes - q.qmin, k) / k
    assert np.allclose(gate, np.clip(q.dequantize(codes).astype(float) / 6 + 0.5, 0, 1), rtol=0, atol=1e-6)
    assert q.real_range[0] == pytest.approx(-3.0, rel=2**-23)
    assert q.real_range[1] >= ranges.stats["c"].mean_max - 1e-6


def test_a_range_too_wide_for_the_gates_grid_is_named() -> None:
    graph = with_constants(SWISH, {"b": np.full(4, 4000.0, np.float32)})
    ranges = measure(graph, [image_batch(graph, n=4)])
    result, notes = assign(graph, ranges, ORT_U8)
    assert q_of(result, "c").real_range[1] > 3990
    assert len(notes) == 1
    assert "its input reaches 400" in str(notes[0])


def test_litert_codes_only_what_a_hard_swish_can_tell_apart() -> None:
    graph = with_constants(SWISH, {"b": np.full(4, -4.0, np.float32)})
    ranges = measure(graph, [image_batch(graph, n=4) * 4])
    q = q_of(assign(graph, ranges, LITERT)[0], "c")
    assert ranges.stats["c"].min < -8
    assert q.real_range[0] == pytest.approx(-3.0, abs=float(q.scale) / 2)


def test_a_second_reader_of_a_swishs_input_keeps_its_range_and_is_named() -> None:
    graph = parse(SWISH.replace("return y", "z = add(c, y)\n return z"))
    ranges = measure(graph, [image_batch(graph, n=4) * 9])
    result, notes = assign(graph, ranges, ORT_U8, estimator="minmax")
    assert q_of(result, "c").real_range[0] == pytest.approx(ranges.stats["c"].min, rel=0.02)
    assert [str(n) for n in notes] == [
        "assign: left y: its input is also read by `z` (add), so it cannot stand on the gate's grid"
    ]


# ---- constants -------------------------------------------------------------------------------------------------------


def test_a_shared_weight_gets_parameters_for_each_reader() -> None:
    graph = parse(
        "graph g(x: [N,4,6,6]) {\n a = conv(x, w[4,4,3,3], b[4]) pad=(1,1,1,1)\n"
        " y = conv(a, w, b) pad=(1,1,1,1)\n return y\n}"
    )
    result, _ = quantized(graph)
    (a, y) = result.ops
    assert a.inputs == ("x", "w", "b")
    assert y.inputs == ("a", "y_w", "y_b")
    assert np.array_equal(result.const("y_w"), result.const("w"))
    assert not np.array_equal(q_of(result, "y_b").scale, q_of(result, "b").scale)


def test_dead_channels_and_huge_biases_are_safe() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    weight[1] = 0.0  # dead, bias 3
    weight[2] *= 1e-30  # as good as dead
    bias = np.array([0.5, 3.0, -1.0, 1e9], np.float32)  # the last beyond int32 at its natural scale
    graph = with_constants(
        "graph g(x: [N,4,6,6]) {\n y = conv(x, w[4,4,1,1], b[4])\n return y\n}", {"w": weight, "b": bias}
    )
    ranges = measure(graph, [image_batch(graph)])
    wide = Ranges(ranges.graph, "", {**ranges.stats})
    result, _ = assign(graph, wide, LITERT)
    (op,) = result.ops
    codes = result.value(op.inputs[2]).codes.astype(np.int64)
    assert np.abs(codes).max() <= 2**30
    assert np.isfinite(q_of(result, op.inputs[1]).scale).all()
    # A bias is good to half a step of its own, which for the dead channels is far below a code of the output.
    real = q_of(result, op.inputs[2]).dequantize(codes)
    assert np.abs(real - bias)[:3].max() <= float(q_of(result, "y").scale) / 256


def test_a_missing_bias_becomes_zeros() -> None:
    result, _ = quantized(parse("graph g(x: [N,4,6,6]) {\n y = conv(x, w[4,4,1,1])\n return y\n}"))
    assert result.ops[0].inputs == ("x", "w", "y_bias")
    assert not result.value("y_bias").codes.any()


# ---- float islands ---------------------------------------------------------------------------------------------------


def test_values_between_float_ops_have_no_parameters() -> None:
    graph = parse(
        "graph g(x: [N,4,6,6]) {\n a = conv(x, w[4,4,1,1])\n s = silu(a)\n r = reshape(s) shape=(N,8,3,6)\n"
        " t = gelu(r)\n y = global_pool(t)\n return y\n}".replace("N,8", "-1,8")
    )
    scheme = Scheme("floaty", float_kinds=frozenset({"silu", "gelu"}))
    result, notes = quantized(graph, scheme)
    assert [name for name in ("x", "a", "s", "r", "t", "y") if result.value(name).q is None] == ["s", "r"]
    assert [(n.at, n.why) for n in notes] == [
        ("s", "`silu` stays float in floaty"),
        ("t", "`gelu` stays float in floaty"),
    ]


# ---- limits ----------------------------------------------------------------------------------------------------------

TINY = """graph tiny(x: [N,4,6,6]) {
  a = mul(x, small[1,1,1])
  s = add(x, a)
  d = sub(s, x)
  m = mul(d, d)
  y = conv(m, w[4,4,1,1], b[4])
  return y
}"""


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-7, 1e3, 1e6])
def test_ratios_of_scales_stay_within_what_xnnpack_takes(scale: float) -> None:
    graph = with_constants(TINY, {"small": np.full((1, 1, 1), scale, np.float32)})
    result, notes = quantized(graph)
    for op in result.ops:
        y = float(q_of(result, op.output).scale)
        scales = [float(q_of(result, name).scale.max()) for name in op.inputs]
        if op.kind in ("add", "sub"):
            assert all(ADD_RATIO[0] <= s / y < ADD_RATIO[1] for s in scales)
        elif op.kind == "mul":
            assert MUL_RATIO[0] <= scales[0] * scales[1] / y < MUL_RATIO[1]
        else:
            assert CONV_RATIO[0] <= scales[0] * scales[1] / y < CONV_RATIO[1]
    assert all(n.did for n in notes)


def test_other_runtimes_are_left_as_measured() -> None:
    graph = with_constants(TINY, {"small": np.full((1, 1, 1), 1e-7, np.float32)})
    assert quantized(graph, ORT_U8)[1] == []
    assert quantized(graph, LITERT)[1] != []


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_ranges_of_another_graph_are_refused() -> None:
    graph = parse(RESIDUAL)
    ranges = measure(graph, [image_batch(graph)])
    other = parse(RESIDUAL.replace("a = ", "q = ").replace("conv(a", "conv(q"))
    with pytest.raises(InputError) as failure:
        assign(other, ranges, LITERT)
    assert str(failure.value) == (
        "InputError: no range was measured for `q`\n"
        "  at       ?  (top level)\n"
        "  expected ranges of this very graph\n"
        "  got      ranges of a graph without this value\n"
        "  do       measure the graph again after the passes of its target"
    )


def test_an_unknown_estimator_is_refused() -> None:
    graph = parse(RESIDUAL)
    with pytest.raises(UsageError, match="unknown estimator `entropie`"):
        assign(graph, measure(graph, [image_batch(graph)]), LITERT, estimator="entropie")
