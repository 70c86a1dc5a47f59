"""What a group or a branch loses, measured, and the cut of least loss: on nets whose parts are known to be worth it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prune_laws import constants
from test_prune_groups import graph, net
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.reference import run
from edgecnn.ir.text import parse
from edgecnn.pipeline.prune import prune
from edgecnn.pipeline.prune_line import Line
from edgecnn.pipeline.pruned import Pruned, PruneOptions, Timing
from edgecnn.pipeline.source import load_source
from edgecnn.prune.branches import branches_of, removable, without_branches
from edgecnn.prune.cost import COSTS, ledger_of
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.cuts import Cutter
from edgecnn.prune.groups import kept_counts, prunable
from edgecnn.prune.latency import LatencyTable
from edgecnn.prune.loss import Divergence, MeasuredLoss, ScoreLoss, measured_losses, score_losses
from edgecnn.prune.plan import plan
from edgecnn.prune.score import unit_scores
from edgecnn.runtime.cpu import local_cpu

TWO = """b = conv(a, wb[16,8,3,3]) pad=(1,1,1,1)
c = conv(b, wc[8,16,3,3]) pad=(1,1,1,1)
d = conv(a, wd[16,8,3,3]) pad=(1,1,1,1)
e = conv(d, we[8,16,3,3]) pad=(1,1,1,1)
z = add(c, e)"""
RESIDUAL = """r = clip(a) lo=0.0 hi=None
b = conv(r, wb[16,8,3,3], bb[16]) pad=(1,1,1,1)
c = conv(b, wc[8,16,3,3], bc[8]) pad=(1,1,1,1)
s = add(r, c)
d = conv(s, wd[16,8,3,3], bd[16]) pad=(1,1,1,1)
e = conv(d, we[8,16,3,3], be[8]) pad=(1,1,1,1)
z = add(e, s)"""


def changed(of: Graph, **factors: float) -> Graph:
    """The graph with some constants multiplied."""
    values = [replace(v, data=v.data * factors[n]) if n in factors else v for n, v in of.values.items()]  # type: ignore[operator]
    return Graph.build(of.name, of.ops, values, of.inputs, of.outputs)


def images(of: Graph, n: int = 16) -> Array:
    return np.random.default_rng(0).normal(0, 1, (n, *of.shape(of.inputs[0])[1:])).astype(np.float32)


def counts_of(of: Graph, step: int = 4) -> dict[str, list[int]]:
    return {g.name: kept_counts(g, step, 1) for g in prunable(of)[1]}


def test_divergence_is_that_of_the_softmax_and_zero_of_the_net_itself() -> None:
    one, other = net(TWO, 8), changed(net(TWO, 8), we=0.5)
    x = images(one)
    found = Divergence(one, x)
    assert found.of(one) == 0
    p, q = (F.log_softmax(torch.from_numpy(run(g, x)[0]).double(), 1) for g in (one, other))
    assert found.of(other) == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="batchmean")), rel=1e-4)


def test_divergence_does_not_see_what_batch_norm_takes_back() -> None:
    """Twice the weights before a batch norm is the same net once its statistics are measured again."""
    of = prunable(digits_graph())[0].graph
    norm = next(op for op in of.ops if op.kind == "batch_norm")
    other = changed(of, **{of.makers[norm.inputs[0]].inputs[1]: 2.0})
    x = next(digits().batches(64, split="calibration"))[0]
    assert Divergence(of, x).of(other) < 1e-3
    assert np.abs(run(of, x)[0] - run(other, x)[0]).max() > 0.1


def test_what_nobody_reads_loses_nothing_whatever_its_scores_say() -> None:
    """The filters of `b` are larger than those of `d`, but almost nothing is made of them."""
    of = changed(net(TWO, 8), wb=100.0, wc=1e-6)
    coupling, groups = prunable(of)
    scores, counts = unit_scores(coupling, "l1"), counts_of(of)
    losses = measured_losses(coupling, groups, scores, counts, Divergence(of, images(of)))
    for kept in (12, 8, 4):
        assert losses["b"].at(kept) < 1e-3 * losses["d"].at(kept)
    assert losses["b"].at(16) == losses["d"].at(16) == 0
    assert set(losses["b"].points) == {12, 8, 4}

    def kept(measured: bool) -> dict[str, int]:
        ledger = ledger_of(coupling, COSTS["macs"])
        goal = 0.7 * ledger.total()
        return dict(
            plan(coupling, groups, scores, ledger, goal=goal, counts=counts, losses=losses if measured else None).kept
        )

    assert kept(True)["d"] == 16
    assert kept(True)["b"] < 16
    assert kept(False)["d"] < 16


def test_a_measured_loss_never_falls_and_goes_through_its_points() -> None:
    coupling, groups = prunable(net(TWO, 8))
    scores = unit_scores(coupling, "l1")
    group = next(g for g in groups if g.name == "b")
    shape = ScoreLoss(group, np.sort(scores[group.units]))
    loss = MeasuredLoss(shape, {12: 0.2, 8: 0.1, 4: 0.7})  # the second is noise
    assert [loss.at(n) for n in (16, 12, 8, 4)] == [0, 0.2, 0.2, pytest.approx(0.7)]
    found = [loss.at(n) for n in range(16, 0, -1)]
    assert found == sorted(found)
    assert found[-1] > 0.7  # beyond the last point it goes on rising


def test_branches_are_found_and_what_is_no_branch_is_not() -> None:
    assert [(b.sum, b.around, b.ops) for b in branches_of(net(RESIDUAL, 8))] == [
        ("s", "r", ("b", "c")),
        ("z", "s", ("d", "e")),
    ]
    assert branches_of(net(TWO, 8)) == ()  # two branches of `a`, which is not itself in the sum
    read_elsewhere = RESIDUAL.replace("d = conv(s", "q = clip(b) lo=0.0 hi=None\nd = conv(s") + "\nu = add(z, q)"
    assert [b.sum for b in branches_of(graph("a = conv(x, wa[16,3,3,3])\n" + _sixteen(read_elsewhere)))] == ["z"]
    answer = graph("a = conv(x, wa[8,3,3,3])\nb = conv(a, wb[8,8,1,1])\nz = add(a, b)")
    assert branches_of(answer) == ()  # the net's answer keeps its name


def _sixteen(body: str) -> str:
    return (
        body.replace("[8,", "[16,").replace(",8,3,3]", ",16,3,3]").replace("bc[8]", "bc[16]").replace("be[8]", "be[16]")
    )


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "seresnet50"])
def test_a_net_without_branches_is_one_whose_branches_are_zero(name: str) -> None:
    of = prunable(load_source(name, weights="random", input_shape=(3, 32, 32)).to_graph())[0].graph
    found = branches_of(of)
    assert len(found) >= 3
    gone = found[::2] + found[1:2]  # neighbours, too
    values = dict(of.values)
    for branch in gone:
        last = of.makers[next(name for name in of.makers[branch.sum].inputs if name != branch.around)]
        while last.kind != "batch_norm":  # squeeze-excite multiplies what it makes
            last = of.makers[last.inputs[0]]
        for constant in last.inputs[1:3]:  # scale and shift of its batch norm
            values[constant] = replace(values[constant], data=np.zeros_like(of.const(constant)))
    zeroed = Graph.build(of.name, of.ops, values.values(), of.inputs, of.outputs)
    x = images(of, 2)
    left = without_branches(of, gone)
    np.testing.assert_array_equal(run(left, x)[0], run(zeroed, x)[0])
    assert {b.sum for b in branches_of(left)} == {b.sum for b in found} - {b.sum for b in gone}
    assert constants(left) < constants(of)


def cutter(of: Graph, coupling: Coupling, *, blocks: bool = True) -> Cutter:
    groups = prunable(of)[1]
    scores, counts = unit_scores(coupling, "l1"), counts_of(of)
    divergence = Divergence(of, images(of))
    return Cutter(
        coupling,
        frozenset(g.name for g in groups),
        scores,
        counts,
        lambda now: ledger_of(now, COSTS["macs"]),
        losses=measured_losses(coupling, groups, scores, counts, divergence),
        branches=removable(coupling, groups) if blocks else (),
        branch_loss=divergence.of,
    )


def test_a_branch_that_adds_nothing_goes_first_and_no_channel_with_it() -> None:
    of = changed(net(RESIDUAL, 8), wc=1e-6, bc=1e-6)
    coupling, _ = prunable(of)
    whole = ledger_of(coupling, COSTS["macs"]).total()
    cut = cutter(of, coupling).best(0.6 * whole)
    assert [b.sum for b in cut.branches] == ["s"]
    assert len(cut.plan.removed) == 0
    assert "b" not in cut.graph.makers
    assert ledger_of(cut.left(cut.graph), COSTS["macs"]).total() == cut.plan.cost <= 0.6 * whole


def test_a_cut_loses_no_more_than_one_of_channels_alone() -> None:
    of = net(RESIDUAL, 8)
    coupling, _ = prunable(of)
    whole = ledger_of(coupling, COSTS["macs"]).total()
    for ratio in (0.8, 0.6, 0.4):
        found = cutter(of, coupling).best(ratio * whole)
        alone = cutter(of, coupling, blocks=False).best(ratio * whole)
        branch_loss = Divergence(of, images(of)).of(without_branches(coupling.graph, found.branches))
        assert alone.branches == ()
        assert branch_loss + found.plan.lost <= alone.plan.lost + 1e-12
        assert found.plan.cost <= ratio * whole


def test_channels_and_branches_go_together_and_pruning_goes_on() -> None:
    of = changed(net(RESIDUAL, 8), wc=1e-6, bc=1e-6)
    coupling, _ = prunable(of)
    whole = ledger_of(coupling, COSTS["macs"]).total()
    cut = cutter(of, coupling).best(0.4 * whole)
    assert [b.sum for b in cut.branches] == ["s"]
    assert len(cut.plan.removed) > 0
    now = cut.left(cut.graph)
    again = replace(cutter(of, coupling), coupling=now, scores=unit_scores(now, "l1"), losses=None, branches=())
    smaller = again.best(0.3 * whole)
    assert ledger_of(smaller.left(smaller.graph), COSTS["macs"]).total() <= 0.3 * whole


def test_a_branch_with_a_layer_that_is_kept_stays() -> None:
    of = net(RESIDUAL, 8)
    coupling, groups = prunable(of)
    assert [b.sum for b in removable(coupling, groups)] == ["s", "z"]
    assert [b.sum for b in removable(coupling, [g for g in groups if g.name != "b"])] == ["z"]


DIGITS = """graph residual(x: [N,1,8,8]) {
  a = conv(x, wa[16,1,3,3], ba[16]) pad=(1,1,1,1)
  r = clip(a) lo=0.0 hi=None
  b = conv(r, wb[16,16,3,3], bb[16]) pad=(1,1,1,1)
  c = conv(b, wc[16,16,3,3], bc[16]) pad=(1,1,1,1)
  s = add(r, c)
  d = conv(s, wd[16,16,3,3], bd[16]) pad=(1,1,1,1)
  e = conv(d, we[16,16,3,3], be[16]) pad=(1,1,1,1)
  z = add(s, e)
  p = global_pool(z)
  f = flatten(p)
  y = linear(f, wl[10,16], bl[10])
  return y
}"""


@pytest.mark.parametrize("what", ["latency", "macs"])
def test_a_latency_goal_takes_branches_others_when_asked(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device where only the number of ops counts, thinner layers save nothing; what adds nothing goes."""
    whole = changed(parse(DIGITS, seed=0), we=1e-6, be=1e-6)
    save_digits_bundle(tmp_path / "net.safetensors", whole)

    def prune_to(**options: Any) -> Pruned:
        how = PruneOptions(what, 0.7, round_to=4, min_channels=4, cpu=local_cpu(), time_it=False, **options)  # type: ignore[arg-type]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        by_ops = LatencyTable("by ops", lambda graphs: {key: 100.0 + len(g.ops) for key, g in graphs.items()})
        return prune(str(tmp_path / "net.safetensors"), how=how, data="digits", output=path, table=by_ops)

    def ratio(line: Line, pruned: Graph, *, min_seconds: float) -> Timing:
        share = (len(pruned.ops) - 1) / (len(whole.ops) - 1)
        return Timing((1.0, share), (1.0, share), (share, share))

    monkeypatch.setattr("edgecnn.pipeline.prune_line.Line._compare", ratio)
    found = prune_to() if what == "latency" else prune_to(blocks=True)
    assert found.branches == ("z",)
    assert found.to_json()["branches"] == ["z"]
    assert next(row.after for row in found.groups if row.name == "d") == 0
    graph, provenance = bundle.load(found.path)  # type: ignore[arg-type]
    assert {"d", "e", "z"}.isdisjoint(graph.makers)
    assert json.loads(provenance["prune"])["branches"] == ["z"]
    assert found.accuracy["pruned"].top1 == pytest.approx(found.accuracy["before"].top1, abs=0.3)
    if what == "latency":
        with pytest.raises(UsageError, match=r"cannot be pruned to 0\.700 of its latency"):
            prune_to(blocks=False)
    else:
        assert prune_to().branches == ()


def test_a_goal_out_of_reach_of_channels_is_refused() -> None:
    of = net(RESIDUAL, 8)
    coupling, _ = prunable(of)
    with pytest.raises(UsageError, match="cannot be pruned to"):
        cutter(of, coupling).best(1.0)


def test_losses_by_scores_are_minus_log_of_what_is_left() -> None:
    coupling, groups = prunable(net(TWO, 8))
    scores = unit_scores(coupling, "l1")
    order = {g.name: g.units[np.argsort(scores[g.units])] for g in groups}
    for group, loss in zip(groups, score_losses(groups, order, scores).values(), strict=True):
        kept = scores[order[group.name]][-3:].sum() / scores[group.units].sum()
        assert loss.at(3) == pytest.approx(-len(group.layers) * np.log(kept))
