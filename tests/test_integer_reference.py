"""The integer meaning of a quantised graph: exact sums, stated roundings, and never far from the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecnn.ir import reference
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Array, Graph, QParams
from edgecnn.ir.ops import SAME_CODES, attrs_of
from edgecnn.ir.quantized import apply_codes, run_codes
from edgecnn.ir.rounding import add_codes, code_range, mean_codes, requantize
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT, ORT_S8, ORT_U8, Scheme
from tests.strategies import FEATURE_KINDS, INVERTED_RESIDUAL, TEXTS, graphs, image_batch

FOLDED = tuple(kind for kind in FEATURE_KINDS if kind != "batch_norm")
NO_CLIP = (None, None)


def quantized(graph: Graph, scheme: Scheme = LITERT, *, estimator: str = "minmax") -> Graph:
    return assign(graph, measure(graph, [image_batch(graph)]), scheme, estimator=estimator)[0]


def codes_in(graph: Graph, x: Array) -> Array:
    q = graph.value(graph.inputs[0]).q
    assert q is not None
    return q.quantize(x)


def q_of(graph: Graph, name: str) -> QParams:
    q = graph.value(name).q
    assert q is not None
    return q


def every_code(graph: Graph) -> dict[str, Array]:
    """The codes of every activation on a batch."""
    codes: dict[str, Array] = {}
    run_codes(graph, codes_in(graph, image_batch(graph)), watch=codes.__setitem__)
    return codes


# ---- roundings -------------------------------------------------------------------------------------------------------


def test_products_are_rounded_half_to_even_before_the_zero_point() -> None:
    q = QParams.per_tensor(1.0, 1)
    halves = np.array([-5, -3, -1, 1, 3, 5])
    assert requantize(halves, np.float32(0.5), q, NO_CLIP).tolist() == [-1, -1, 1, 1, 3, 3]


def test_sums_are_rounded_half_up() -> None:
    q, half = QParams.per_tensor(1.0, 0), QParams.per_tensor(0.5, 0)
    a = np.array([-3, -1, 1, 3], np.int8)
    assert add_codes(a, np.zeros(4, np.int8), half, half, q, NO_CLIP).tolist() == [-1, 0, 1, 2]
    assert add_codes(np.zeros(4, np.int8), a, half, half, q, NO_CLIP, sign=-1).tolist() == [2, 1, 0, -1]


def test_means_are_rounded_half_to_even_after_the_zero_point() -> None:
    q = QParams.per_tensor(1.0, 1)
    sums = np.array([-3, -1, 1, 3])
    assert mean_codes(sums, 2, QParams.per_tensor(1.0, 0), q).tolist() == [0, 0, 2, 2]


@given(st.floats(1e-3, 1.0), st.integers(-128, 127), st.floats(-2, 0), st.floats(0.1, 6))
def test_a_clip_bounds_the_codes_to_the_nearest(scale: float, zero: int, lo: float, hi: float) -> None:
    q = QParams.per_tensor(scale, zero)
    low, high = code_range(q, (lo, hi))
    for code, bound, end in ((low, lo, q.qmin), (high, hi, q.qmax)):
        # Half a step, and the float32 rounding of quotients up to 6000.
        assert abs((code - zero) * float(q.scale) - bound) <= float(q.scale) * (0.5 + 1e-3) or code == end
    assert code_range(q, NO_CLIP) == (-128, 127)


# ---- ops -------------------------------------------------------------------------------------------------------------


@given(graphs(kinds=("conv", "depthwise"), max_ops=3), st.sampled_from([LITERT, ORT_U8]))
def test_products_equal_the_sums_in_integers(graph: Graph, scheme: Scheme) -> None:
    """Against int64 arithmetic: the fast float convolution drops nothing."""
    graph = quantized(graph, scheme)
    codes = every_code(graph)
    for op in graph.ops:
        if op.kind != "conv":
            continue
        x, w, b = op.inputs
        a, y_q = attrs_of(op), q_of(graph, op.output)
        centred = codes[x].astype(np.int64) - int(q_of(graph, x).zero_point)
        top, bottom, left, right = a["pad"]
        centred = np.pad(centred, ((0, 0), (0, 0), (top, bottom), (left, right)))
        weight = graph.value(w).codes.astype(np.int64)
        rows, columns = weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(centred, (rows, columns), (2, 3))
        windows = windows[:, :, :: a["stride"][0], :: a["stride"][1]]
        if a["groups"] > 1:
            acc = np.einsum("ncijrs,crs->ncij", windows, weight[:, 0])
        else:
            acc = np.einsum("ncijrs,ocrs->noij", windows, weight)
        acc = acc + graph.value(b).codes.astype(np.int64).reshape(1, -1, 1, 1)
        scale = q_of(graph, x).scale * q_of(graph, w).scale / y_q.scale
        expected = requantize(acc, scale.reshape(1, -1, 1, 1), y_q, a["clip"])
        assert np.array_equal(codes[op.output], expected)


def test_sums_beyond_24_bits_stay_exact() -> None:
    """A sum of 3000 products of 255 * 127, less a bias code that takes all but 5 away."""
    graph = quantized(parse("graph g(x: [N,3000]) {\n y = linear(x, w[2,3000], b[2])\n return y\n}"))
    edit = graph.edit()
    edit.set_q("x", QParams.per_tensor(1.0, -128))
    edit.set_q("w", QParams(np.ones(2, np.float32), np.zeros(2, np.int32), "int8", 0, -127, 127))
    edit.set_q("y", QParams.per_tensor(1.0, 0))
    graph = edit.finish()
    x = np.full((1, 3000), 127, np.int8)
    x[0, 7] = 126  # makes the sum odd; float32 knows only multiples of 8 there
    weight = np.full((2, 3000), 127, np.int8)
    total = int(((x.astype(np.int64) + 128) * weight[:1]).sum())
    assert total > 2**24
    codes = apply_codes(graph, graph.ops[0], [x, weight, np.array([5 - total, -7 - total], np.int32)])
    assert codes.tolist() == [[5, -7]]


@given(graphs(kinds=FOLDED))
def test_moves_move_codes(graph: Graph) -> None:
    """Moving codes is moving real numbers: both orders give the same, to the bit."""
    graph = quantized(graph)
    codes = every_code(graph)
    for op in graph.ops:
        if op.kind in SAME_CODES:
            reals = [torch.from_numpy(q_of(graph, n).dequantize(codes[n])) for n in op.inputs]
            moved = reference.apply(op, reals).numpy()
            assert np.array_equal(q_of(graph, op.output).dequantize(codes[op.output]), moved)


@given(graphs(kinds=FOLDED), st.sampled_from([LITERT, ORT_U8, ORT_S8]))
def test_every_op_is_within_a_code_of_its_real_meaning(graph: Graph, scheme: Scheme) -> None:
    """The real op on the real numbers of the codes, quantised: a rounding at a half may differ, nothing more.

    Sums in XNNPACK's 21-bit fixed point, and products in float32, are off by at most 2**-20 of 255 codes, so the
    rounded codes differ by at most one. Saturation agrees because both clamp to the same codes.
    """
    graph = quantized(graph, scheme)
    codes = every_code(graph)
    for op in graph.ops:
        single = cut(graph, op)
        reals = [q_of(graph, n).dequantize(codes[n] if n in codes else graph.value(n).codes) for n in op.inputs]
        real = reference.apply(op, [torch.from_numpy(r.astype(np.float64)) for r in reals]).numpy()
        expected = q_of(single, op.output).quantize(real)
        off = np.abs(codes[op.output].astype(int) - expected.astype(int))
        assert off.max(initial=0) <= 1, op.kind
        assert codes[op.output].dtype == scheme.act_dtype
        assert codes[op.output].shape == real.shape


@given(graphs(kinds=FOLDED))
def test_a_batch_is_its_images(graph: Graph) -> None:
    graph = quantized(graph)
    x = codes_in(graph, image_batch(graph, n=3))
    whole = run_codes(graph, x)[0]
    assert np.array_equal(whole, np.concatenate([run_codes(graph, x[i : i + 1])[0] for i in range(3)]))


@pytest.mark.parametrize(("kind", "attrs"), [("avg_pool", "kernel=(3,3) stride=(2,2)"), ("global_pool", "")])
def test_a_mean_of_equal_codes_is_that_code(kind: str, attrs: str) -> None:
    graph = parse(f"graph g(x: [N,2,7,7]) {{\n y = {kind}(x) {attrs}\n return y\n}}")
    edit = graph.edit()
    for name in ("x", "y"):
        edit.set_q(name, QParams.per_tensor(0.1, 3))
    graph = edit.finish()
    for code in (-128, -1, 3, 127):
        assert np.all(run_codes(graph, np.full((1, 2, 7, 7), code, np.int8))[0] == code)


# ---- whole graphs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [LITERT, ORT_U8, ORT_S8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", [n for n in TEXTS if n != "conv_bn_relu"])
def test_eight_bits_keep_the_signal(name: str, scheme: Scheme) -> None:
    """At least 20 dB: a value coded over its whole range carries about 30 to 40 dB, and noise adds over 3 to 6 ops."""
    graph = parse(TEXTS[name])
    coded = quantized(graph, scheme)
    x = image_batch(graph, n=4)
    real = reference.run(graph, x)[0]
    y = q_of(coded, coded.outputs[0]).dequantize(run_codes(coded, codes_in(coded, x))[0])
    noise = float(((real - y).astype(np.float64) ** 2).sum())
    assert 10 * np.log10(float((real.astype(np.float64) ** 2).sum()) / noise) > 20


def test_signed_and_unsigned_codes_are_the_same_numbers() -> None:
    graph = parse(INVERTED_RESIDUAL)
    x = image_batch(graph)
    signed, unsigned = quantized(graph, ORT_S8), quantized(graph, ORT_U8)
    a, b = run_codes(signed, codes_in(signed, x))[0], run_codes(unsigned, codes_in(unsigned, x))[0]
    assert np.array_equal(a.astype(int) + 128, b.astype(int))


def test_a_float_island_stands_between_coded_values() -> None:
    scheme = Scheme("floaty", float_kinds=frozenset({"gelu", "softmax"}))
    graph = quantized(
        parse("graph g(x: [N,4,6,6]) {\n c = conv(x, w[4,4,1,1])\n g = gelu(c)\n y = softmax(g) axis=1\n return y\n}"),
        scheme,
    )
    x = image_batch(graph)
    codes: dict[str, Array] = {}
    (y,) = run_codes(graph, codes_in(graph, x), watch=codes.__setitem__)
    assert (codes["c"].dtype, codes["g"].dtype, y.dtype) == (np.int8, np.float32, np.float32)
    c = torch.from_numpy(q_of(graph, "c").dequantize(codes["c"]))
    assert np.array_equal(y, torch.softmax(torch.nn.functional.gelu(c), 1).numpy())


def test_a_float_bias_is_added_in_float() -> None:
    graph = quantized(parse(INVERTED_RESIDUAL), Scheme("symmetric", symmetric=True, float_bias=True))
    x = image_batch(graph)
    real = reference.run(graph, x)[0]
    y = q_of(graph, "y").dequantize(run_codes(graph, codes_in(graph, x))[0])
    assert float(((real - y) ** 2).sum()) < 0.01 * float((real**2).sum())
