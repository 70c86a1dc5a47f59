"""Which units go, so that a net costs so much of what it costs now and loses as little as possible.

Globally, the next units to go are those of the group that loses least per cost saved; or every group keeps the same
share, to within one step. What a group loses is for `prune.loss` to say. Counts stay full tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array
from edgecnn.prune.cost import Ledger
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, alive, allowed, least_first, removed_units
from edgecnn.prune.loss import Loss, score_losses

Scope = Literal["global", "layer"]
NOTHING_SAVED = 1e300
LOOKAHEAD = 4
"""Counts beyond the next one that are weighed too: a single tile may save nothing where two do."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What goes.

    Args:
        kept: the units that each group keeps.
        removed: the units that go.
        cost: of what is left, in the ledger's unit.
        lost: the estimate of what is lost; without a unit.
    """

    kept: Mapping[str, int]
    removed: Array
    cost: float
    lost: float


def plan(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Array,
    ledger: Ledger,
    *,
    goal: float,
    counts: Mapping[str, Sequence[int]],
    scope: Scope = "global",
    what: str = "cost",
    whole: float | None = None,
    losses: Mapping[str, Loss] | None = None,
) -> Plan:
    """The plan that reaches `goal` with the least loss; the ledger is left as it ends.

    Args:
        coupling: whose units.
        groups: those that may shrink.
        scores: of `unit_scores`.
        ledger: what counts; nothing removed yet.
        goal: the most that the rest may cost, in the ledger's unit.
        counts: for each group the numbers of units it may keep, falling, the first all of them.
        scope: over all groups, or each to the same share.
        what: the cost's name, for messages.
        whole: what the ratios in messages refer to; None: the ledger's total now.
        losses: of each group; None: by the scores.

    Raises:
        UsageError: the goal cannot be reached; the message has the reachable range.
    """
    protected = alive(coupling, scores)
    order = least_first(groups, scores, protected)
    losses = losses or score_losses(groups, order, scores)
    legal = {g.name: allowed(g, counts[g.name], protected) for g in groups}
    _check_reachable(ledger, groups, order, legal, goal, what, ledger.total() if whole is None else whole)
    if scope == "global":
        most = {g.name: len(g) for g in groups}
        found = _greedy(ledger, groups, order, losses, legal, goal)
    else:
        found = _even(ledger, groups, order, legal, goal)
        most = {name: min((n for n in legal[name] if n > now), default=now) for name, now in found.items()}
    kept = _give_back(ledger, order, losses, legal, goal, found, most)
    removed = removed_units(kept, order, groups)
    return Plan(kept, removed, ledger.total(), sum(losses[g.name].at(kept[g.name]) for g in groups))


def _check_reachable(
    ledger: Ledger,
    groups: Sequence[Group],
    order: Mapping[str, Array],
    legal: Mapping[str, Sequence[int]],
    goal: float,
    what: str,
    whole: float,
) -> None:
    reads, makes = ledger.reads.copy(), ledger.makes.copy()
    ledger.remove(removed_units({g.name: legal[g.name][-1] for g in groups}, order, groups))
    least = ledger.total()
    ledger.reads, ledger.makes = reads, makes
    if goal < least:
        raise UsageError(
            f"the net cannot be pruned to {goal / whole:.3f} of its {what}",
            expected=f"a ratio from {np.ceil(1000 * least / whole) / 1000:.3f} to 1",
            got=f"{goal / whole:.3f}",
            do="allow smaller counts (--round-to, --min-channels), or fewer layers in --keep",
        )


def _greedy(
    ledger: Ledger,
    groups: Sequence[Group],
    order: Mapping[str, Array],
    losses: Mapping[str, Loss],
    legal: Mapping[str, Sequence[int]],
    goal: float,
) -> dict[str, int]:
    kept = {g.name: len(g) for g in groups}
    touched = {g.name: ledger.touched(g.units) for g in groups}
    steps: dict[str, list[_Step]] = {}
    stale = set(kept)
    cost = ledger.total()

    while cost > goal:
        for name in stale:
            steps[name] = _next_steps(ledger, losses[name], legal[name], kept[name], order[name])
        need = cost - goal
        best = {name: min((step.price(need), step.then) for step in found) for name, found in steps.items() if found}
        name = min(best, key=lambda g: best[g][0])
        then = best[name][1]
        size = len(order[name])
        changed = ledger.remove(order[name][size - kept[name] : size - then])
        kept[name] = then
        cost = ledger.total()
        stale = {g for g, places in touched.items() if places & changed}
    return kept


def _give_back(
    ledger: Ledger,
    order: Mapping[str, Array],
    losses: Mapping[str, Loss],
    legal: Mapping[str, Sequence[int]],
    goal: float,
    kept: dict[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """`kept` with what may come back within the goal, the dearest loss first: the last steps may have gone too far.

    No group gets back more than to `most`.
    """
    kept, open_ = dict(kept), {name for name, now in kept.items() if now < most[name]}
    while open_:
        back = {name: min(n for n in legal[name] if n > kept[name]) for name in open_}
        name = max(open_, key=lambda g: (losses[g].at(kept[g]) - losses[g].at(back[g]), g))
        size = len(order[name])
        units = order[name][size - back[name] : size - kept[name]]
        ledger.restore(units)
        if ledger.total() > goal:
            ledger.remove(units)
            open_.discard(name)
            continue
        kept[name] = back[name]
        if kept[name] >= most[name]:
            open_.discard(name)
    return kept


@dataclass(frozen=True)
class _Step:
    """A group's way to a smaller count: what it loses, what it saves."""

    then: int
    loss: float
    saved: float

    def price(self, need: float) -> float:
        """The loss per cost saved; what is saved beyond the need is worth nothing."""
        if self.saved <= 0:
            return NOTHING_SAVED  # it may be behind the next counts, so this one comes last
        return self.loss / min(self.saved, need)


def _next_steps(ledger: Ledger, loss: Loss, legal: Sequence[int], now: int, order: Array) -> list[_Step]:
    size, lost = len(order), loss.at(now)
    further = [n for n in legal if n < now][: 1 + LOOKAHEAD]
    steps = [_Step(n, loss.at(n) - lost, ledger.saving(order[size - now : size - n])) for n in further]
    return [step for step in steps if step.saved > 0] or steps[:1]


def _even(
    ledger: Ledger,
    groups: Sequence[Group],
    order: Mapping[str, Array],
    legal: Mapping[str, Sequence[int]],
    goal: float,
) -> dict[str, int]:
    """The largest common share: each group keeps the least legal count that is not below it."""

    def at(share: float) -> dict[str, int]:
        return {g.name: min(n for n in legal[g.name] if n >= share * len(g) or n == legal[g.name][0]) for g in groups}

    reads, makes = ledger.reads.copy(), ledger.makes.copy()
    shares = sorted({n / len(g) for g in groups for n in legal[g.name]}, reverse=True)
    low, high = 0, len(shares) - 1  # the last one is within the goal, as was checked
    while low < high:
        middle = (low + high) // 2
        ledger.reads, ledger.makes = reads.copy(), makes.copy()
        ledger.remove(removed_units(at(shares[middle]), order, groups))
        low, high = (low, middle) if ledger.total() <= goal else (middle + 1, high)
    kept = at(shares[low])
    ledger.reads, ledger.makes = reads.copy(), makes.copy()
    ledger.remove(removed_units(kept, order, groups))
    return kept
