"""One pruning from beginning to end: what may go, what each costs and loses, rounds of removal, fine-tuning, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, lcm
from typing import Any

import numpy as np

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Array, Graph
from edgecnn.lint.kernels import DEPTHWISE_TILE, tile_of
from edgecnn.pipeline.meter import meter_for, table_of
from edgecnn.pipeline.pruned import NAMES, GroupRow, Pruned, PruneOptions, Timing
from edgecnn.pipeline.relearn import Images
from edgecnn.pipeline.source import NetSource, macs_total
from edgecnn.pipeline.stages import Stages
from edgecnn.prune.branches import removable
from edgecnn.prune.cost import COSTS, Ledger, ledger_of
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.cuts import Cutter
from edgecnn.prune.groups import Group, filtered_alone, groups_of, kept_counts, prunable, step_of, without
from edgecnn.prune.latency import LatencyTable, latency_costs
from edgecnn.prune.loss import Divergence, measured_losses
from edgecnn.prune.score import SCORES, sensitivities, unit_scores
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Cpu, Target, core_named

SCORED_IMAGES = 512
MEASURED_IMAGES = 256
ROUNDS = 4
"""In how many rounds a step removes channels by measured losses: each changes what the next ones would lose."""
NEAR = 0.02
"""A measured latency this close to the goal, as a share of the unpruned one's, is as good as it."""
ATTEMPTS = 5
"""Plans that are measured, each with a goal corrected by what the one before it came to."""
REPEATS = 4
AGAIN = 1.02
"""Measurements of one plan, until the fastest run comes again, within these bounds."""
FAR = 0.1
"""A measured latency this far from the goal, as a share of the goal, is worth a remark."""


def legal_counts(
    group: Group, coupling: Coupling, tile: int, round_to: int | None, min_channels: int
) -> tuple[int, list[int]]:
    """By how many units a group shrinks, and how many it may keep."""
    if round_to is None and filtered_alone(group, coupling):
        tile = lcm(tile, DEPTHWISE_TILE)
    step = step_of(group, round_to or tile, auto=round_to is None)
    least = max(-(-min_channels // each) for each in group.layers.values())
    return step, kept_counts(group, step, least)


def target_of(name: str, cpu: str | None) -> tuple[Target, Cpu]:
    """What a net is pruned for."""
    all_targets()
    return TARGETS[name], core_named(cpu)


@dataclass
class Line:
    """One pruning under way."""

    source: NetSource
    original: Graph
    options: PruneOptions
    images: Images
    stages: Stages
    table: LatencyTable | None
    whole_cost: float = inf  # the fastest run of the unpruned net so far
    branches: list[str] = field(default_factory=list)  # the sums of those that went

    def run(self) -> Pruned:
        """The course of it."""
        options = self.options
        if self.images.data is None and (options.blocks or options.loss == "measured"):
            raise UsageError(
                "what the net loses is measured on images",
                where="--blocks" if options.blocks else "--loss",
                do="give --data",
            )
        all_targets()
        self.target = TARGETS[options.target]
        self.meter = meter_for(self.target, cpu=options.cpu, threads=options.threads, device=options.device)
        self.cpu = core_named(options.cpu) if self.meter is None else self.meter.cpu
        with self.stages.stage("couple") as stage:
            coupling, groups = prunable(self.original)
            groups = without(groups, coupling, options.keep)
            stage.outcome = f"{sum(len(g) > 1 for g in groups)} groups of channels"
        int8 = self.target.scheme is not None
        self.kernel_tile = tile_of(self.cpu, int8=int8)
        self.counts = {
            g.name: legal_counts(g, coupling, self.kernel_tile, options.round_to, options.min_channels)[1]
            for g in groups
        }
        self.cost = self._cost(coupling)
        self.whole = self.cost(coupling).total()
        # Whether the goal can be reached is said before anything is learned for it.
        self._cutter(coupling, groups, np.zeros(coupling.units)).check(self.whole * options.ratio)
        self.images.begin(self.source.labels, options.relearning)
        before = {g.name: g for g in groups}
        for step in range(1, options.steps + 1):
            rounds = ROUNDS if self._measures else 1
            for part in range(1, rounds + 1):
                goal = self.whole * options.ratio ** ((step - 1 + part / rounds) / options.steps)
                last = (step, part) == (options.steps, rounds)
                coupling = self._round(coupling, before, goal, last=last)
            if options.relearning is not None:
                tuned = self.images.tune(coupling.graph, options.relearning, step=step, steps=options.steps)
                coupling = replace(coupling, graph=tuned)
        return self._report(coupling, before)

    def _cost(self, coupling: Coupling) -> Callable[[Coupling], Ledger]:
        """The ledger of a coupling in the unit of the goal; a piece keeps its table however narrow it gets."""
        if self.options.what != "latency":
            return lambda now: ledger_of(now, COSTS[self.options.what])
        costs = self._latency(coupling)
        return lambda now: ledger_of(now, lambda graph, piece: costs[piece.name])

    def _latency(self, coupling: Coupling) -> dict[str, Any]:
        if self.table is None:
            if self.meter is None:
                raise UsageError(
                    f"latency for {self.cpu} cannot be measured here",
                    expected=f"this machine's core, {local_cpu()}",
                    do="name a --device that has it, or prune by --macs, with --cpu for the tile",
                )
            self.table = table_of(self.meter)
        with self.stages.stage("table") as stage:
            costs = latency_costs(coupling, self.table, tile=self.kernel_tile)
            stage.outcome = f"{self.table.measured} pieces measured, {self.table.where}"
        return costs

    def _round(self, coupling: Coupling, before: Mapping[str, Group], goal: float, *, last: bool) -> Coupling:
        """One round of removal: the new coupling, whose graph is pruned."""
        options = self.options
        groups = [g for g in groups_of(coupling) if g.name in before]
        with self.stages.stage("score") as stage:
            scores = self._scores(coupling)
            stage.outcome = options.score
        cutter = self._cutter(coupling, groups, scores)
        if self._measures:
            cutter = self._measuring(cutter, groups)
        aim, best = goal, None
        for _ in range(ATTEMPTS):
            try:
                with self.stages.stage("prune") as stage:
                    cut = cutter.best(aim)
                    share = cut.plan.cost / self.whole
                    blocks = f" and {len(cut.branches)} residual branches" if cut.branches else ""
                    units = len(cut.plan.removed)
                    stage.outcome = f"{share:.3f} of the {NAMES[options.what]}, {units} units{blocks} go"
            except UsageError:
                if best is None:
                    raise
                break  # a corrected goal is out of reach: the nearest so far it is
            if options.what != "latency" or not last:
                best = 0.0, cut
                break
            with self.stages.stage("time") as stage:
                measured = self._ratio(cut.graph)
                stage.outcome = f"{measured:.3f} of the unpruned net's {self._what}, {share:.3f} was predicted"
            off = abs(measured - options.ratio)
            if best is None or off < best[0]:
                best = off, cut
            if off <= NEAR:
                break
            # What the table does not see (hand-overs between ops) does not shrink with the channels.
            aim *= options.ratio / measured
        assert best is not None  # the first attempt is one
        off, cut = best
        if off > FAR * options.ratio:
            self.images.notes.append(f"measured, the {self._what} misses the goal by {off / options.ratio:.0%}")
        self.branches += [branch.sum for branch in cut.branches]
        pruned = self.images.recalibrate(cut.graph)
        if last:
            self.images.measure("pruned", pruned)
        return cut.left(pruned)

    @property
    def _measures(self) -> bool:
        if self.options.scope != "global":
            return False
        return self.images.data is not None if self.options.loss == "auto" else self.options.loss == "measured"

    def _cutter(self, coupling: Coupling, groups: Sequence[Group], scores: Array) -> Cutter:
        """What finds the cut of one round; what branches lose is yet to be measured."""
        options = self.options
        blocks = options.what == "latency" if options.blocks is None else options.blocks
        return Cutter(
            coupling,
            frozenset(g.name for g in groups),
            scores,
            {g.name: [n for n in self.counts[g.name] if n <= len(g)] for g in groups},
            self.cost,
            branches=removable(coupling, groups) if blocks and self._measures else (),
            scope=options.scope,
            what=NAMES[options.what],
            whole=self.whole,
        )

    def _measuring(self, cutter: Cutter, groups: Sequence[Group]) -> Cutter:
        """The same, by losses that are measured."""
        assert self.images.data is not None  # `run` has seen to it
        with self.stages.stage("loss") as stage:
            batches = self.images.data.batches(64, split="calibration", limit=MEASURED_IMAGES)
            divergence = Divergence(self.original, np.concatenate([x for x, _ in batches]))
            losses = measured_losses(cutter.coupling, groups, cutter.scores, cutter.counts, divergence)
            stage.outcome = f"{sum(len(loss.points) for loss in losses.values())} smaller nets"
        now = divergence.of(cutter.coupling.graph)
        return replace(cutter, losses=losses, branch_loss=lambda graph: divergence.of(graph) - now)

    def _ratio(self, pruned: Graph) -> float:
        """The latency against the unpruned net's, by the fastest runs.

        On a busy machine a fastest run may still be a disturbed one; one that comes a second time is not.
        """
        part = inf
        for _ in range(REPEATS):
            timing = self._compare(pruned, min_seconds=1.0)
            whole_now, part_now = timing.fastest
            again = whole_now < AGAIN * self.whole_cost < inf and part_now < AGAIN * part < inf
            self.whole_cost, part = min(whole_now, self.whole_cost), min(part_now, part)
            if again or timing.unit == "instructions":
                break
        return part / self.whole_cost

    def _compare(self, pruned: Graph, *, min_seconds: float) -> Timing:
        assert self.meter is not None  # whoever asks has looked
        return self.meter.compare(self.original, pruned, min_seconds=min_seconds)

    @property
    def _what(self) -> str:
        counted = self.meter is not None and self.meter.unit == "instructions"
        return "instructions (EMULATED)" if counted else "latency"

    def _scores(self, coupling: Coupling) -> Array:
        found = None
        if SCORES[self.options.score].images:
            if self.images.data is None:
                raise UsageError(f"the score `{self.options.score}` needs images", do="give --data")
            batches = self.images.data.batches(32, split="calibration", limit=SCORED_IMAGES)
            found = sensitivities(coupling.graph, batches)
        return unit_scores(coupling, self.options.score, sensitivities=found, seed=self.options.seed)

    def _report(self, coupling: Coupling, before: Mapping[str, Group]) -> Pruned:
        graph = coupling.graph
        after = {g.name: g.channels for g in groups_of(coupling)}
        rows = tuple(GroupRow(g.name, tuple(g.layers), g.channels, after.get(g.name, 0)) for g in before.values())
        ledgers = [ledger_of(c, COSTS["params"]).total() for c in (prunable(self.original)[0], coupling)]
        predicted = (self.whole, self.cost(coupling).total()) if self.options.what == "latency" else None
        timing = None
        if (self.options.time_it or predicted) and self.meter is not None:
            with self.stages.stage("bench") as stage:
                timing = self._compare(graph, min_seconds=2.0)
                stage.outcome = f"{timing.ratio:.3f} of the unpruned net's {self._what} as {self.target.name}"
        return Pruned(
            graph,
            rows,
            (macs_total(self.original), macs_total(graph)),
            (round(ledgers[0]), round(ledgers[1])),
            self.images.accuracy,
            predicted,
            timing,
            tuple(self.images.notes),
            self.options,
            branches=tuple(self.branches),
            untrained=self.source.weights.untrained and self.options.relearning is None,
            unit="us" if self.table is None or self.table.unit == "us" else "instructions",
        )
