"""The rungs one by one: each does what its paper says, on nets where it must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_cases import digits, digits_graph

from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.text import parse
from edgecnn.parity import FLOAT_TOLERANCE, relative_error
from edgecnn.passes.standard import run_passes
from edgecnn.quant.assign import assign
from edgecnn.quant.bias import correct_bias, mean_error
from edgecnn.quant.choose import choose
from edgecnn.quant.equalize import channel_reach, equalize, families
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.quant.hygiene import findings
from edgecnn.quant.loss import op_losses, value_losses
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT, ORT_U8
from edgecnn.quant.simulate import Simulation, float_constants, lost
from edgecnn.targets import all_targets
from tests.strategies import FEATURE_KINDS, graphs, image_batch

FOLDED = tuple(kind for kind in FEATURE_KINDS if kind != "batch_norm")

SCALED = {
    "relu": """c = conv(x, w1[6,3,3,3], b1[6]) clip=(0.0,None)
  y = conv(c, w2[4,6,3,3], b2[4])""",
    "relu as an op, pools and padding": """c = conv(x, w1[6,3,3,3], b1[6])
  r = clip(c) lo=0.0 hi=None
  m = max_pool(r) kernel=(2,2) stride=(2,2)
  p = pad(m) pad=(1,1,1,1) value=0.0
  y = conv(p, w2[4,6,1,1], b2[4])""",
    "depthwise, then groups": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,None)
  d = conv(c, w2[6,1,3,3], b2[6]) groups=6 clip=(0.0,None)
  y = conv(d, w3[4,3,1,1], b3[4]) groups=2""",
    "several readers": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,None)
  a = conv(c, w2[4,6,1,1], b2[4])
  b = conv(c, w3[4,6,1,1], b3[4])
  h = hard_swish(a)
  y = mul(h, b)""",
    "residual": """c = conv(x, w1[6,3,1,1], b1[6])
  d = conv(c, w2[6,6,1,1], b2[6])
  e = add(c, d)
  y = conv(e, w3[4,6,1,1], b3[4])""",
    "shuffle and slice": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,None)
  s = channel_shuffle(c) groups=2
  t = slice(s) axis=1 start=2 stop=6
  y = conv(t, w2[4,4,1,1], b2[4])""",
    "gate": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,None)
  g = global_pool(c) keepdims=True
  e = conv(g, w2[6,6,1,1], b2[6])
  s = sigmoid(e)
  m = mul(c, s)
  y = conv(m, w3[4,6,1,1], b3[4])""",
    "classifier": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,None)
  f = flatten(c)
  y = linear(f, w2[5,600], b2[5])""",
}
FIXED = {
    "relu6": """c = conv(x, w1[6,3,1,1], b1[6]) clip=(0.0,6.0)
  y = conv(c, w2[4,6,1,1], b2[4])""",
    "hard-swish": """c = conv(x, w1[6,3,1,1], b1[6])
  h = hard_swish(c)
  y = conv(h, w2[4,6,1,1], b2[4])""",
    "the answer": "y = conv(x, w1[6,3,1,1], b1[6])",
    "a sum with the image": """c = conv(x, w1[3,3,1,1], b1[3])
  a = add(x, c)
  y = conv(a, w2[4,3,1,1], b2[4])""",
    "a softmax over channels": """c = conv(x, w1[6,3,1,1], b1[6])
  s = softmax(c) axis=1
  y = conv(s, w2[4,6,1,1], b2[4])""",
}


def net(body: str, seed: int = 0) -> Graph:
    return parse(f"graph net(x: [N,3,10,10]) {{\n  {body}\n  return y\n}}", seed=seed)


def exact(graph: Graph, x: Array) -> Array:
    return reference.run(graph, x, dtype=torch.float64)[0]


def noise_to_signal(float_graph: Graph, coded: Graph, x: Array) -> float:
    wanted = Simulation(float_graph, float_constants(float_graph)).run(x, {})
    return lost(Simulation(coded).run(x), wanted)


# ---- equalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SCALED)
def test_equalisation_moves_scales_and_keeps_the_function(case: str) -> None:
    graph = net(SCALED[case])
    x = image_batch(graph, n=4)
    even, notes = equalize(graph, channel_reach(graph, [x]))
    assert notes
    name = graph.ops[0].inputs[1]
    assert not np.allclose(even.const(name), graph.const(name))
    # Both nets are computed exactly, so what differs is that constants were rounded to float32 once more.
    assert relative_error(exact(even, x), exact(graph, x)) <= FLOAT_TOLERANCE


@pytest.mark.parametrize("case", FIXED)
def test_what_is_not_homogeneous_is_left_alone(case: str) -> None:
    graph = net(FIXED[case])
    even, notes = equalize(graph, channel_reach(graph, [image_batch(graph)]))
    assert not families(graph)
    assert not notes
    assert all(np.array_equal(even.const(n), v.data) for n, v in graph.values.items() if v.data is not None)


@given(graphs(kinds=FOLDED))
def test_equalisation_keeps_the_function_of_any_graph(graph: Graph) -> None:
    x = image_batch(graph, n=2)
    even, _ = equalize(graph, channel_reach(graph, [x]))
    assert relative_error(exact(even, x), exact(graph, x)) <= FLOAT_TOLERANCE


def test_depthwise_readers_let_all_channels_become_alike() -> None:
    graph = net(SCALED["depthwise, then groups"])
    x = image_batch(graph, n=4)
    even, _ = equalize(graph, channel_reach(graph, [x]))
    reach = channel_reach(even, [x])["c"]
    np.testing.assert_allclose(reach[reach > 0], reach.max(), rtol=1e-5)  # float32 sums of three terms


def badly_scaled(spread: float = 2.0) -> tuple[Graph, Array]:
    """A net whose channels differ by powers of ten up to `spread`, as folded batch norms leave them."""
    body = """c = conv(x, w1[8,3,3,3], b1[8]) clip=(0.0,None)
  d = conv(c, w2[8,1,3,3], b2[8]) groups=8 clip=(0.0,None)
  y = conv(d, w3[10,8,1,1], b3[10])"""
    graph = net(body)
    size = 10 ** np.random.default_rng(0).uniform(-spread / 2, spread / 2, 8).astype(np.float32)
    edit = graph.edit()
    for name, factor in (("w1", size), ("b1", size), ("w2", 1 / size)):
        data = graph.const(name)
        edit.values[name] = replace(edit.values[name], data=data * factor.reshape(-1, *(1,) * (data.ndim - 1)))
    return edit.finish(), image_batch(graph, n=16)


@pytest.mark.parametrize("scheme", [LITERT, ORT_U8], ids=str)
def test_equalisation_gains_where_channels_are_badly_scaled(scheme: object) -> None:
    assert isinstance(scheme, type(LITERT))
    graph, x = badly_scaled()
    even, _ = equalize(graph, channel_reach(graph, [x]))
    before, after = (
        noise_to_signal(g, assign(g, measure(g, [x]), scheme, estimator="minmax")[0], x) for g in (graph, even)
    )
    # Half of the channels have less than a tenth of the codes of the largest. A bit more is 6 dB; one must be won.
    assert 10 * np.log10(before / after) >= 6


# ---- bias correction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [replace(LITERT, weight_bits=4), replace(ORT_U8, weight_bits=4)], ids=str)
def test_bias_correction_takes_the_mean_error_away(scheme: object) -> None:
    assert isinstance(scheme, type(LITERT))
    graph, _ = run_passes(digits_graph(), all_targets()["tflite-int8"].passes("x86", {}))
    x, other = (x for x, _ in list(digits().batches(128, split="calibration", limit=256)))
    coded, _ = assign(graph, measure(graph, [x]), scheme)
    better, notes = correct_bias(graph, coded, x)
    assert len(notes) == sum(op.kind in ("conv", "linear") for op in graph.ops)
    rms = {
        name: [float(np.sqrt(np.mean(np.square(list(mean_error(graph, g, images).values()))))) for g in (coded, better)]
        for name, images in (("seen", x), ("unseen", other))
    }
    # Seen images keep what rounding behind an activation adds; other images also their own difference of means.
    assert rms["seen"][1] < 0.5 * rms["seen"][0]
    assert rms["unseen"][1] < rms["unseen"][0]
    assert all(better.value(n).q == v.q for n, v in coded.values.items())


# ---- estimators by value ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 5, 8])
@pytest.mark.parametrize("scheme", [LITERT, ORT_U8], ids=str)
def test_the_choice_by_value_is_never_worse_than_the_best_estimator(bits: int, scheme: object) -> None:
    assert isinstance(scheme, type(LITERT))
    few = replace(scheme, act_bits=bits, weight_bits=bits)
    graph, _ = run_passes(digits_graph(), all_targets()["tflite-int8"].passes("x86", {}))
    x = next(digits().batches(64, split="calibration"))[0]
    found = choose(graph, measure(graph, [x]), few, x)
    assert set(found.singles) == set(ESTIMATORS)
    assert found.error <= min(found.singles.values())
    assert found.error == noise_to_signal(graph, found.graph, x)
    for name, single in found.singles.items():
        coded, _ = assign(graph, measure(graph, [x]), few, estimator=name)
        assert single == noise_to_signal(graph, coded, x)


def test_values_that_want_different_estimators_get_them() -> None:
    """Ranges that are made up: extremes mislead for one value, the histogram for the other."""
    body = """a = conv(x, w1[3,3,1,1], b1[3])
  h = hard_swish(a)
  b = conv(h, w2[3,3,1,1], b2[3])
  g = tanh(b)
  y = conv(g, w3[4,3,1,1], b3[4])"""
    graph = net(body)
    x = image_batch(graph, n=32)
    ranges = measure(graph, [x])
    a, b = ranges.stats["a"], ranges.stats["b"]
    wild = replace(a, min=100 * a.min, max=100 * a.max, mean_min=100 * a.mean_min, mean_max=100 * a.mean_max)
    # 2**-6 of the true widths: what is estimated from the histogram cuts nearly everything off.
    tame = replace(b, histogram=replace(b.histogram, exponent=b.histogram.exponent - 6))
    ranges = replace(ranges, stats={**ranges.stats, "a": wild, "b": tame})
    found = choose(graph, ranges, LITERT, x)
    assert found.error < 0.5 * min(found.singles.values())
    assert found.estimators["a"] in ("percentile", "mse", "entropy")
    assert found.estimators["b"] in ("minmax", "mean-minmax")


@given(graphs(kinds=FOLDED), st.sampled_from([LITERT, ORT_U8]))
def test_the_simulation_is_the_integer_meaning_within_a_code(graph: Graph, scheme: object) -> None:
    """Op by op on the same codes: a float sum may fall to the other side of a half, and nothing else."""
    assert isinstance(scheme, type(LITERT))
    coded, _ = assign(graph, measure(graph, [image_batch(graph, n=4)]), scheme)
    x, simulation = image_batch(graph, n=2), Simulation(coded)
    codes: dict[str, Array] = {}
    q = coded.value(coded.inputs[0]).q
    quantized.run_codes(coded, x if q is None else q.quantize(x), watch=codes.__setitem__)
    for at, op in enumerate(coded.ops):
        live = {n: torch.from_numpy(_real(coded, n, codes[n])) for n in op.inputs if n in codes}
        with torch.inference_mode():
            simulation.advance(live, at, simulation.codes())
        own = coded.value(op.output).q
        if own is not None:
            far = np.abs(np.rint(live[op.output].numpy() / float(own.scale)) + int(own.zero_point) - codes[op.output])
            assert far.max() <= 1, op


def _real(graph: Graph, name: str, numbers: Array) -> Array:
    q = graph.value(name).q
    return numbers if q is None else q.dequantize(numbers)


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_the_op_with_the_coarsest_codes_is_first_in_the_ranking() -> None:
    graph = net(SCALED["relu as an op, pools and padding"])
    x = image_batch(graph, n=8)
    coded, _ = assign(graph, measure(graph, [x]), LITERT)
    q = coded.value("c").q
    assert q is not None
    edit = coded.edit()
    edit.set_q("c", replace(q, scale=q.scale * 16))
    losses = op_losses(graph, edit.finish(), x)
    assert losses[0].name == "c"
    assert losses == sorted(losses, key=lambda loss: -loss.noise)
    assert {loss.name for loss in losses} == {"x", "c", "r", "y"}


def test_saturation_counts_what_lies_beyond_the_codes() -> None:
    graph = net(SCALED["relu"])
    x = image_batch(graph, n=8)
    coded, _ = assign(graph, measure(graph, [x]), LITERT, estimator="minmax")
    whole = {value.name: value for value in value_losses(graph, coded, x)}
    assert all(value.saturated == 0 for value in whole.values())
    q = coded.value("c").q
    assert q is not None
    edit = coded.edit()
    edit.set_q("c", replace(q, scale=q.scale / 2))
    found = {value.name: value for value in value_losses(graph, edit.finish(), x)}["c"]
    real: dict[str, Array] = {}
    reference.run(graph, x, watch=lambda name, y: real.update({name: y.numpy()}))
    top = (q.qmax - int(q.zero_point) + 0.5) * float(q.scale) / 2
    assert found.saturated == pytest.approx(float((real["c"] > top).mean()))
    assert found.saturated > 0
    assert found.sqnr_db < whole["c"].sqnr_db


def test_images_unlike_those_of_training_are_noticed() -> None:
    data = digits()
    graph = digits_graph()
    x = np.concatenate([x for x, _ in data.batches(128, split="calibration", limit=128)])
    conv = reference.run(parse_head(graph), x)[0].astype(np.float64)
    edit = graph.edit()
    for name, numbers in (("m1", conv.mean((0, 2, 3))), ("v1", conv.var((0, 2, 3)))):
        edit.values[name] = replace(edit.values[name], data=numbers.astype(np.float32))
    trained = edit.finish()
    record, said = findings(trained, [x])
    assert not said
    assert record["images"] == 128
    mean, std = data.preprocessing.mean[0], data.preprocessing.std[0]
    _, said = findings(trained, [255 * (x * std + mean)])
    assert len(said) == 1
    assert "normalisation" in said[0]
    _, said = findings(trained, [x[:3]])
    assert any("only 3" in text for text in said)


def parse_head(graph: Graph) -> Graph:
    """The net up to its first batch norm."""
    return Graph.build(graph.name, graph.ops[:1], graph.values.values(), graph.inputs, (graph.ops[0].output,))


def test_a_net_without_batch_norm_is_held_to_normalised_images() -> None:
    graph = net(SCALED["relu"])
    x = np.random.default_rng(0).normal(0, 1, (128, 3, 10, 10)).astype(np.float32)
    assert not findings(graph, [x])[1]
    assert findings(graph, [0.25 * x + 0.5])[1]
