"""Small graphs and nets for the tests of training."""

from __future__ import annotations

from pathlib import Path

from edgecnn.data import Dataset, load_profile
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse

DIGITS_NET = """graph tiny(x: [N,1,8,8]) {
  c = conv(x, w1[8,1,3,3]) pad=(1,1,1,1)
  n = batch_norm(c, g1[8], b1[8], m1[8], v1[8]) eps=0.001
  r = clip(n) lo=0.0 hi=None
  d = conv(r, w2[8,1,3,3]) pad=(1,1,1,1) stride=(2,2) groups=8
  e = batch_norm(d, g2[8], b2[8], m2[8], v2[8]) eps=0.001
  h = hard_swish(e)
  p = conv(h, w3[32,8,1,1])
  q = batch_norm(p, g3[32], b3[32], m3[32], v3[32]) eps=0.001
  s = clip(q) lo=0.0 hi=6.0
  f = flatten(s)
  y = linear(f, wl[10,512], bl[10])
  return y
}"""
"""A depthwise-separable net for digits: every op that trains, batch norm, a bounded and an unbounded activation."""


def digits() -> Dataset:
    """The scans as the net above takes them."""
    return load_profile("digits", input_shape=(1, 8, 8))


def digits_graph(seed: int = 0) -> Graph:
    """The net above with random weights of a sensible size."""
    return parse(DIGITS_NET, seed=seed)


def save_digits_bundle(path: Path, graph: Graph | None = None) -> Path:
    """The net above as a bundle that says how its images are prepared."""
    data = digits()
    assert data.classes is not None
    bundle.save(
        graph or digits_graph(),
        path,
        provenance={"preprocessing": data.preprocessing.model_dump_json(), "labels": "\n".join(data.classes)},
    )
    return path
