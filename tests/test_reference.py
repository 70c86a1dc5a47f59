"""The reference against PyTorch itself, where the graph's form of an op differs from PyTorch's."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from strategies import TEXTS, graphs, image_batch

from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.ops import OPS, macs_of
from edgecnn.ir.reference import FLOAT, run
from edgecnn.ir.text import parse

EPS = float(np.finfo(np.float32).eps)


def compute(line: str, x: Array) -> Array:
    shape = ",".join(map(str, x.shape[1:]))
    return run(parse(f"graph g(x: [N,{shape}]) {{\n  {line}\n  return y\n}}"), x)[0]


def image(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_every_kind_has_a_meaning() -> None:
    assert FLOAT.keys() == OPS.keys()


@given(graphs())
def test_a_batch_is_its_images_one_by_one(graph: Graph) -> None:
    x = image_batch(graph, n=3)
    whole = run(graph, x, dtype=torch.float64)[0]
    alone = np.concatenate([run(graph, x[i : i + 1], dtype=torch.float64)[0] for i in range(3)])
    # float64 leaves 1e-16 per operation; depth and sums stay far below a thousand of them.
    assert np.allclose(whole, alone, rtol=1e-12, atol=1e-12)


@given(graphs())
def test_shapes_are_those_the_rules_give(graph: Graph) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    run(graph, image_batch(graph, n=2), watch=lambda name, t: seen.update({name: tuple(t.shape)}))
    assert seen == {n: (2, *v.shape[1:]) for n, v in graph.values.items() if not v.is_const}


@pytest.mark.parametrize("name", TEXTS)
def test_float64_is_the_same_function(name: str) -> None:
    graph = parse(TEXTS[name])
    x = image_batch(graph)
    single, double = run(graph, x)[0], run(graph, x, dtype=torch.float64)[0]
    # At most 216 terms to a sum and four layers, each within sqrt(terms) roundings of the largest value.
    assert np.abs(single - double).max() <= 4 * 216**0.5 * EPS * np.abs(double).max()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), list(product([(7, 8), (5, 11)], [2, 3], [1, 2, 3], [0, 1]))
)
def test_pools_with_explicit_padding(size: tuple[int, int], kernel: int, stride: int, pad: int) -> None:
    x = image(2, 3, *size)
    text = f"kernel=({kernel},{kernel}) stride=({stride},{stride}) pad=({pad},{pad},{pad},{pad})"
    torch_x = torch.from_numpy(x)
    theirs = F.max_pool2d(torch_x, kernel, stride, pad).numpy()
    assert np.array_equal(compute(f"y = max_pool(x) {text}", x), theirs)
    for counts in (True, False):
        counted = pad if counts else 0
        mine = compute(f"y = avg_pool(x) {text} counted=({counted},{counted},{counted},{counted})", x)
        theirs = F.avg_pool2d(torch_x, kernel, stride, pad, count_include_pad=counts).numpy()
        # Nine terms and two divisions: at most 11 roundings of a mean of values below 5.
        assert np.abs(mine - theirs).max() <= 11 * EPS * 5


def test_padding_of_a_max_pool_never_wins() -> None:
    x = -1 - np.abs(image(1, 2, 4, 4))
    y = compute("y = max_pool(x) kernel=(2,2) stride=(2,2) pad=(1,1,1,1)", x)
    assert y.max() < 0


@pytest.mark.parametrize("pad", [(1, 0, 0, 2), (0, 3, 1, 0), (1, 1, 2, 2)])
def test_asymmetric_padding_of_a_convolution(pad: tuple[int, int, int, int]) -> None:
    x = image(2, 3, 7, 6)
    top, bottom, left, right = pad
    text = f"graph g(x: [N,3,7,6]) {{\n  y = conv(x, w[4,3,3,3]) pad={pad} stride=(2,1)\n  return y\n}}"
    graph = parse(text.replace(", ", ",").replace("(x,", "(x, "))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    theirs = F.conv2d(torch.from_numpy(padded), torch.from_numpy(graph.const("w")), stride=(2, 1)).numpy()
    # 27 products to a sum of magnitude below 10, added in whatever order.
    assert np.abs(run(graph, x)[0] - theirs).max() <= 27 * EPS * 10


def test_pad_has_one_value_per_channel() -> None:
    x = image(2, 2, 3, 3)
    y = compute("y = pad(x) pad=(1,0,0,2) value=(0.5,-2.0)", x)
    assert np.array_equal(y[:, :, 1:, :3], x)
    for channel, value in enumerate((0.5, -2.0)):
        assert (y[:, channel, 0] == value).all()
        assert (y[:, channel, :, 3:] == value).all()


def test_channel_shuffle_is_pytorchs() -> None:
    x = image(2, 12, 3, 3)
    theirs = F.channel_shuffle(torch.from_numpy(x), 3).numpy()
    assert np.array_equal(compute("y = channel_shuffle(x) groups=3", x), theirs)


@pytest.mark.parametrize("line", ["clip=(0.0,None)", "clip=(None,1.0)", "clip=(-0.5,0.5)"])
def test_fused_activations_clip(line: str) -> None:
    x = image(3, 6)
    graph = parse(f"graph g(x: [N,6]) {{\n  p = add(x, c[1,6])\n  y = add(x, c) {line}\n  return p, y\n}}")
    plain, clipped = run(graph, x)
    lo, hi = graph.ops[1].attrs["clip"]
    assert np.array_equal(clipped, np.clip(plain, lo, hi))


def test_macs_count_convolutions_and_linear_layers() -> None:
    graph = parse(TEXTS["inverted_residual"])
    assert [macs_of(graph, op) for op in graph.ops] == [100 * 8 * 24, 100 * 24 * 9, 100 * 24 * 8, 0]
    head = parse(TEXTS["head"])
    assert [macs_of(head, op) for op in head.ops] == [0, 0, 0, 240]


def test_jitter_is_the_noise_of_every_op_and_repeatable() -> None:
    graph = parse("graph g(x: [N,8,6,6]) {\n  a = conv(x, w[8,8,1,1])\n  y = conv(a, v[8,8,1,1])\n  return y\n}")
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6))
    exact = run(graph, x, dtype=torch.float64)[0]
    noisy = run(graph, x, dtype=torch.float64, jitter=1e-3)[0]
    off = np.linalg.norm(noisy - exact) / np.linalg.norm(exact)
    # Two ops, each with a thousandth of its size: sqrt(2) thousandths, give or take how the second weighs the first.
    assert 0.5e-3 < off < 4e-3
    assert np.array_equal(noisy, run(graph, x, dtype=torch.float64, jitter=1e-3)[0])
