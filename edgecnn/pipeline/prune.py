"""`edgecnn prune`: a net in, a smaller one of the same form out, as a bundle with what it cost and what it lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, lcm
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact import refuse_existing
from edgecnn.data import Dataset
from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Array, Graph
from edgecnn.lint.kernels import DEPTHWISE_TILE, tile_of
from edgecnn.pipeline.draft import compare, latency_table
from edgecnn.pipeline.pruned import NAMES, GroupRow, Pruned, PruneOptions, Timing
from edgecnn.pipeline.relearn import Images, data_of, provenance_of, source_of
from edgecnn.pipeline.source import NetSource, macs_total
from edgecnn.pipeline.stages import Stages
from edgecnn.prune.apply import apply, restricted
from edgecnn.prune.cost import COSTS, Ledger, ledger_of
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, filtered_alone, groups_of, kept_counts, prunable, step_of, without
from edgecnn.prune.latency import LatencyTable, latency_costs
from edgecnn.prune.plan import Plan, plan
from edgecnn.prune.score import SCORES, sensitivities, unit_scores
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Cpu, Target, core_named
from edgecnn.train.trainer import OnStep, Progress

SCORED_IMAGES = 512
NEAR = 0.02
"""A measured latency this close to the goal, as a share of the unpruned one's, is as good as it."""
ATTEMPTS = 5
"""Plans that are measured, each with a goal corrected by what the one before it came to."""
REPEATS = 4
AGAIN = 1.02
"""Measurements of one plan, until the fastest run comes again, within these bounds."""
FAR = 0.1
"""A measured latency this far from the goal, as a share of the goal, is worth a remark."""


def prune(
    spec: str,
    *,
    how: PruneOptions,
    data: str | Dataset | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    stages: Stages | None = None,
    on_epoch: Progress | None = None,
    on_step: OnStep | None = None,
    table: LatencyTable | None = None,
    **source_options: Any,
) -> Pruned:
    """The net that `spec` names without its least worthy channels, written as a bundle.

    Args:
        spec: as for `load_source`.
        how: how much goes and how it is chosen.
        data: images for scores, fine-tuning and accuracy: a profile, or a folder or archive of them.
        output: the bundle to write; None: none.
        overwrite: replace one that exists.
        restart: fine-tune afresh where an interrupted run left checkpoints; else it goes on.
        stages: told about each stage.
        on_epoch: called after each epoch of fine-tuning.
        on_step: called after each step of fine-tuning.
        table: of latencies; None: this machine's.
        **source_options: `weights`, `input_shape` and `options`, where `spec` is a net.

    Raises:
        UsageError: a name, pattern, ratio that cannot be; a ratio that cannot be reached says which can.
        InputError: nothing to prune, or files that cannot be used.
        EdgecnnError: as `tune_graph`.
    """
    how.check()
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    stages = stages or Stages()
    with stages.stage("load") as stage:
        source = source_of(spec, seed=how.seed, **source_options)
        original = source.to_graph()
        stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    dataset = data_of(data, source, seed=how.seed)
    images = Images(dataset, original, stages, how.seed, on_epoch, on_step, output)
    if restart:
        images.forget()
    found = _Line(source, original, how, images, stages, table).run()
    if output is not None:
        content = provenance_of(source, dataset, how.relearning, _record(found), params=found.params[1], seed=how.seed)
        bundle.save(found.graph, output, provenance=content)
        images.forget()
        found = replace(found, path=output)
    return found


def show_groups(
    spec: str,
    *,
    target: str = "tflite-int8",
    cpu: str | None = None,
    round_to: int | None = None,
    min_channels: int = 8,
    **source_options: Any,
) -> dict[str, Any]:
    """The groups of a net as plain data: which layers lose channels together, how many they have, may lose and keep.

    `groups` has a row for each, `stay` what keeps all its channels for a reason of its own.

    Args:
        spec: as for `load_source`.
        target: gives the tile.
        cpu: gives the tile.
        round_to: the tile itself.
        min_channels: what each layer keeps at least.
        **source_options: as for `load_source`.
    """
    coupling, groups = prunable(source_of(spec, seed=0, **source_options).to_graph())
    chosen, core = _target(target, cpu)
    tile = tile_of(core, int8=chosen.scheme is not None)
    rows = []
    for group in groups:
        step, counts = _legal(group, coupling, tile, round_to, min_channels)
        each = next(iter(group.layers.values()))
        rows.append({**group.to_json(), "minimum": counts[-1] * each, "step": step * each})
    return {"groups": rows, "stay": [vars(lock) for lock in dict.fromkeys(coupling.locks)]}


def _legal(
    group: Group, coupling: Coupling, tile: int, round_to: int | None, min_channels: int
) -> tuple[int, list[int]]:
    """By how many units a group shrinks, and how many it may keep."""
    if round_to is None and filtered_alone(group, coupling):
        tile = lcm(tile, DEPTHWISE_TILE)
    step = step_of(group, round_to or tile, auto=round_to is None)
    least = max(-(-min_channels // each) for each in group.layers.values())
    return step, kept_counts(group, step, least)


def _target(name: str, cpu: str | None) -> tuple[Target, Cpu]:
    all_targets()
    return TARGETS[name], core_named(cpu)


def _record(found: Pruned) -> dict[str, Any]:
    options = found.options
    return {
        "what": options.what,
        "ratio": options.ratio,
        "score": options.score,
        "scope": options.scope,
        "steps": options.steps,
        "from_params": found.params[0],
        "from_macs": found.macs[0],
    }


@dataclass
class _Line:
    """One pruning under way; `run` is its course."""

    source: NetSource
    original: Graph
    options: PruneOptions
    images: Images
    stages: Stages
    table: LatencyTable | None
    whole_us: float = inf  # the fastest run of the unpruned net so far

    def run(self) -> Pruned:
        options = self.options
        self.target, self.cpu = _target(options.target, options.cpu)
        with self.stages.stage("couple") as stage:
            coupling, groups = prunable(self.original)
            groups = without(groups, coupling, options.keep)
            stage.outcome = f"{sum(len(g) > 1 for g in groups)} groups of channels"
        int8 = self.target.scheme is not None
        self.kernel_tile = tile_of(self.cpu, int8=int8)
        self.counts = {
            g.name: _legal(g, coupling, self.kernel_tile, options.round_to, options.min_channels)[1] for g in groups
        }
        self.cost = self._cost(coupling)
        self.whole = self.cost(coupling).total()
        # Whether the goal can be reached is said before anything is learned for it.
        self._plan(coupling, groups, np.zeros(coupling.units), self.whole * options.ratio)
        self.images.begin(self.source.labels, options.relearning)
        before = {g.name: g for g in groups}
        for step in range(1, options.steps + 1):
            goal = self.whole * options.ratio ** (step / options.steps)
            coupling = self._step(coupling, before, goal, last=step == options.steps)
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
            if self.cpu != local_cpu():
                raise UsageError(
                    f"latency for {self.cpu} cannot be measured here",
                    expected=f"this machine's core, {local_cpu()}",
                    do="prune by --macs, with --cpu for the tile, and `edgecnn bench` there",
                )
            self.table = latency_table(self.target, self.cpu, threads=self.options.threads)
        with self.stages.stage("table") as stage:
            costs = latency_costs(coupling, self.table, tile=self.kernel_tile)
            stage.outcome = f"{self.table.measured} pieces measured, {self.table.where}"
        return costs

    def _step(self, coupling: Coupling, before: Mapping[str, Group], goal: float, *, last: bool) -> Coupling:
        """One round of removal: the new coupling, whose graph is pruned."""
        options = self.options
        groups = [g for g in groups_of(coupling) if g.name in before]
        with self.stages.stage("score") as stage:
            scores = self._scores(coupling)
            stage.outcome = options.score
        aim, best = goal, None
        for _ in range(ATTEMPTS):
            try:
                with self.stages.stage("prune") as stage:
                    chosen = self._plan(coupling, groups, scores, aim)
                    pruned = apply(coupling, chosen.removed)
                    share = chosen.cost / self.whole
                    stage.outcome = f"{share:.3f} of the {NAMES[options.what]}, {len(chosen.removed)} units go"
            except UsageError:
                if best is None:
                    raise
                break  # a corrected goal is out of reach: the nearest so far it is
            if options.what != "latency" or not last:
                best = 0.0, chosen, pruned
                break
            with self.stages.stage("time") as stage:
                measured = self._ratio(pruned)
                stage.outcome = f"{measured:.3f} of the unpruned net's latency, {share:.3f} was predicted"
            off = abs(measured - options.ratio)
            if best is None or off < best[0]:
                best = off, chosen, pruned
            if off <= NEAR:
                break
            # What the table does not see (hand-overs between ops) does not shrink with the channels.
            aim *= options.ratio / measured
        assert best is not None  # the first attempt is one
        off, chosen, pruned = best
        if off > FAR * options.ratio:
            self.images.notes.append(f"measured, the latency misses the goal by {off / options.ratio:.0%}")
        pruned = self.images.recalibrate(pruned)
        now = restricted(coupling, chosen.removed, pruned)
        if last:
            self.images.measure("pruned", pruned)
        return now

    def _plan(self, coupling: Coupling, groups: Sequence[Group], scores: Array, goal: float) -> Plan:
        return plan(
            coupling,
            groups,
            scores,
            self.cost(coupling),
            goal=goal,
            counts={g.name: [n for n in self.counts[g.name] if n <= len(g)] for g in groups},
            scope=self.options.scope,
            what=NAMES[self.options.what],
            whole=self.whole,
        )

    def _ratio(self, pruned: Graph) -> float:
        """The latency against the unpruned net's, by the fastest runs.

        On a busy machine a fastest run may still be a disturbed one; one that comes a second time is not.
        """
        part_us = inf
        for _ in range(REPEATS):
            whole_now, part_now = self._compare(pruned, min_seconds=1.0).fastest_us
            again = whole_now < AGAIN * self.whole_us < inf and part_now < AGAIN * part_us < inf
            self.whole_us, part_us = min(whole_now, self.whole_us), min(part_now, part_us)
            if again:
                break
        return part_us / self.whole_us

    def _compare(self, pruned: Graph, *, min_seconds: float) -> Timing:
        graphs = {"unpruned": self.original, "pruned": pruned}
        threads = self.options.threads
        whole, part = compare(graphs, self.target, self.cpu, threads=threads, min_seconds=min_seconds).runs
        return Timing(
            (whole.median_ms * 1e3, part.median_ms * 1e3),
            (whole.min_ms * 1e3, part.min_ms * 1e3),
            (part.ratio_ci95.low, part.ratio_ci95.high),
            tuple(dict.fromkeys((*whole.unstable, *part.unstable))),
        )

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
        rows = tuple(GroupRow(g.name, tuple(g.layers), g.channels, after[g.name]) for g in before.values())
        ledgers = [ledger_of(c, COSTS["params"]).total() for c in (prunable(self.original)[0], coupling)]
        predicted = (self.whole, self.cost(coupling).total()) if self.options.what == "latency" else None
        timing = None
        if (self.options.time_it or predicted) and self.cpu == local_cpu():
            with self.stages.stage("bench") as stage:
                timing = self._compare(graph, min_seconds=2.0)
                stage.outcome = f"{timing.ratio:.3f} of the unpruned net's latency as {self.target.name}"
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
            untrained=self.source.weights.untrained and self.options.relearning is None,
        )
