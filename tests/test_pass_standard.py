"""The standard order, and what happens when a pass breaks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from pass_laws import assert_same, body, exact

from edgecnn.errors import EdgecnnError, UsageError
from edgecnn.ir.graph import Graph, Note
from edgecnn.passes.embed_normalization import embed_normalization
from edgecnn.passes.standard import STANDARD, pass_name, run_passes


def test_the_order_lets_each_rewrite_make_way_for_the_next() -> None:
    graph = exact("""graph g(x: [N,3,7,7]) {
      p = pad(x) pad=(1,1,1,1)
      c = conv(p, w[4,3,3,3])
      n = batch_norm(c, g[4], be[4], m[4], v[4]) eps=0.001
      a = add(n, three[])
      r = clip(a) lo=0.0 hi=6.0
      y = mul(r, sixth[])
      return y
    }""")
    graph.const("sixth")[...] = 0.125
    after, notes = run_passes(graph, STANDARD)
    assert body(after) == ["y = conv(x, w[4,3,3,3], w_bias[4]) pad=(1,1,1,1) clip=(0.0,0.75)", "return y"]
    assert_same(graph, after)
    assert [str(note) for note in notes] == [
        "cleanup: c (pad `p` merged into it)",
        "fold_batchnorm: n (into `c`)",
        "cleanup: a (constant into `n`)",
        "fuse_activation: r (into `a`)",
        "cleanup: y (constant into `r`)",
    ]


def test_a_place_that_is_left_is_explained_once_and_only_if_it_is_still_there() -> None:
    graph = exact("graph g(x: [N,3,7,7]) {\n a = mul(x, q[])\n y = clip(a) lo=0.0 hi=None\n return y\n}")
    _, notes = run_passes(graph, STANDARD)
    # The first cleanup left `a`; now the product is called `y`, and the last cleanup says so.
    assert [str(note) for note in notes] == [
        "fuse_activation: y (into `a`)",
        "cleanup: left y: `x` is an input of the graph",
    ]


def broken(graph: Graph) -> tuple[Graph, list[Note]]:
    edit = graph.edit()
    edit.swap(graph.ops[0], replace(graph.ops[0], inputs=("nothing",)))
    return edit.finish(), []


def test_an_exception_in_a_pass_is_a_bug_and_names_the_pass() -> None:
    graph = exact("graph g(x: [N,3,7,7]) {\n y = sigmoid(x)\n return y\n}")
    with pytest.raises(EdgecnnError) as caught:
        run_passes(graph, [partial(broken)])
    assert type(caught.value) is EdgecnnError
    assert caught.value.exit_code == 70
    assert str(caught.value) == (
        "EdgecnnError: the pass `broken` failed on `g`\n"
        "  got      ValueError: cycle or dangling input at ['y']\n"
        "  do       this is a bug in edgecnn: please report it with the net, the target and its options"
    )


def test_a_wrong_option_is_no_bug() -> None:
    graph = exact("graph g(x: [N,3,7,7]) {\n y = sigmoid(x)\n return y\n}")
    with pytest.raises(UsageError):
        run_passes(graph, [embed_normalization((0.5, 0.5), (1.0,))])


def test_a_pass_with_parameters_has_the_name_of_its_function() -> None:
    assert pass_name(embed_normalization((0.5,), (1.0,))) == "embed_normalization"
    assert pass_name(STANDARD[0]) == "cleanup"
