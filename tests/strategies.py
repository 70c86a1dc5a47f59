"""Small legal graphs for every test: ready-made ones as text, and a hypothesis strategy that draws them.

@given(graphs())
def test_law(graph): ...
"""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from edgecnn.ir.graph import Array, Graph, QParams
from edgecnn.ir.text import parse

settings.register_profile("edgecnn", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("edgecnn")

CONV_BN_RELU = """graph conv_bn_relu(x: [N,3,12,12]) {
  c = conv(x, w[8,3,3,3]) stride=(2,2) pad=(1,1,1,1)
  b = batch_norm(c, gamma[8], beta[8], mean[8], var[8]) eps=1e-05
  r = clip(b) lo=0.0 hi=None
  p = global_pool(r) keepdims=False
  y = linear(p, wl[5,8], bl[5])
  return y
}"""

RESIDUAL = """graph residual(x: [N,8,10,10]) {
  a = conv(x, wa[8,8,3,3], ba[8]) pad=(1,1,1,1) clip=(0.0,None)
  b = conv(a, wb[8,8,3,3], bb[8]) pad=(1,1,1,1)
  s = add(b, x) clip=(0.0,None)
  y = conv(s, wy[6,8,1,1], by[6])
  return y
}"""

INVERTED_RESIDUAL = """graph inverted_residual(x: [N,8,10,10]) {
  e = conv(x, we[24,8,1,1], be[24]) clip=(0.0,6.0)
  d = conv(e, wd[24,1,3,3], bd[24]) pad=(1,1,1,1) groups=24 clip=(0.0,6.0)
  p = conv(d, wp[8,24,1,1], bp[8])
  y = add(x, p)
  return y
}"""

SQUEEZE_EXCITE = """graph squeeze_excite(x: [N,16,8,8]) {
  h = hard_swish(x)
  g = global_pool(h)
  f1 = conv(g, w1[4,16,1,1], b1[4]) clip=(0.0,None)
  f2 = conv(f1, w2[16,4,1,1], b2[16])
  gate = hard_sigmoid(f2)
  y = mul(h, gate)
  return y
}"""

SHUFFLE_UNIT = """graph shuffle_unit(x: [N,8,6,6]) {
  left = slice(x) axis=1 start=0 stop=4
  right = slice(x) axis=1 start=4 stop=8
  c = conv(right, w[4,4,1,1], b[4]) clip=(0.0,None)
  cat = concat(left, c) axis=1
  y = channel_shuffle(cat) groups=2
  return y
}"""

HEAD = """graph head(x: [N,6,7,7]) {
  m = max_pool(x) kernel=(3,3) stride=(2,2) pad=(0,1,0,1)
  a = avg_pool(m) kernel=(2,2) stride=(1,1)
  f = flatten(a)
  y = linear(f, w[10,24], b[10])
  return y
}"""

TEXTS = {
    "conv_bn_relu": CONV_BN_RELU,
    "residual": RESIDUAL,
    "inverted_residual": INVERTED_RESIDUAL,
    "squeeze_excite": SQUEEZE_EXCITE,
    "shuffle_unit": SHUFFLE_UNIT,
    "head": HEAD,
}
"""The ready-made graphs by name; `parse(TEXTS[name])` builds one."""

FEATURE_KINDS = (
    "conv", "depthwise", "batch_norm", "clip", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "add", "mul", "scale",
    "max_pool", "avg_pool", "concat", "slice", "channel_shuffle", "pad",
)  # fmt: skip
"""What `graphs` draws between the input and the head; a test may pass fewer."""


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    kinds: tuple[str, ...] = FEATURE_KINDS,
    max_ops: int = 6,
    head: bool | None = None,
) -> Graph:
    """A small legal graph with seeded constants: a chain of drawn ops with joins to earlier values of the same shape.

    Args:
        draw: by hypothesis.
        kinds: which of `FEATURE_KINDS` may occur.
        max_ops: the most feature ops.
        head: end in global_pool and linear (True), never (False), or draw it (None).
    """
    channels, size = draw(st.sampled_from([2, 3, 4, 6, 8])), draw(st.integers(5, 9))
    lines = [f"graph drawn(x: [N,{channels},{size},{size + 1}]) {{"]
    made = {"x": (channels, size, size + 1)}
    last = "x"
    for i in range(draw(st.integers(1, max_ops))):
        line = _feature_op(draw, draw(st.sampled_from(kinds)), f"v{i}", last, made)
        if line is not None:
            lines.append(line)
            last = f"v{i}"
    if last == "x":  # no drawn op was legal here
        lines.append(f"v = conv(x, vw[4,{channels},1,1], vb[4])")
        made["v"], last = (4, size, size + 1), "v"
    if draw(st.booleans()) if head is None else head:
        lines.append(f"gp = global_pool({last}) keepdims=False")
        lines.append(f"fc = linear(gp, fcw[5,{made[last][0]}], fcb[5])")
        last = "fc"
    return parse("\n".join([*lines, f"return {last}", "}"]), seed=draw(st.integers(0, 3)))


def _feature_op(draw: st.DrawFn, kind: str, name: str, last: str, made: dict[str, tuple[int, int, int]]) -> str | None:
    """The line of one op, its shape noted in `made`; None where the kind does not fit."""
    c, h, w = shape = made[last]
    same = [n for n, s in made.items() if s == shape]
    if kind in ("conv", "depthwise"):
        k, s = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 1, 2]))
        top, bottom, left, right = pad = tuple(draw(st.integers(0, k // 2)) for _ in range(4))
        out = c if kind == "depthwise" else draw(st.sampled_from([3, 4, 8]))
        size = ((h + top + bottom - k) // s + 1, (w + left + right - k) // s + 1)
        if min(h + top + bottom, w + left + right) < k:
            return None
        made[name] = (out, *size)
        groups = c if kind == "depthwise" else 1
        bias = f", {name}b[{out}]" if draw(st.booleans()) else ""
        clip = draw(st.sampled_from(["", " clip=(0.0,None)", " clip=(0.0,6.0)"]))
        text = ",".join(map(str, pad))
        return (
            f"{name} = conv({last}, {name}w[{out},{c // groups},{k},{k}]{bias})"
            f" stride=({s},{s}) pad=({text}) groups={groups}{clip}"
        )
    if kind in ("max_pool", "avg_pool"):
        if min(h, w) < 4:
            return None
        k, s = draw(st.sampled_from([2, 3])), draw(st.sampled_from([1, 2]))
        pad = draw(st.sampled_from(["0,0,0,0", "1,1,1,1", "0,1,0,1"]))
        rows, columns = {"0,0,0,0": (h, w), "1,1,1,1": (h + 2, w + 2), "0,1,0,1": (h + 1, w + 1)}[pad]
        made[name] = (c, (rows - k) // s + 1, (columns - k) // s + 1)
        return f"{name} = {kind}({last}) kernel=({k},{k}) stride=({s},{s}) pad=({pad})"
    if kind == "concat":
        partners = [n for n, s in made.items() if s[1:] == shape[1:] and s[0] + c <= 16]
        if not partners:
            return None
        other = draw(st.sampled_from(partners))
        made[name] = (made[other][0] + c, h, w)
        return f"{name} = concat({last}, {other}) axis=1"
    if kind == "slice":
        if c < 2:
            return None
        start = draw(st.integers(0, c - 2))
        stop = draw(st.integers(start + 1, c))
        made[name] = (stop - start, h, w)
        return f"{name} = slice({last}) axis=1 start={start} stop={stop}"
    if kind == "channel_shuffle" and c % 2:
        return None
    if kind == "pad":
        made[name] = (c, h + 1, w + 1)
        return f"{name} = pad({last}) pad=(1,0,0,1) value=0.0"
    made[name] = shape
    if kind in ("add", "mul"):
        return f"{name} = {kind}({last}, {draw(st.sampled_from(same))})"
    if kind == "scale":
        return f"{name} = mul({last}, {name}c[{c},1,1])"
    attributes = {
        "batch_norm": f", {name}g[{c}], {name}be[{c}], {name}m[{c}], {name}va[{c}]) eps=1e-05",
        "clip": ") lo=0.0 hi=6.0",
        "channel_shuffle": ") groups=2",
    }
    return f"{name} = {kind}({last}{attributes.get(kind, ')')}"


def image_batch(graph: Graph, *, n: int = 2, seed: int = 0) -> Array:
    """A float32 batch of `n` standard-normal images that fits the graph's first input."""
    shape = (n, *graph.shape(graph.inputs[0])[1:])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_random_q(graph: Graph, *, seed: int = 0) -> Graph:
    """`graph` with arbitrary parameters on every value: what a file must keep, not what `assign` would choose."""
    rng = np.random.default_rng(seed)
    editor = graph.edit()
    for value in graph.values.values():
        if value.is_const and value.shape:
            scale = np.exp(rng.normal(-4, 3, value.shape[0])).astype(np.float32)
            zero = rng.integers(-3, 4, value.shape[0]).astype(np.int32) * rng.integers(2)
            editor.set_q(value.name, QParams(scale, zero.astype(np.int32), "int8", 0, -127, 127))
        else:
            scale = float(np.float32(np.exp(rng.normal(-4, 3))))
            editor.set_q(value.name, QParams.per_tensor(scale, int(rng.integers(0, 256)), "uint8"))
    return editor.finish()


def assert_same_graph(one: Graph, other: Graph) -> None:
    """Asserts that nothing differs: names, order, attributes, sources, shapes, data to the bit, quantisation."""
    assert (one.name, one.inputs, one.outputs) == (other.name, other.inputs, other.outputs)
    assert [(o.kind, o.inputs, o.output, dict(o.attrs), o.source) for o in one.ops] == [
        (o.kind, o.inputs, o.output, dict(o.attrs), o.source) for o in other.ops
    ]
    assert one.values.keys() == other.values.keys()
    for name, value in one.values.items():
        twin = other.values[name]
        assert (value.shape, value.q) == (twin.shape, twin.q), name
        assert (value.data is None) == (twin.data is None), name
        if value.data is not None and twin.data is not None:
            assert value.data.tobytes() == twin.data.tobytes(), name
