"""Quantisation in training computes the codes of the integer meaning, has LSQ's gradients, and stays deployable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from litert_runs import load
from onnx_cases import execute
from test_onnx_targets import NET

from edgecnn.errors import InputError
from edgecnn.ir import quantized
from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.module import GraphModule
from edgecnn.ir.text import parse
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.source import load_source
from edgecnn.quant import straight_through
from edgecnn.quant.assign import assign
from edgecnn.quant.fake import Coded, FakeQuantModule
from edgecnn.quant.learned import Grid, LearnedQ, is_rigid
from edgecnn.quant.limits import widened
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT, ORT_S8, ORT_U8, Scheme
from edgecnn.quant.ties import coded_groups, shared_groups
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions
from tests.strategies import (
    FEATURE_KINDS,
    HEAD,
    INVERTED_RESIDUAL,
    RESIDUAL,
    SHUFFLE_UNIT,
    SQUEEZE_EXCITE,
    graphs,
    image_batch,
)

SYMMETRIC = Scheme("symmetric", symmetric=True, float_bias=True)
SCHEMES = (LITERT, ORT_U8, ORT_S8, SYMMETRIC, replace(LITERT, act_bits=4, weight_bits=3), replace(ORT_U8, act_bits=5))
FOLDED = tuple(kind for kind in FEATURE_KINDS if kind != "batch_norm")
WITHOUT_EXPONENTIALS = tuple(kind for kind in FOLDED if kind not in ("sigmoid", "silu"))


def coded(graph: Graph, scheme: Scheme = LITERT, *, n: int = 4) -> Graph:
    return assign(graph, measure(graph, [image_batch(graph, n=n)]), scheme)[0]


def codes_of(graph: Graph, x: Array) -> dict[str, Array]:
    """The codes (or numbers) of every activation, by the integer reference."""
    found: dict[str, Array] = {}
    q = graph.value(graph.inputs[0]).q
    assert q is not None
    quantized.run_codes(graph, q.quantize(x), watch=found.__setitem__)
    return found


def real_output(graph: Graph, codes: dict[str, Array]) -> Array:
    name = graph.outputs[0]
    q = graph.value(name).q
    return codes[name] if q is None else q.dequantize(codes[name])


# ---- the same codes --------------------------------------------------------------------------------------------------


@given(graphs(kinds=WITHOUT_EXPONENTIALS), st.sampled_from(SCHEMES))
def test_forward_is_the_integer_meaning(graph: Graph, scheme: Scheme) -> None:
    result = coded(graph, scheme)
    x = 2 * image_batch(graph, n=3)  # beyond what was measured, so that codes saturate
    with torch.no_grad():
        got = FakeQuantModule(result).eval()(torch.from_numpy(x)).numpy()
    # Exact: no sum of these graphs reaches 2**24, and where all is integers every rounding is the same.
    np.testing.assert_array_equal(got, real_output(result, codes_of(result, x)))


@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
@pytest.mark.parametrize(
    ("net", "options"),
    [
        ("mobilenet_v3_small", {"width": 0.5}),
        ("shufflenet_v2_x0_5", {}),
        ("resnet20", {}),
        ("hetconv_small", {}),
    ],
)
def test_every_code_of_a_net_of_the_zoo(net: str, options: dict[str, object], target: str) -> None:
    record = all_targets()[target]
    assert record.scheme is not None
    source = load_source(net, weights="random", input_shape=(3, 32, 32), options=options)
    graph, _ = run_passes(source.to_graph(), record.passes("x86", {}))
    graph = coded(graph, record.scheme("x86"))
    x = image_batch(graph)
    with torch.no_grad():
        got = FakeQuantModule(graph).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got, real_output(graph, codes_of(graph, x)))


class _OpByOp(FakeQuantModule):
    """Gives every op the reference's own codes, and keeps how far the results are from the reference's."""

    def __init__(self, graph: Graph, codes: dict[str, Array]) -> None:
        super().__init__(graph)
        self.codes, self.far = codes, dict[str, Array]()

    def _run(self, op: Op, operands: list[torch.Tensor | Coded], grid: Grid | None) -> torch.Tensor | Coded:
        given = [self._given(name, operand) for name, operand in zip(op.inputs, operands, strict=True)]
        y = super()._run(op, given, grid)
        if isinstance(y, Coded):
            self.far[op.output] = np.abs(y.codes.numpy() + y.grid.zero_point - self.codes[op.output])
        return y

    def _given(self, name: str, operand: torch.Tensor | Coded) -> torch.Tensor | Coded:
        if not isinstance(operand, Coded) or name not in self.codes:
            return operand
        return replace(operand, codes=torch.from_numpy(self.codes[name].astype(np.float32)) - operand.grid.zero_point)


@given(graphs(kinds=FOLDED), st.sampled_from(SCHEMES))
def test_op_by_op_a_code_differs_only_where_an_exponential_does(graph: Graph, scheme: Scheme) -> None:
    result = coded(graph, scheme)
    x = image_batch(graph, n=3)
    module = _OpByOp(result, codes_of(result, x)).eval()
    with torch.no_grad():
        module(torch.from_numpy(x))
    assert module.far
    for op in result.ops:
        if op.output in module.far:
            # An ulp of an exponential, 2**-23 of at most 256 codes, reaches over a half for one number in 2**14, and
            # these maps have fewer than 3 * 16 * 9 * 10 of at most 256 different numbers.
            allowed = 1 if op.kind in ("sigmoid", "silu") else 0
            assert module.far[op.output].max() <= allowed, op
            assert np.mean(module.far[op.output] > 0) <= 0.02, op


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "silu", "gelu", "softmax", "lrn", "leaky_relu"])
def test_kinds_that_the_strategy_does_not_draw(kind: str) -> None:
    attrs = {"softmax": " axis=1", "lrn": " size=3 alpha=0.5 beta=0.75 k=2.0", "leaky_relu": " slope=0.1"}
    lines = ("c = conv(x, w[4,4,1,1], b[4])", f"y = {kind}(c){attrs.get(kind, '')}", "return y", "}")
    graph = coded(parse("\n".join(["graph one(x: [N,4,6,7]) {", *lines])))
    x = image_batch(graph, n=8)
    module = FakeQuantModule(graph)
    tensor = torch.from_numpy(x).requires_grad_()
    got = module(tensor)
    got.sum().backward()  # an output that was overwritten, and that its gradient needs, would be refused here
    assert float(module.constant("w").grad.abs().sum()) > 0  # type: ignore[union-attr]
    q = graph.value("y").q
    assert q is not None
    far = np.abs(np.rint(got.detach().numpy() / q.scale) + q.zero_point - codes_of(graph, x)["y"])
    assert far.max() <= 1
    assert np.mean(far > 0) <= 0.01  # see above: an ulp of an exponential or a power


def test_what_stays_float_keeps_its_numbers() -> None:
    text = """graph mixed(x: [N,3,8,8]) {
  a = conv(x, wa[4,3,3,3], ba[4]) pad=(1,1,1,1) clip=(0.0,None)
  h = hard_swish(a)
  y = conv(h, wy[5,4,1,1], by[5])
  return y
}"""
    graph = assign(
        parse(text), measure(parse(text), [image_batch(parse(text))]), replace(LITERT, float_kinds=frozenset({"conv"}))
    )[0]
    x = image_batch(graph)
    codes = codes_of_mixed(graph, x)
    with torch.no_grad():
        got = FakeQuantModule(graph).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, real_output(graph, codes), rtol=0, atol=1e-5)


def codes_of_mixed(graph: Graph, x: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}
    q = graph.value(graph.inputs[0]).q
    quantized.run_codes(graph, x if q is None else q.quantize(x), watch=found.__setitem__)
    return found


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0])
def test_the_gradient_of_a_scale_is_that_of_lsq(axis: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(5, 40, generator=generator, dtype=torch.float64)
    scale = torch.full((5, 1) if axis == 0 else (), 0.1)
    upstream = torch.randn(5, 40, generator=generator)
    low, high = -8.0, 7.0
    real, s = x.float().requires_grad_(), scale.clone().requires_grad_()
    (straight_through.quantized(real, s, (low, high)) * s * upstream).sum().backward()

    steps = x.float() / scale
    inside = (steps > low - 0.5) & (steps < high + 0.5)
    assert 0.2 < inside.float().mean() < 0.8
    # Esser et al. 2020, equation 3; here all that rounds to the last code is inside.
    share = torch.where(inside, steps.round().clamp(low, high) - steps, steps.clamp(low, high))
    wanted = share * upstream
    assert s.grad is not None
    assert real.grad is not None
    # Float32 sums of 200 terms of at most 16.
    torch.testing.assert_close(s.grad, wanted.sum(1, keepdim=True) if axis == 0 else wanted.sum(), rtol=0, atol=1e-4)
    torch.testing.assert_close(real.grad, torch.where(inside, upstream, torch.zeros(())), rtol=1e-6, atol=0)


def test_requantising_has_the_gradient_of_rounding_and_multiplying() -> None:
    generator = torch.Generator().manual_seed(1)
    acc = (50 * torch.randn(2, 3, 4, 4, generator=generator)).round()
    scale = torch.tensor([0.05, 0.1, 0.2]).reshape(1, 3, 1, 1)
    upstream, bounds = torch.randn(2, 3, 4, 4, generator=generator), (-3.0, 6.0)
    found = []
    for fused in (True, False):
        a, s, z = acc.clone().requires_grad_(), scale.clone().requires_grad_(), torch.tensor(3.0, requires_grad=True)
        if fused:
            y = straight_through.requantized(a * 1.0, s, bounds, z)
        else:
            steps = a * s
            inside = (steps > bounds[0]) & (steps < bounds[1])
            ends = torch.where(steps > 0, bounds[1] + 3.0, bounds[0] + 3.0) - z
            y = torch.where(inside, steps + (steps.round() - steps).detach(), ends)
        (y * upstream).sum().backward()
        found.append((y.detach(), a.grad, s.grad, z.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", [RESIDUAL, INVERTED_RESIDUAL, SQUEEZE_EXCITE, SHUFFLE_UNIT, HEAD])
def test_with_fine_steps_gradients_are_those_of_the_float_graph(text: str) -> None:
    graph = parse(text)
    x = image_batch(graph, n=8)
    # Measured on larger images, so that no number stands at the last code, where gradients end.
    fine = assign(graph, measure(graph, [1.5 * x]), Scheme("fine", "int16", act_bits=15), estimator="minmax")[0]
    edit = fine.edit()
    for value in fine.values.values():
        if value.is_const and value.q is not None:
            edit.values[value.name] = replace(value, data=value.q.dequantize(value.codes))
    rounded = edit.finish()  # weights of 8 bits are coarse, so both graphs have them rounded
    found = []
    for module in (GraphModule(rounded), FakeQuantModule(rounded)):
        y = module(torch.from_numpy(x))
        assert isinstance(y, torch.Tensor)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters() if name.startswith("const/")})
    assert found[0]
    for name, wanted in found[0].items():
        assert wanted is not None
        # Steps of 2**-15 of the range: 2**-13 of the gradient after a few ops, and few units change side at zero or
        # win a maximum instead of another. A wrong factor, sign or mask would be off by a multiple of all that.
        assert float((found[1][name] - wanted).norm() / wanted.norm()) < 0.02, name


def test_what_one_step_of_plain_descent_moves_is_lsqs() -> None:
    q = coded(parse(RESIDUAL)).value("a").q
    assert q is not None
    learned, numbers, lr = LearnedQ(q, numbers=800), 800, 1e-2
    upstream = 0.37  # the gradient of the loss in the scale
    (learned.grid().scale * upstream).backward()
    assert learned.ratio is not None
    with torch.no_grad():
        learned.ratio -= lr * learned.ratio.grad
    moved = learned.grid().scale.item() - float(q.scale)
    assert moved == pytest.approx(-lr * upstream / np.sqrt(numbers * q.qmax), rel=1e-2)  # in float32


# ---- what is deployed ------------------------------------------------------------------------------------------------


@given(graphs(kinds=FOLDED), st.sampled_from(SCHEMES))
def test_groups_are_found_without_the_scheme(graph: Graph, scheme: Scheme) -> None:
    result = coded(graph, scheme)
    wanted = {frozenset(group.values) for group in coded_groups(result, scheme)}
    found = {frozenset(group.values) for group in shared_groups(result)}
    # A clip whose ends have equal parameters by chance joins two groups, which changes nothing.
    assert all(any(one <= other for other in found) for one in wanted)
    assert set().union(*wanted) == set().union(*found)


@given(graphs(kinds=FOLDED), st.sampled_from(SCHEMES))
def test_untrained_it_gives_back_its_graph(graph: Graph, scheme: Scheme) -> None:
    result = coded(graph, scheme)
    again = FakeQuantModule(result).to_graph()
    assert {name: value.q for name, value in again.values.items()} == {n: v.q for n, v in result.values.items()}


def shaken(graph: Graph, *, by: float, zero_points: bool = False, seed: int = 0) -> FakeQuantModule:
    """A module whose every parameter has moved at random, scales by factors up to 2**by."""
    module = FakeQuantModule(graph, learn_zero_points=zero_points).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
            if name.endswith(".ratio"):
                parameter.mul_(2 ** (by * noise))
            elif name.endswith(".zero"):
                parameter.add_(9 * noise)
            else:
                parameter.add_(0.1 * noise * parameter.abs().max())
    return module


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("target", ["tflite-int8", "onnx-int8"])
def test_the_artifact_of_learned_parameters_gives_the_codes_of_training(target: str, zero_points: bool) -> None:
    record = all_targets()[target]
    assert record.scheme is not None
    graph, _ = run_passes(parse(NET), record.passes("x86", {}))
    graph = coded(graph, record.scheme("x86"))
    module = shaken(graph, by=0.5, zero_points=zero_points)
    learned = module.to_graph()
    assert any(learned.value(n).q != v.q for n, v in graph.values.items() if not v.is_const)
    x, q_in, q_out = image_batch(graph, n=1), learned.value("x").q, learned.value("y").q
    assert q_in is not None
    assert q_out is not None
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(real_output(learned, codes_of(learned, x)), wanted)
    if target == "tflite-int8":
        emitted = record.emit(learned, EmitOptions(input_type="int8"))
        loaded = load(emitted.data)
        assert not loaded.left_out
        np.testing.assert_array_equal(q_out.dequantize(loaded.run(q_in.quantize(x))), wanted)
    else:
        # Halves may be rounded in two ways (see `ir.quantized`).
        got = execute(record.emit(learned, EmitOptions(input_type="float32")).data, x)[0]
        assert np.abs(got - wanted).max() <= 2 * float(q_out.scale)
    clipped = [op for op in learned.ops if op.attrs.get("clip", (None, None)) == (0.0, 1.0)]
    assert clipped  # the gates: no op is needed for their clip as long as the last code is 1 at most
    for op in clipped:
        q = learned.value(op.output).q
        assert q is not None
        assert q.real_range[1] <= 1 + 1e-6


def test_parameters_that_runtimes_demand_stay() -> None:
    record = all_targets()["onnx-int8"]
    assert record.scheme is not None
    graph, _ = run_passes(parse(NET), record.passes("x86", {}))
    graph = coded(graph, record.scheme("x86"))
    learned = shaken(graph, by=1.0).to_graph()
    rigid = [group for group in shared_groups(graph) if is_rigid(graph, group)]
    kinds = {op.kind for g in rigid for n in g.values for op in (*graph.users[n], *filter(None, [graph.makers.get(n)]))}
    assert {"sigmoid", "hard_swish"} <= kinds
    for group in shared_groups(graph):
        same = [learned.value(name).q == graph.value(name).q for name in group.values]
        assert all(same) or not any(same)
        assert all(same) or group not in rigid
        assert len({learned.value(name).q for name in group.values}) == 1


@given(graphs(kinds=FOLDED), st.integers(0, 3))
def test_learned_scales_are_within_the_kernels_limits(graph: Graph, seed: int) -> None:
    module = shaken(coded(graph), by=4.0, seed=seed)
    learned = module.to_graph()
    fixed = {name for group in shared_groups(learned) if is_rigid(learned, group) for name in group.values}
    assert not set(widened(learned)) - fixed
    for op in learned.ops:
        if op.kind in ("conv", "linear"):
            x, w, b = (learned.value(name) for name in op.inputs)
            assert x.q is not None
            assert w.q is not None
            assert b.q is not None
            np.testing.assert_array_equal(b.q.scale, x.q.scale * w.q.scale)
            assert np.abs(b.codes.astype(np.int64)).max() <= 2**30


def test_a_graph_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="no quantisation parameters"):
        FakeQuantModule(parse(RESIDUAL))


def test_frozen_scales_leave_only_weights_and_biases() -> None:
    module = FakeQuantModule(coded(parse(RESIDUAL)), learn_scales=False)
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert sorted(names) == [f"const/{name}" for name in ("ba", "bb", "by", "wa", "wb", "wy")]
