"""Laws that every value-preserving pass keeps, on drawn graphs."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from pass_laws import assert_same, body, dyadic
from strategies import graphs

from edgecnn.ir.graph import Graph, Pass
from edgecnn.passes.activations import expand_hard_swish, fold_hard_sigmoid, split_silu
from edgecnn.passes.cleanup import cleanup
from edgecnn.passes.fold_batchnorm import fold_batchnorm
from edgecnn.passes.fuse_activation import fuse_activation
from edgecnn.passes.hetconv import hetconv
from edgecnn.passes.input_map import fold_input_map
from edgecnn.passes.linear_to_conv import linear_to_conv
from edgecnn.passes.merge_branches import merge_branches
from edgecnn.passes.pool_first import pool_first
from edgecnn.passes.share_concat import share_concat
from edgecnn.passes.standard import STANDARD, pass_name, run_passes


def standard(graph: Graph):
    return run_passes(graph, STANDARD)


# With each pass, how often it may round a constant: only hard_sigmoid's sixth is not a power of two.
REWRITES = (
    fold_batchnorm,
    cleanup,
    merge_branches,
    fuse_activation,
    split_silu,
    expand_hard_swish,
    linear_to_conv,
    fold_input_map,
    pool_first,
    share_concat,
)
EXACT = [(p, 0) for p in REWRITES]
PASSES = [*EXACT, (partial(hetconv("dense")), 0), (standard, 0), (fold_hard_sigmoid, 1)]

law = pytest.mark.parametrize(("rewrite", "roundings"), PASSES, ids=[pass_name(p) for p, _ in PASSES])


@law
@given(graph=graphs())
def test_a_pass_keeps_the_values_and_the_names_of_the_ends(rewrite: Pass, roundings: int, graph: Graph) -> None:
    graph = dyadic(graph)
    after, _ = rewrite(graph)
    assert (after.inputs, after.outputs, after.name) == (graph.inputs, graph.outputs, graph.name)
    assert_same(graph, after, roundings=roundings)


@law
@given(graph=graphs())
def test_a_second_run_finds_nothing_to_do(rewrite: Pass, roundings: int, graph: Graph) -> None:
    once, _ = rewrite(graph)
    twice, notes = rewrite(once)
    assert body(twice) == body(once)
    assert not [note for note in notes if note.did]


@given(graph=graphs())
def test_the_standard_passes_leave_no_batch_norm_and_explain_each_clip_they_leave(graph: Graph) -> None:
    after, notes = standard(graph)
    assert not [op for op in after.ops if op.kind == "batch_norm"]
    left = {note.at for note in notes if not note.did and note.rule == "fuse_activation"}
    assert left == {op.output for op in after.ops if op.kind == "clip"}


@given(graph=graphs())
def test_a_pass_does_not_change_the_graph_it_is_given(graph: Graph) -> None:
    text, data = body(graph), {n: v.data.copy() for n, v in graph.values.items() if v.data is not None}
    standard(graph)
    assert body(graph) == text
    assert all((graph.const(name) == before).all() for name, before in data.items())
