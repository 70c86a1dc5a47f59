"""Average pools that divide unevenly become even ones and a map: the same numbers, in codes that are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_laws import assert_same, rewritten

from edgecnn.ir.text import parse
from edgecnn.passes.even_pools import even_pools
from edgecnn.quant.scheme import LITERT, ORT_U8, Scheme
from edgecnn.quant.spans import constant_q


def test_a_pool_that_leaves_its_padding_out() -> None:
    graph = parse("""graph g(x: [N,3,4,5]) {
      y = avg_pool(x) kernel=(3,3) stride=(1,1) pad=(1,1,1,1)
      return y
    }""")
    text, notes = rewritten(graph, even_pools)
    assert text == [
        "y_full = avg_pool(x) kernel=(3,3) stride=(1,1) pad=(1,1,1,1) counted=(1,1,1,1)",
        "y = mul(y_full, y_share[1,1,4,5])",
        "return y",
    ]
    assert notes == ["even_pools: y (divides by 4 to 9 pixels)"]


@pytest.mark.parametrize("pad", ["pad=(1,1,1,1) counted=(1,1,1,1)", "pad=(0,0,0,0)"])
def test_an_even_pool_stays(pad: str) -> None:
    graph = parse(f"graph g(x: [N,3,8,8]) {{\n  y = avg_pool(x) kernel=(2,2) stride=(2,2) {pad}\n  return y\n}}")
    assert even_pools(graph)[1] == []


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_the_numbers_stay(kernel: tuple[int, int], stride: tuple[int, int], data: st.DataObject) -> None:
    limits = [k - 1 for k in kernel for _ in range(2)]
    pad = tuple(data.draw(st.integers(0, limit)) for limit in limits)
    counted = tuple(data.draw(st.integers(0, p)) for p in pad)
    graph = parse(
        f"graph g(x: [N,2,6,7]) {{\n  y = avg_pool(x) kernel={kernel} stride={stride} pad={pad} counted={counted}\n"
        "  return y\n}"
    )
    after, _ = even_pools(graph)
    # The factor and the pool's own share are rounded to float32, and so is their product.
    assert_same(graph, after, roundings=3)
    assert even_pools(after)[1] == []


@pytest.mark.parametrize("scheme", [LITERT, ORT_U8, Scheme("s", symmetric=True)], ids=lambda s: s.name)
@pytest.mark.parametrize("window", [(1, 3), (2, 3), (3, 3), (2, 2), (4, 4)], ids=str)
def test_the_map_has_exact_codes(scheme: Scheme, window: tuple[int, int]) -> None:
    rows, columns = window
    whole = rows * columns
    counts = np.outer(np.arange(max(1, rows // 2), rows + 1), np.arange(max(1, columns // 2), columns + 1))
    share = (whole / counts).astype(np.float32)
    q = constant_q(share, scheme)
    # One rounding of the number itself and one of the scale, of which there are at most 255.
    np.testing.assert_allclose(q.dequantize(q.quantize(share)), share, rtol=2.0**-22)


def test_measured_numbers_use_all_codes() -> None:
    numbers = np.random.default_rng(0).uniform(0, 3, 50).astype(np.float32)
    q = constant_q(numbers, LITERT)
    assert q.real_range == pytest.approx((0.0, float(numbers.max())))
