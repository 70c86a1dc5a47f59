"""Learned rounding: one of the two nearest codes for every weight, never a worse piece, and codes that stay chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn.errors import InputError
from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse
from edgecnn.quant.adaround import Piece, Settings, SoftRounding, reconstruct
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT, ORT_U8, Scheme
from edgecnn.quant.segments import LAYERS, segments
from tests.strategies import (
    FEATURE_KINDS,
    INVERTED_RESIDUAL,
    RESIDUAL,
    graphs,
    image_batch,
)

FOLDED = tuple(kind for kind in FEATURE_KINDS if kind != "batch_norm")
QUICK = Settings(steps=60, batch_size=4)
TEXTS = {"residual": RESIDUAL, "inverted": INVERTED_RESIDUAL}


def coded(graph: Graph, scheme: Scheme = LITERT, *, bits: int = 3) -> Graph:
    return assign(graph, measure(graph, [image_batch(graph, n=8)]), replace(scheme, weight_bits=bits))[0]


def weights_of(graph: Graph) -> list[str]:
    return [op.inputs[1] for op in graph.ops if op.kind in LAYERS]


def noise(graph: Graph, result: Graph) -> float:
    x, q_in, q_out = image_batch(graph, n=8), result.value(result.inputs[0]).q, result.value(result.outputs[0]).q
    assert q_in is not None
    assert q_out is not None
    got = q_out.dequantize(quantized.run_codes(result, q_in.quantize(x))[0])
    return float(np.sum((got - reference.run(graph, x)[0]) ** 2))


@pytest.mark.parametrize("unit", ["layer", "block"])
@pytest.mark.parametrize("scheme", [LITERT, ORT_U8], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_each_weight_has_one_of_its_two_nearest_codes(text: str, scheme: Scheme, unit: str) -> None:
    graph = parse(text)
    before = coded(graph, scheme)
    after, _ = reconstruct(graph, before, [image_batch(graph, n=8)], settings=replace(QUICK, unit=unit))  # type: ignore[arg-type]
    moved = 0
    for name in weights_of(before):
        old, new = before.value(name), after.value(name)
        assert old.q is not None
        assert new.q is not None
        np.testing.assert_array_equal(new.q.scale, old.q.scale)
        scale, _ = old.q.spread(graph.const(name).ndim)
        steps = np.clip(graph.const(name).astype(np.float64) / scale, old.q.qmin, old.q.qmax)
        assert np.all((new.codes == np.floor(steps)) | (new.codes == np.ceil(steps)))
        moved += int(np.count_nonzero(new.codes != old.codes))
    assert moved > 0
    assert noise(graph, after) < noise(graph, before)


@settings(max_examples=15)
@given(graphs(kinds=FOLDED), st.sampled_from(["layer", "block"]))
def test_no_piece_gets_worse_whatever_the_net(graph: Graph, unit: str) -> None:
    found: list[Piece] = []
    after, notes = reconstruct(
        graph,
        coded(graph),
        [image_batch(graph, n=6)],
        settings=Settings(unit=unit, steps=4, batch_size=4),  # type: ignore[arg-type]
        progress=lambda number, of, piece: found.append(piece),
    )
    assert all(piece.error <= piece.before for piece in found)
    assert [note.at for note in notes] == [piece.output for piece in found]
    assert [op.output for op in after.ops] == [op.output for op in graph.ops]


@settings(max_examples=30)
@given(graphs(kinds=FOLDED), st.sampled_from(["layer", "block"]))
def test_segments_are_the_net_in_order_with_one_way_out(graph: Graph, unit: str) -> None:
    pieces = segments(graph, unit)  # type: ignore[arg-type]
    assert tuple(op for piece in pieces for op in piece.ops) == graph.ops
    made = set(graph.inputs)
    for piece in pieces:
        assert set(piece.inputs) <= made
        made |= {op.output for op in piece.ops}
        if unit == "block" and piece is not pieces[-1]:
            inside = {op.output for op in piece.ops} - {piece.output}
            assert not any(user not in piece.ops for name in inside for user in graph.users[name])


def test_a_residual_block_is_one_piece_and_an_activation_stays_with_its_layer() -> None:
    graph = parse(
        """graph g(x: [N,8,6,6]) {
  a = conv(x, w1[8,8,3,3]) pad=(1,1,1,1)
  b = hard_swish(a)
  c = conv(b, w2[8,8,3,3]) pad=(1,1,1,1) clip=(0.0,None)
  d = conv(c, w3[8,8,1,1])
  e = add(b, d)
  y = global_pool(e)
  return y
}"""
    )
    assert [[op.output for op in p.ops] for p in segments(graph, "block")] == [["a", "b"], ["c", "d", "e"], ["y"]]
    assert [[op.output for op in p.ops] for p in segments(graph, "layer")] == [["a", "b"], ["c"], ["d"], ["e"], ["y"]]


def test_before_it_has_learned_it_is_the_net_with_float_weights_or_the_nearest_codes() -> None:
    graph = parse(RESIDUAL)
    result = coded(graph)
    module = SoftRounding(result)
    for name, codes in module.chosen().items():
        np.testing.assert_array_equal(codes, result.value(name).codes)
    module.soft = True
    for name in weights_of(result):
        q = result.value(name).q
        assert q is not None
        scale, _ = q.spread(graph.const(name).ndim)
        soft = (module._below[name] + module.up(name)).detach().numpy()
        np.testing.assert_allclose(soft, graph.const(name) / scale, atol=1e-4)
    assert 0 < module.indecision(2.0).item() < 1


def test_the_same_seed_gives_the_same_codes() -> None:
    graph = parse(INVERTED_RESIDUAL)
    runs = [reconstruct(graph, coded(graph), [image_batch(graph, n=8)], settings=QUICK, seed=s)[0] for s in (0, 0, 1)]
    same = [all(np.array_equal(runs[0].value(n).codes, r.value(n).codes) for n in weights_of(graph)) for r in runs]
    assert same == [True, True, False]


def test_what_was_rounded_for_layers_can_be_rounded_again_for_blocks() -> None:
    graph = parse(RESIDUAL)
    x = [image_batch(graph, n=8)]
    layers, _ = reconstruct(graph, coded(graph), x, settings=replace(QUICK, unit="layer"))
    blocks, _ = reconstruct(graph, layers, x, settings=replace(QUICK, unit="block", steps=120))
    assert any(np.any(layers.value(n).codes != blocks.value(n).codes) for n in weights_of(graph))
    assert noise(graph, blocks) < noise(graph, layers)


def test_what_cannot_be_learned_is_refused() -> None:
    graph = parse(RESIDUAL)
    with pytest.raises(InputError, match="no images to learn from"):
        reconstruct(graph, coded(graph), [])
    with pytest.raises(InputError, match="no quantisation parameters"):
        reconstruct(graph, graph, [image_batch(graph)])


def test_memory_bounds_the_images() -> None:
    graph = parse(RESIDUAL)
    sizes: list[int] = []
    x = image_batch(graph, n=8)

    def batches():  # type: ignore[no-untyped-def]
        for _ in range(1000):
            sizes.append(len(x))
            yield x

    reconstruct(graph, coded(graph), batches(), settings=Settings(steps=1, memory_mb=1))
    assert 1 <= sum(sizes) < 1000
