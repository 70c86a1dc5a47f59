"""Which ops compute on codes, and which only hand them on: moves, and clips where nothing else is made coarser."""

from __future__ import annotations

from edgecnn.ir.text import parse
from edgecnn.quant.scheme import LITERT, ORT_U8
from edgecnn.quant.ties import stays_float, tying


def test_clips_that_are_concatenated_keep_their_inputs_apart() -> None:
    graph = parse(
        """graph g(x: [N,4,8,8]) {
  a = conv(x, w[4,4,1,1], b[4])
  big = conv(x, v[4,4,3,3], d[4]) pad=(1,1,1,1)
  r = clip(a) lo=0.0 hi=None
  s = clip(big) lo=0.0 hi=None
  t = concat(r, s) axis=1
  u = add(a, big)
  y = conv(t, k[4,8,1,1], l[4])
  z = add(y, u)
  return z
}"""
    )
    assert tying(graph, ORT_U8) == {"t"}
    alone = parse("graph g(x: [N,4,8,8]) {\n  r = clip(x) lo=0.0 hi=None\n  z = add(r, x)\n  return z\n}")
    assert tying(alone, ORT_U8) == {"r"}
    assert tying(alone, LITERT) == frozenset()


def test_a_clip_before_a_hard_swish_leaves_it_its_grid() -> None:
    graph = parse(
        "graph g(x: [N,4,8,8]) {\n  r = clip(x) lo=-2.0 hi=None\n  h = hard_swish(r)\n  z = add(h, x)\n  return z\n}"
    )
    assert tying(graph, ORT_U8) == frozenset()


def test_a_batch_norm_stays_float_and_is_named() -> None:
    graph = parse(
        "graph g(x: [N,4,6,6]) {\n b = batch_norm(x, g[4], be[4], m[4], v[4]) eps=1e-05\n"
        " y = conv(b, w[4,4,1,1])\n return y\n}"
    )
    b, y = graph.ops
    assert stays_float(graph, b, LITERT) == "a batch_norm that was not folded has no integer form"
    assert stays_float(graph, y, LITERT) is None
