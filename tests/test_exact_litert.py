"""The integer reference against LiteRT itself, one op per file: not one code may differ.

Codes are random over their whole range, scales random and, because that is where roundings meet exact halves, powers of
two. MUL and SOFTMAX round differently on ARM (fixed point), so these two are compared on x86 only.
"""

from __future__ import annotations

import platform
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecnn.ir.graph import Array, Graph, QParams
from edgecnn.ir.quantized import apply_codes, run_codes, stored
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT
from edgecnn.quant.weights import bias_q, weight_q
from edgecnn.targets import all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions
from tests.strategies import TEXTS, image_batch

ROUNDS = 8
"""Graphs per case; in every second one all scales are powers of two."""

on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ARM rounds this op in fixed point")

FEATURES = "x: [N,24,9,11]"
PRODUCTS = {
    "dense": "y = conv(x, w[20,24,3,3], b[20]) pad=(1,1,1,1)",
    "strided": "y = conv(x, w[20,24,3,3], b[20]) stride=(2,2) pad=(1,1,1,1)",
    "uneven_pad": "y = conv(x, w[20,24,3,3], b[20]) stride=(2,2) pad=(0,1,0,1)",
    "dilated": "y = conv(x, w[20,24,3,3], b[20]) pad=(2,2,2,2) dilation=(2,2)",
    "pointwise_relu6": "y = conv(x, w[40,24,1,1], b[40]) clip=(0.0,6.0)",
    "depthwise": "y = conv(x, w[24,1,3,3], b[24]) pad=(1,1,1,1) groups=24",
    "depthwise_strided_relu": "y = conv(x, w[24,1,5,5], b[24]) stride=(2,2) pad=(2,2,2,2) groups=24 clip=(0.0,None)",
    "multiplied": "y = conv(x, w[48,1,3,3], b[48]) pad=(1,1,1,1) groups=24",
    "grouped": "y = conv(x, w[24,6,3,3], b[24]) pad=(1,1,1,1) groups=4",
}
SUMS = {
    "add": "y = add(x, z)",
    "add_relu": "y = add(x, z) clip=(0.0,None)",
    "sub": "y = sub(x, z)",
    "sub_relu6": "y = sub(x, z) clip=(0.0,6.0)",
}
MEANS = {
    "global_pool": "y = global_pool(x)",
    "global_pool_flat": "y = global_pool(x) keepdims=False",
    "avg_pool": "y = avg_pool(x) kernel=(3,3) stride=(2,2)",
    "avg_pool_counted": "y = avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1) counted=(1,1,1,1)",
    "avg_pool_uncounted": "y = avg_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)",
}
TABLES = {
    "sigmoid": "y = sigmoid(x)",
    "hard_swish": "y = hard_swish(x)",
    "hard_sigmoid": "y = hard_sigmoid(x)",
    "tanh": "y = tanh(x)",
    "leaky_relu": "y = leaky_relu(x) slope=0.1",
    "relu": "y = clip(x) lo=0.0 hi=None",
    "clip": "y = clip(x) lo=-1.0 hi=2.5",
}
MOVES = {
    "max_pool": "y = max_pool(x) kernel=(3,3) stride=(2,2) pad=(1,1,1,1)",
    "slice": "y = slice(x) axis=1 start=5 stop=20",
    "channel_shuffle": "y = channel_shuffle(x) groups=4",
    "pad": "y = pad(x) pad=(1,2,0,3)",
    "flatten": "y = flatten(x)",
    "transpose": "y = transpose(x) perm=(0,3,1,2)",
}


def litert(graph: Graph, inputs: list[Array], folder: Path) -> Array:
    """What LiteRT computes from NCHW codes; rank-4 tensors are NHWC in the file."""
    path = folder / "op.tflite"
    path.write_bytes(all_targets()["tflite-int8"].emit(graph, EmitOptions(input_type="int8")).data)
    with closing(open_session(path)) as session:
        (y,) = session.run([np.ascontiguousarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x) for x in inputs])
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


class Drawn:
    """Random parameters and codes for the graph of one op."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.exact = seed % 2 == 1

    def q(self, scale: float) -> QParams:
        """Parameters with a scale near `scale`: a power of two in every second graph."""
        drawn = scale * np.exp(self.rng.uniform(-0.7, 0.7))
        return QParams.per_tensor(
            2.0 ** round(np.log2(drawn)) if self.exact else drawn, int(self.rng.integers(-90, 91))
        )

    def codes(self, graph: Graph, name: str) -> Array:
        """Random codes of the input `name`, batch 1."""
        return self.rng.integers(-128, 128, (1, *graph.shape(name)[1:])).astype(np.int8)


def coded(graph: Graph, parameters: dict[str, QParams], *, powers_of_two: bool = False) -> Graph:
    """The graph with given parameters, and weights and biases coded as `assign` does it."""
    edit = graph.edit()
    for name, q in parameters.items():
        edit.set_q(name, q)
    for op in graph.ops:
        if op.kind in ("conv", "linear"):
            x, w, b = op.inputs
            s_x, s_y = parameters[x].scale, parameters[op.output].scale
            q = weight_q(graph.const(w), graph.const(b), float(s_x), float(s_y))
            if powers_of_two:
                q = replace(q, scale=np.exp2(np.ceil(np.log2(q.scale))).astype(np.float32))
            edit.set_q(w, q)
            edit.set_q(b, bias_q(np.float32(s_x), q))
    return edit.finish()


def differing(graph: Graph, drawn: Drawn, folder: Path) -> int:
    """How many codes of LiteRT differ from the integer reference on random input codes."""
    op = graph.ops[0]
    inputs = {name: drawn.codes(graph, name) for name in graph.inputs}
    expected = apply_codes(graph, op, [inputs[n] if n in inputs else stored(graph.value(n)) for n in op.inputs])
    found = litert(graph, list(inputs.values()), folder)
    assert len(np.unique(expected)) > 10  # else saturation would hide every rounding
    return int((found != expected).sum())


def one_op(line: str, seed: int, *, arguments: str = FEATURES) -> Graph:
    return parse(f"graph g({arguments}) {{\n {line}\n return y\n}}", seed=seed)


@pytest.mark.parametrize("name", PRODUCTS)
def test_convolutions(name: str, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        graph, drawn = one_op(PRODUCTS[name], seed), Drawn(seed)
        graph = coded(graph, {"x": drawn.q(0.05), "y": drawn.q(0.06)}, powers_of_two=drawn.exact)
        assert differing(graph, drawn, tmp_path) == 0


def test_linear_layers(tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        line = "y = linear(x, w[100,960], b[100])"
        graph, drawn = one_op(line, seed, arguments="x: [N,960]"), Drawn(seed)
        graph = coded(graph, {"x": drawn.q(0.05), "y": drawn.q(0.06)}, powers_of_two=drawn.exact)
        assert differing(graph, drawn, tmp_path) == 0


@pytest.mark.parametrize("other", ["24,9,11", "24,1,1"])
@pytest.mark.parametrize("name", SUMS)
def test_sums(name: str, other: str, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        graph, drawn = one_op(SUMS[name], seed, arguments=f"{FEATURES}, z: [N,{other}]"), Drawn(seed)
        graph = coded(graph, {"x": drawn.q(0.05), "z": drawn.q(0.03), "y": drawn.q(0.06)})
        assert differing(graph, drawn, tmp_path) == 0


@on_x86
@pytest.mark.parametrize("other", ["24,9,11", "24,1,1"])
def test_elementwise_products(other: str, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        graph, drawn = one_op("y = mul(x, z)", seed, arguments=f"{FEATURES}, z: [N,{other}]"), Drawn(seed)
        graph = coded(graph, {"x": drawn.q(0.05), "z": drawn.q(0.03), "y": drawn.q(0.1)})
        assert differing(graph, drawn, tmp_path) == 0


@pytest.mark.parametrize("name", MEANS)
def test_means(name: str, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        drawn = Drawn(seed)
        # The mean of random codes is near -0.5 codes, so the zero points stay small and the output's scale is fine.
        x = QParams.per_tensor(float(drawn.q(0.05).scale), int(drawn.rng.integers(-9, 9)))
        y = QParams.per_tensor(float(drawn.q(0.01).scale), int(drawn.rng.integers(-9, 9)))
        graph = coded(one_op(MEANS[name], seed, arguments="x: [N,96,8,6]"), {"x": x, "y": y})
        assert differing(graph, drawn, tmp_path) == 0


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        drawn = Drawn(seed)
        y = QParams.per_tensor(1 / 256, -128) if name == "sigmoid" else drawn.q(0.03)
        graph = coded(one_op(TABLES[name], seed), {"x": drawn.q(0.05), "y": y})
        assert differing(graph, drawn, tmp_path) == 0


@on_x86
def test_softmax(tmp_path: Path) -> None:
    for seed in range(ROUNDS):
        drawn = Drawn(seed)
        graph = one_op("y = softmax(x) axis=1", seed, arguments="x: [N,40]")
        graph = coded(graph, {"x": drawn.q(0.02), "y": QParams.per_tensor(1 / 256, -128)})
        assert differing(graph, drawn, tmp_path) == 0


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str, tmp_path: Path) -> None:
    drawn = Drawn(0)
    q = drawn.q(0.05)
    assert differing(coded(one_op(MOVES[name], 0), {"x": q, "y": q}), drawn, tmp_path) == 0


def test_concatenations(tmp_path: Path) -> None:
    drawn = Drawn(0)
    q = drawn.q(0.05)
    graph = one_op("y = concat(x, z) axis=1", 0, arguments=f"{FEATURES}, z: [N,5,9,11]")
    assert differing(coded(graph, {"x": q, "z": q, "y": q}), drawn, tmp_path) == 0


@pytest.mark.parametrize("name", [n for n in TEXTS if n not in ("conv_bn_relu", "squeeze_excite")])
def test_whole_graphs(name: str, tmp_path: Path) -> None:
    """Exact per op makes exact end to end; graphs without a MUL, so on every machine."""
    graph = parse(TEXTS[name])
    graph, _ = assign(graph, measure(graph, [image_batch(graph)]), LITERT)
    q = graph.value("x").q
    assert q is not None
    x = q.quantize(image_batch(graph, n=1, seed=1))
    assert np.array_equal(litert(graph, [x], tmp_path), run_codes(graph, x)[0])
