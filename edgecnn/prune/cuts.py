"""What goes to reach a goal: units of groups, and whole residual branches where that loses less."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array, Graph
from edgecnn.prune.apply import apply, restricted
from edgecnn.prune.branches import Branch, without_branches
from edgecnn.prune.cost import Ledger
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import groups_of
from edgecnn.prune.loss import Loss
from edgecnn.prune.plan import Plan, Scope, plan


@dataclass(frozen=True, eq=False)
class Cut:
    """A choice.

    Args:
        coupling: without the branches that go; units keep their numbers.
        branches: that go.
        plan: of the units that go besides.
        graph: what is left.
    """

    coupling: Coupling
    branches: tuple[Branch, ...]
    plan: Plan
    graph: Graph

    def left(self, graph: Graph) -> Coupling:
        """The coupling of what is left; `graph` is that, perhaps with other numbers in its constants."""
        return restricted(self.coupling, self.plan.removed, graph)


@dataclass(eq=False)
class Cutter:
    """Finds the cut of least loss for a goal; asked for several goals, it measures no branch twice.

    Args:
        coupling: whose units.
        names: of the groups that may shrink.
        scores: of the units.
        counts: as for `plan`.
        cost: the ledger of a coupling.
        losses: of the groups, as for `plan`; None: by the scores.
        branches: that may go.
        branch_loss: what the net loses without some of them, in the unit of `losses`.
        scope: as for `plan`.
        what: as for `plan`.
        whole: as for `plan`.
    """

    coupling: Coupling
    names: frozenset[str]
    scores: Array
    counts: Mapping[str, Sequence[int]]
    cost: Callable[[Coupling], Ledger]
    losses: Mapping[str, Loss] | None = None
    branches: tuple[Branch, ...] = ()
    branch_loss: Callable[[Graph], float] | None = None
    scope: Scope = "global"
    what: str = "cost"
    whole: float | None = None
    _lost: dict[frozenset[str], float] = field(default_factory=dict, init=False)

    def best(self, goal: float) -> Cut:
        """The cut for a goal; branches go one by one, as long as it loses less with one fewer, or cannot do otherwise.

        Raises:
            UsageError: as `plan`.
        """
        gone, coupling, found = self._first(goal)
        while better := self._one_more(gone, goal, self._lose(gone) + found.lost):
            gone, coupling, found = better
        return Cut(coupling, gone, found, apply(coupling, found.removed))

    def check(self, goal: float) -> None:
        """Raises `plan`'s UsageError if the goal cannot be reached, whatever is lost."""
        try:
            self._planned((), goal)
        except UsageError:
            self._planned(self.branches, goal)

    def _first(self, goal: float) -> tuple[tuple[Branch, ...], Coupling, Plan]:
        """The cut with as few branches as it takes to reach the goal at all."""
        gone: tuple[Branch, ...] = ()
        while True:
            try:
                return gone, *self._planned(gone, goal)
            except UsageError:
                rest = [branch for branch in self.branches if branch not in gone]
                if not rest:
                    raise
                gone = (*gone, min(rest, key=lambda branch: self._lose((*gone, branch))))

    def _one_more(
        self, gone: tuple[Branch, ...], goal: float, lost: float
    ) -> tuple[tuple[Branch, ...], Coupling, Plan] | None:
        best = None
        for branch in self.branches:
            more = (*gone, branch)
            if branch in gone or self._lose(more) >= lost:
                continue
            try:
                coupling, found = self._planned(more, goal)
            except UsageError:
                continue  # what could have gone instead went with the branch
            if (total := self._lose(more) + found.lost) < lost:
                lost, best = total, (more, coupling, found)
        return best

    def _lose(self, gone: Iterable[Branch]) -> float:
        key = frozenset(branch.sum for branch in gone)
        if key and key not in self._lost:
            assert self.branch_loss is not None  # there are branches, so what they lose can be known
            self._lost[key] = self.branch_loss(without_branches(self.coupling.graph, gone))
        return self._lost.get(key, 0.0)

    def _planned(self, gone: tuple[Branch, ...], goal: float) -> tuple[Coupling, Plan]:
        coupling = self.coupling
        if gone:
            coupling = replace(coupling, graph=without_branches(coupling.graph, gone))
        groups = [g for g in groups_of(coupling) if g.name in self.names]
        found = plan(
            coupling,
            groups,
            self.scores,
            self.cost(coupling),
            goal=goal,
            counts=self.counts,
            scope=self.scope,
            what=self.what,
            whole=self.whole,
            losses=self.losses,
        )
        return coupling, found
