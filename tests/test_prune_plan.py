"""What filters are worth, which go for a goal, and single weights: against formulas written out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_prune_groups import graph, net
from train_cases import digits, digits_graph

from edgecnn.errors import InputError, UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.ir.ops import macs_of
from edgecnn.prune.apply import apply
from edgecnn.prune.cost import COSTS, ledger_of
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, alive, kept_counts, prunable
from edgecnn.prune.plan import Plan, plan
from edgecnn.prune.score import SCORES, sensitivities, unit_scores
from edgecnn.prune.sparse import magnitude_masks, masked, masking, sparsity_of
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import tune_graph

WIDE = """b = conv(a, wb[24,8,3,3]) pad=(1,1,1,1)
c = conv(b, wc[24,1,3,3]) pad=(1,1,1,1) groups=24
z = conv(c, wz[16,24,1,1])"""


def wide() -> Graph:
    return net(WIDE, 16)


def planned(
    what: str, ratio: float, *, scope: str = "global", score: str = "l1", step: int = 1, minimum: int = 1
) -> tuple[Coupling, tuple[Group, ...], Plan, float]:
    coupling, groups = prunable(wide())
    ledger = ledger_of(coupling, COSTS[what])
    whole = ledger.total()
    scores = unit_scores(coupling, score)
    counts = {g.name: kept_counts(g, step, minimum) for g in groups}
    found = plan(coupling, groups, scores, ledger, goal=ratio * whole, counts=counts, scope=scope, what=what)  # type: ignore[arg-type]
    return coupling, groups, found, whole


def macs(of: Graph) -> int:
    return sum(macs_of(of, op) for op in of.ops)


def params(of: Graph) -> int:
    return sum(v.data.size for v in of.values.values() if v.data is not None)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(("what", "count"), [("macs", macs), ("params", params)])
def test_the_plan_costs_what_the_pruned_net_costs_and_meets_the_goal(what, count, scope) -> None:
    for ratio in (0.8, 0.5, 0.2):
        coupling, _, found, whole = planned(what, ratio, scope=scope)
        pruned = apply(coupling, found.removed)
        assert whole == count(wide())
        assert found.cost == count(pruned) <= ratio * whole


def test_nothing_could_come_back_within_the_goal() -> None:
    coupling, groups, found, whole = planned("macs", 0.5)
    scores, protected = unit_scores(coupling, "l1"), alive(coupling, unit_scores(coupling, "l1"))
    for group in groups:
        gone = [u for u in group.units if u in set(found.removed.tolist())]
        if gone:
            best = max(gone, key=lambda u: (protected[u], scores[u]))
            back = [u for u in found.removed.tolist() if u != best]
            assert macs(apply(coupling, back)) > 0.5 * whole


def test_the_least_worthy_of_each_group_go() -> None:
    coupling, groups, found, _ = planned("macs", 0.5)
    scores, gone = unit_scores(coupling, "l1"), set(found.removed.tolist())
    for group in groups:
        left = [scores[u] for u in group.units if u not in gone]
        assert len(left) == found.kept[group.name] >= 1
        assert all(scores[u] <= min(left) for u in group.units if u in gone)


def test_layers_alike_lose_the_same_share() -> None:
    _, groups, found, _ = planned("macs", 0.5, scope="layer", step=2)
    shares = [found.kept[g.name] / len(g) for g in groups]
    assert max(shares) - min(shares) <= 2 / min(len(g) for g in groups)


class PerSaving:
    """A loss in proportion to what is saved: `price` for each share of the whole cost."""

    def __init__(self, group: Group, savings: dict[int, float], price: float) -> None:
        self.group, self.savings, self.price = group, savings, price

    def at(self, kept: int) -> float:
        return self.price * self.savings.get(kept, 0.0)


def test_what_is_saved_beyond_the_goal_is_worth_nothing() -> None:
    """The group that saves most loses least for each share saved, but a sixth of it would do, and another has that."""
    coupling, groups = prunable(wide())
    scores = unit_scores(coupling, "l1")
    ledger = ledger_of(coupling, COSTS["macs"])
    whole = ledger.total()
    counts = {g.name: [len(g), len(g) // 2] for g in groups}
    half = {g.name: ledger.saving(g.units[: len(g) // 2]) / whole for g in groups}
    large, small = max(half, key=half.__getitem__), min(half, key=half.__getitem__)
    assert half[large] > 2 * half[small]
    losses = {g.name: PerSaving(g, {len(g) // 2: half[g.name]}, 1.0 if g.name == large else 1.5) for g in groups}

    def kept(goal: float) -> dict[str, int]:
        fresh = ledger_of(coupling, COSTS["macs"])
        return dict(plan(coupling, groups, scores, fresh, goal=goal * whole, counts=counts, losses=losses).kept)

    whole_counts = {g.name: len(g) for g in groups}
    assert kept(1 - half[small]) == whole_counts | {small: counts[small][1]}
    assert kept(1 - half[large]) == whole_counts | {large: counts[large][1]}


def test_counts_are_multiples_and_not_below_the_minimum() -> None:
    _, groups, found, _ = planned("macs", 0.5, step=4, minimum=8)
    assert all(found.kept[g.name] % 4 == 0 and found.kept[g.name] >= 8 for g in groups)


def test_a_goal_out_of_reach_says_what_is_in_reach() -> None:
    with pytest.raises(UsageError) as caught:
        planned("params", 0.01, minimum=8)
    head, expected, got, _ = str(caught.value).splitlines()
    assert head == "UsageError: the net cannot be pruned to 0.010 of its params"
    assert got == "  got      0.010"
    least = float(expected.split()[4])
    assert expected == f"  expected a ratio from {least:.3f} to 1"
    _, groups, found, _ = planned("params", least, minimum=8)
    assert found.kept == {g.name: 8 for g in groups}
    with pytest.raises(UsageError):
        planned("params", least - 0.001, minimum=8)


def test_scores_of_weights_by_their_formulas() -> None:
    coupling, groups = prunable(wide())
    of = {g.name: g.units for g in groups}
    weight = coupling.graph.const("wz").reshape(16, -1).astype(np.float64)
    distances = np.array([[np.linalg.norm(a - b) for b in weight] for a in weight]).sum(1)
    for name, wanted in (
        ("l1", np.abs(weight).sum(1)),
        ("l2", np.linalg.norm(weight, axis=1)),
        ("fpgm", distances),
    ):
        found = unit_scores(coupling, name)[of["z"]]
        np.testing.assert_allclose(
            found, wanted / wanted.mean(), rtol=1e-6
        )  # distances from squares lose half the digits
    # The depthwise filters belong to the units of what they filter: the mean of the two layers' scores.
    first, second = (np.abs(coupling.graph.const(w)).reshape(24, -1).sum(1).astype(np.float64) for w in ("wb", "wc"))
    wanted = (first / first.mean() + second / second.mean()) / 2
    np.testing.assert_allclose(unit_scores(coupling, "l1")[of["b"]], wanted, rtol=1e-6)


def test_taylor_is_what_zeroing_a_filter_changes_to_first_order() -> None:
    """dL/dy * y summed over a channel, by autograd at the channel itself; the score takes it at the batch norm."""
    coupling, groups = prunable(digits_graph())
    of = coupling.graph
    x, y = next(digits().batches(64, split="calibration"))
    found = sensitivities(of, [(x, y)])
    module = GraphModule(of).eval()
    kept = {}

    def watch(self, op, tensors):  # the output of each batch norm, with its gradient
        made = GraphModule._apply_op(self, op, tensors)
        if op.kind == "batch_norm":
            made.retain_grad()
            kept[op.inputs[0]] = made
        return made

    module._apply_op = watch.__get__(module)
    F.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    for layer, made in kept.items():
        wanted = (made * made.grad).sum((0, 2, 3)).double().detach().numpy() ** 2
        # Sums of 4096 products in float32: 12 levels of 2^-24 each, of terms up to 50 times their sum; then squared.
        np.testing.assert_allclose(found[layer], wanted, rtol=1e-3, atol=1e-4 * wanted.max())
    total = unit_scores(coupling, "taylor", sensitivities=found)
    c, d = (np.sqrt(found[layer]) / np.sqrt(found[layer]).mean() for layer in ("c", "d"))
    np.testing.assert_allclose(total[groups[0].units], (c + d) / 2)


def test_scores_that_cannot_be() -> None:
    coupling, _ = prunable(wide())
    with pytest.raises(UsageError, match="the net has no batch norm to score by"):
        unit_scores(coupling, "bn")
    with pytest.raises(UsageError, match="the score `taylor` needs images"):
        unit_scores(coupling, "taylor")
    with pytest.raises(UsageError, match="`l11`"):
        unit_scores(coupling, "l11")
    with pytest.raises(InputError, match="no images to score filters with"):
        sensitivities(coupling.graph, [])


def test_chance_depends_on_the_seed_alone() -> None:
    coupling, _ = prunable(wide())
    one, same, other = (unit_scores(coupling, "random", seed=s) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert sorted(SCORES) == ["bn", "fpgm", "l1", "l2", "random", "taylor"]


# --- single weights ---


def test_the_least_weights_of_each_layer_go() -> None:
    built = wide()
    masks = magnitude_masks(built, 0.75, scope="layer")
    for name, mask in masks.items():
        size = np.abs(built.const(name))
        assert mask.sum() == mask.size - round(0.75 * mask.size)
        assert size[mask].min() >= size[~mask].max()


def test_over_all_layers_by_their_share_of_what_is_not_smaller() -> None:
    built = wide()
    masks = magnitude_masks(built, 0.6)
    scores, chosen = [], []
    for name, mask in masks.items():
        square = built.const(name).astype(np.float64).reshape(-1) ** 2
        scores += [s / square[square >= s].sum() for s in square]
        chosen += mask.reshape(-1).tolist()
    order = np.argsort(scores, kind="stable")
    assert not np.array(chosen)[order[: round(0.6 * len(scores))]].any()
    assert np.array(chosen).sum() == len(scores) - round(0.6 * len(scores))
    assert sparsity_of(masked(built, masks)) == pytest.approx(0.6, abs=0.5 / len(scores))


def test_weights_that_are_kept_count_and_stay() -> None:
    built = graph("f = flatten(x)\na = linear(f, wa[16,192])\ny = linear(a, wy[10,16])")
    masks = magnitude_masks(built, 0.9, kept={"wy"})
    assert masks["wy"].all()
    assert (~masks["wa"]).sum() == round(0.9 * (16 * 192 + 160))
    with pytest.raises(InputError) as caught:
        magnitude_masks(built, 0.99, kept={"wy"})
    assert "expected a share of at most 0.950" in str(caught.value)


def test_zeros_survive_fine_tuning_and_the_rest_learns() -> None:
    built = digits_graph()
    masks = magnitude_masks(built, 0.7)
    settings = TrainSettings(epochs=2, lr=0.05, warmup_epochs=0.5, ema=0.9, optimizer="adamw")
    tuned = tune_graph(masked(built, masks), digits(), settings=settings, make_module=masking(masks))
    for name, mask in masks.items():
        assert not tuned.graph.const(name)[~mask].any()
        assert (tuned.graph.const(name)[mask] != built.const(name)[mask]).mean() > 0.9
    assert sparsity_of(tuned.graph) == pytest.approx(0.7, abs=0.01)
    assert tuned.accuracy.top1 > 60  # chance is 10 %
    # Without the mask they come back: the test above can fail.
    free = tune_graph(masked(built, masks), digits(), settings=settings)
    assert sparsity_of(free.graph) < 0.1
