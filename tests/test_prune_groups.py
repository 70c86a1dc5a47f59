"""Which channels live and die together: groups of every kind of joint, and the law that pruned is masked."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from prune_laws import assert_pruned_is_masked, constants
from strategies import FEATURE_KINDS, graphs

from edgecnn.errors import InputError, UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.text import parse
from edgecnn.pipeline.source import load_source
from edgecnn.prune.apply import apply, restricted
from edgecnn.prune.balance import balanced
from edgecnn.prune.groups import alive, groups_of, kept_counts, prunable, step_of, without
from edgecnn.prune.unionfind import smallest_members


def graph(body: str, inputs: str = "x: [N,3,8,8]", seed: int = 1) -> Graph:
    lines = [line.strip() for line in body.strip().splitlines()]
    last = lines[-1].split(" = ")[0]
    return parse(
        f"graph g({inputs}) {{\n" + "\n".join(f"  {line}" for line in (*lines, f"return {last}")) + "\n}", seed=seed
    )


def by_name(of: Graph) -> dict[str, list[tuple[int, dict[str, int]]]]:
    """Units and layers of each group, by the name without its number."""
    found: dict[str, list[tuple[int, dict[str, int]]]] = {}
    for group in prunable(of)[1]:
        found.setdefault(group.name.split("#")[0], []).append((len(group), dict(group.layers)))
    return found


CHAIN = "a = conv(x, wa[8,3,3,3]) pad=(1,1,1,1)\n"
HEAD = "p = global_pool(z)\nf = flatten(p)\ny = linear(f, wl[5,{}], bl[5])"


def net(middle: str, channels: int) -> Graph:
    return graph(CHAIN + middle + "\n" + HEAD.format(channels))


def test_a_chain_has_one_group_per_layer_and_the_answer_stays() -> None:
    found = by_name(net("z = conv(a, wz[6,8,1,1], bz[6])", 6))
    assert found == {"a": [(8, {"a": 1})], "z": [(6, {"z": 1})]}


def test_a_sum_couples_its_sides() -> None:
    found = by_name(net("b = conv(a, wb[8,8,1,1])\nz = add(a, b)", 8))
    assert found == {"a": [(8, {"a": 1, "b": 1})]}


def test_a_depthwise_convolution_follows_its_input() -> None:
    found = by_name(net("z = conv(a, wz[8,1,3,3]) pad=(1,1,1,1) groups=8", 8))
    assert found == {"a": [(8, {"a": 1})]}


def test_a_depthwise_multiplier_ties_as_many_rows() -> None:
    pruned = assert_pruned_is_masked(net("z = conv(a, wz[16,1,3,3]) pad=(1,1,1,1) groups=8", 16))
    assert pruned.shape("z")[1] == 2 * pruned.shape("a")[1]


def test_a_concatenation_keeps_its_parts_apart() -> None:
    found = by_name(net("b = conv(a, wb[4,8,1,1])\nc = concat(a, b) axis=1\nz = conv(c, wz[6,12,1,1])", 6))
    assert found == {"a": [(8, {"a": 1})], "b": [(4, {"b": 1})], "z": [(6, {"z": 1})]}


def test_a_sum_behind_a_concatenation_couples_by_position() -> None:
    found = by_name(
        net("b = conv(a, wb[4,8,1,1])\nc = concat(a, b) axis=1\nd = conv(c, wd[12,12,1,1])\nz = add(c, d)", 12)
    )
    assert found == {"a": [(8, {"a": 1, "d": 1})], "b": [(4, {"b": 1, "d": 1})]}


def test_squeeze_and_excite_joins_its_gate_and_not_its_middle() -> None:
    gate = "s = global_pool(a)\nt = conv(s, wt[2,8,1,1], bt[2])\nu = conv(t, wu[8,2,1,1], bu[8])\ng = hard_sigmoid(u)"
    body = gate + "\nz = mul(a, g)"
    assert by_name(net(body, 8)) == {"a": [(8, {"a": 1, "u": 1})], "t": [(2, {"t": 1})]}


def test_whole_groups_go_where_that_leaves_more_units() -> None:
    """32 groups of one channel each and 8 behind a joint: 8 whole groups of 4, not 4 positions of all."""
    built = net(
        "b = conv(a, wb[32,8,1,1])\nc = conv(b, wc[32,4,3,3]) pad=(1,1,1,1) groups=8\nz = conv(c, wz[6,32,1,1])", 6
    )
    coupling, groups = prunable(built)
    assert coupling.ways["c"] == "groups"
    assert [dict(g.layers) for g in groups] == [{"a": 1}, {"b": 4, "c": 4}, {"z": 1}]
    assert attrs_of(apply(coupling, groups[1].units[:3]).makers["c"])["groups"] == 5


def test_a_few_large_groups_lose_equally_many_each() -> None:
    built = net(
        "b = conv(a, wb[16,8,1,1])\nc = conv(b, wc[32,8,3,3]) pad=(1,1,1,1) groups=2\nz = conv(c, wz[6,32,1,1])", 6
    )
    coupling, groups = prunable(built)
    assert coupling.ways["c"] == "positions"
    assert [(len(g), dict(g.layers)) for g in groups] == [
        (8, {"a": 1}), (8, {"b": 2}), (16, {"c": 2}), (6, {"z": 1}),
    ]  # fmt: skip
    pruned = apply(coupling, [*groups[1].units[:3], *groups[2].units[:10]])
    assert attrs_of(pruned.makers["c"])["groups"] == 2
    assert pruned.shape("wc") == (12, 5, 3, 3)


def test_groups_whose_channels_are_spread_unevenly_are_evened_out() -> None:
    """Six channels come into three groups behind two others, so that no position of the one is one of the other."""
    body = """
    b = conv(a, wb[6,8,1,1])
    c = conv(b, wc[6,2,1,1]) groups=3
    d = conv(a, wd[3,8,1,1])
    e = concat(d, c) axis=1
    z = conv(e, wz[9,3,1,1]) groups=3
    """
    pruned = assert_pruned_is_masked(net(body, 9))
    assert pruned.shape("c")[1] % 3 == 0
    assert pruned.shape("e")[1] % 3 == 0


def test_shufflenet_v1_whose_groups_do_not_divide_by_its_groups() -> None:
    """20 channels of each of 3 groups are shuffled into 3 groups: every sixth channel straddles two, the others go."""
    built = load_source("shufflenet_v1", weights="random", input_shape=(3, 64, 64)).to_graph()
    coupling, groups = prunable(built)
    sizes = {g.name: (len(g), dict(g.layers)) for g in groups}
    assert sizes["features.1.branch_main_1.0"] == (6, {"features.1.branch_main_1.0": 9})
    assert sum(len(g) for g in groups) > 250
    removed = [units for g in groups if g.name.startswith("features.1.b") for units in g.units[:5]]
    pruned = apply(coupling, removed)
    assert pruned.shape("features.1.branch_main_1.0")[1] < 60
    assert all(attrs_of(op)["groups"] == 3 for op in pruned.ops if op.kind == "channel_shuffle")


def test_a_heterogeneous_convolution_keeps_its_p() -> None:
    """Whole residue classes go: one channel of each of the P groups, whatever the joints around it."""
    source = load_source(
        "resnet20", weights="random", input_shape=(3, 32, 32), options={"conv": "hetconv", "p": 4, "se": 8}
    )
    whole = source.to_graph()
    pruned = assert_pruned_is_masked(whole)
    kernels = [op for op in pruned.ops if op.kind == "conv" and attrs_of(op)["groups"] == 4]
    assert len(kernels) == sum(op.kind == "conv" and attrs_of(op)["groups"] == 4 for op in whole.ops) > 0
    for op in kernels:
        assert pruned.shape(op.inputs[0])[1] % 4 == 0
        assert pruned.shape(op.output)[1] % 4 == 0
    assert min(pruned.shape(op.output)[1] for op in kernels) < min(whole.shape(op.output)[1] for op in kernels)


def test_what_runs_over_channels_stays_and_says_why() -> None:
    with pytest.raises(InputError) as caught:
        prunable(graph("a = conv(x, wa[8,3,3,3])\nb = lrn(a) size=5 alpha=0.0001 beta=0.75 k=1.0"))
    assert str(caught.value) == (
        "InputError: the net has nothing to prune\n  at       g\n"
        "  got      b: its sums run over neighbouring channels\n           b: the net's answer"
    )


def test_a_net_of_one_layer_has_nothing_to_prune() -> None:
    with pytest.raises(InputError, match="the net has nothing to prune"):
        prunable(graph("f = flatten(x)\ny = linear(f, w[10,192])"))


def test_a_layer_that_is_kept_keeps_all_that_hangs_on_it() -> None:
    built = net("b = conv(a, wb[8,8,1,1])\nc = add(a, b)\nz = conv(c, wz[6,8,1,1])", 6)
    coupling, groups = prunable(built)
    assert [g.name for g in without(groups, coupling, ["b"])] == ["z"]
    assert [g.name for g in without(groups, coupling, ["[xz]"])] == ["a"]
    with pytest.raises(UsageError) as caught:
        without(groups, coupling, ["zz"])
    assert str(caught.value) == (
        "UsageError: `zz` matches no layer that could be pruned\n  at       --keep\n"
        "  expected a name or pattern such as z\n  do       see the names with --show-groups"
    )
    with pytest.raises(InputError, match="nothing is left to prune"):
        without(groups, coupling, ["*"])


def test_every_layer_keeps_a_channel_of_its_best() -> None:
    coupling, groups = prunable(net("b = conv(a, wb[4,8,1,1])\nz = concat(a, b) axis=1", 12))
    scores = np.arange(coupling.units, dtype=float)
    needed = alive(coupling, scores)
    # `a` is read on its own, and of what is joined one channel is enough: the best, of `b`.
    assert [int(needed[g.units].sum()) for g in groups] == [1, 1]
    assert needed[groups[0].units[np.argmax(scores[groups[0].units])]]


def test_a_part_of_a_concatenation_may_go_whole() -> None:
    coupling, groups = prunable(net("b = conv(a, wb[4,8,1,1])\nc = concat(a, b) axis=1\nz = conv(c, wz[6,12,1,1])", 6))
    pruned = apply(coupling, groups[1].units)
    assert "b" not in pruned.makers
    assert pruned.shape("c")[1] == 8
    with pytest.raises(ValueError, match="nothing is left of its input"):
        apply(coupling, groups[0].units)


def test_what_is_pruned_twice_is_coupled_as_before() -> None:
    built = load_source(
        "resnet20", weights="random", input_shape=(3, 32, 32), options={"conv": "hetconv", "p": 4}
    ).to_graph()
    coupling, groups = prunable(built)
    first = np.concatenate([g.units[::2][:-1] for g in groups])
    pruned = apply(coupling, first)
    again = restricted(coupling, first, pruned)
    assert {g.name: len(g) for g in groups_of(again)} == {g.name: len(g) - len(g.units[::2][:-1]) for g in groups}
    second = np.concatenate([g.units[:1] for g in groups_of(again) if len(g) > 2])
    twice = apply(again, second)
    kernels = [op for op in twice.ops if op.kind == "conv" and attrs_of(op)["groups"] == 4]
    assert kernels
    assert all(twice.shape(op.output)[1] % 4 == 0 for op in kernels)
    assert constants(twice) < constants(pruned)


def test_counts_are_full_tiles() -> None:
    group = prunable(net("b = conv(a, wb[40,8,1,1])\nz = conv(b, wz[6,40,1,1])", 6))[1][1]
    assert step_of(group, 16, auto=False) == 16
    assert kept_counts(group, 16, 8) == [40, 32, 16]
    assert kept_counts(group, 16, 20) == [40, 32]
    # A layer of less than two tiles is measured in halves of it, down to 4.
    assert step_of(group, 64, auto=True) == 16
    pairs = prunable(net("b = conv(a, wb[16,8,1,1])\nz = conv(b, wz[16,8,3,3]) groups=2", 16))[1]
    assert [(dict(g.layers), step_of(g, 8, auto=False)) for g in pairs[1:]] == [({"b": 2}, 4), ({"z": 2}, 4)]


@settings(max_examples=60, deadline=None)
@given(
    graphs(kinds=("conv",) * 8 + ("depthwise", "add", "concat") * 2 + FEATURE_KINDS, max_ops=10), st.integers(0, 2**16)
)
def test_pruned_is_masked_for_any_graph(built: Graph, seed: int) -> None:
    try:
        prunable(built)
    except InputError:
        assume(False)
    assert_pruned_is_masked(built, seed=seed)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**16))
def test_balance_makes_every_set_even_or_locks_it(groups: int, channels: int, names: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, names + 1, (groups, channels))
    root = smallest_members(names + 1, balanced(labels, locked=0))
    for name in set(root.tolist()) - {int(root[0])}:
        counts = (root[labels] == name).sum(1)
        assert len(set(counts.tolist())) == 1


def test_labels_that_occur_once_come_together_by_position() -> None:
    labels = np.arange(1, 13).reshape(3, 4)
    root = smallest_members(13, balanced(labels, locked=0))
    assert root[labels].tolist() == [[1, 2, 3, 4]] * 3


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_union_find_is_that_of_a_walk(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(a % count, b % count) for a, b in pairs]
    wanted = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    edges = [(np.array([a]), np.array([b])) for a, b in pairs]
    assert smallest_members(count, edges).tolist() == wanted


def test_groups_of_nets_with_a_classifier_behind_a_flatten() -> None:
    """A channel of the last map is a block of columns: 4 x 4 pixels of each."""
    layers = "f = flatten(a)\nb = linear(f, wb[12,128], bb[12])\ny = linear(b, wy[5,12])"
    built = graph("a = conv(x, wa[8,3,3,3]) pad=(1,1,1,1) stride=(2,2)\n" + layers)
    coupling, groups = prunable(built)
    assert [(g.name, len(g)) for g in groups] == [("a", 8), ("b", 12)]
    pruned = apply(coupling, groups[0].units[:3])
    assert pruned.shape("wb") == (12, 80)
    assert Counter(op.kind for op in pruned.ops) == Counter(op.kind for op in built.ops)
    assert_pruned_is_masked(built)
