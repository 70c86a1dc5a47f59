"""`edgecnn prune`: a net in, a smaller one of the same form out, as a bundle with what it cost and what it lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgecnn.artifact import refuse_existing
from edgecnn.data import Accuracy, Dataset, load_profile
from edgecnn.errors import InputError, UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.module import GraphModule
from edgecnn.lint.kernels import tile_of
from edgecnn.pipeline.draft import compare, latency_table
from edgecnn.pipeline.pruned import NAMES, GroupRow, Pruned, PruneOptions
from edgecnn.pipeline.source import NetSource, load_source, macs_total
from edgecnn.pipeline.stages import Stages
from edgecnn.prune.apply import apply, restricted
from edgecnn.prune.cost import COSTS, Ledger, ledger_of
from edgecnn.prune.coupling import Coupling
from edgecnn.prune.groups import Group, groups_of, kept_counts, prunable, step_of, without
from edgecnn.prune.latency import LatencyTable, latency_costs
from edgecnn.prune.plan import plan
from edgecnn.prune.score import SCORES, sensitivities, unit_scores
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Cpu, Target, core_named
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate
from edgecnn.train.trainer import OnStep, Progress
from edgecnn.train.tune import tune_graph

SCORED_IMAGES = 512
RECALIBRATED_IMAGES = 2048
NEAR = 0.02
"""A measured latency this close to the goal, as a share of the unpruned one's, is as good as it."""
CORRECTIONS = 3


def prune(
    spec: str,
    *,
    how: PruneOptions,
    data: str | Dataset | None = None,
    output: Path | None = None,
    overwrite: bool = False,
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
        source = load_source(spec, seed=how.seed, **source_options)
        stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    if isinstance(data, str):
        data = load_profile(data, input_shape=source.input_shape, preprocessing=source.preprocessing, seed=how.seed)
    if data is None and how.settings is not None:
        raise UsageError("fine-tuning needs images", do="give --data, or leave out --epochs")
    found = _Line(source, source.to_graph(), how, data, stages, on_epoch, on_step, table).run()
    if output is not None:
        bundle.save(found.graph, output, provenance=_provenance(source, found, data))
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
) -> list[dict[str, Any]]:
    """The groups of a net as plain rows: which layers lose channels together, how many they have, may lose and keep.

    Args:
        spec: as for `load_source`.
        target: gives the tile.
        cpu: gives the tile.
        round_to: the tile itself.
        min_channels: what each layer keeps at least.
        **source_options: as for `load_source`.
    """
    groups = prunable(load_source(spec, **source_options).to_graph())[1]
    chosen, core = _target(target, cpu)
    tile = round_to or tile_of(core, int8=chosen.scheme is not None)
    rows = []
    for group in groups:
        step, counts = _legal(group, tile, auto=round_to is None, min_channels=min_channels)
        each = next(iter(group.layers.values()))
        rows.append({**group.to_json(), "minimum": counts[-1] * each, "step": step * each})
    return rows


def _legal(group: Group, tile: int, *, auto: bool, min_channels: int) -> tuple[int, list[int]]:
    """By how many units a group shrinks, and how many it may keep."""
    step = step_of(group, tile, auto=auto)
    least = max(-(-min_channels // each) for each in group.layers.values())
    return step, kept_counts(group, step, least)


def _target(name: str, cpu: str | None) -> tuple[Target, Cpu]:
    all_targets()
    return TARGETS[name], core_named(cpu)


def _provenance(source: NetSource, found: Pruned, data: Dataset | None) -> dict[str, str]:
    earlier = bundle.load(source.spec)[1] if source.weights.kind == "bundle" else {"net": source.name}
    options = found.options
    record = {
        "what": options.what,
        "ratio": options.ratio,
        "score": options.score,
        "steps": options.steps,
        "seed": options.seed,
        "from_params": found.params[0],
        "from_macs": found.macs[0],
        "tune": None if options.settings is None else options.settings.model_dump(mode="json"),
    }
    if source.weights.untrained and options.settings is None:
        earlier["untrained"] = "true"
    elif options.settings is not None:
        earlier.pop("untrained", None)
    preprocessing = source.preprocessing or (None if data is None else data.preprocessing)
    if preprocessing is not None:
        earlier["preprocessing"] = preprocessing.model_dump_json()
    labels = source.labels or (None if data is None else data.classes)
    if labels and len(labels) == found.graph.shape(found.graph.outputs[0])[-1]:
        earlier["labels"] = "\n".join(labels)
    return {**earlier, "params": str(found.params[1]), "prune": json.dumps(record, sort_keys=True)}


@dataclass
class _Line:
    """One pruning under way; `run` is its course."""

    source: NetSource
    original: Graph
    options: PruneOptions
    data: Dataset | None
    stages: Stages
    on_epoch: Progress | None
    on_step: OnStep | None
    table: LatencyTable | None
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def run(self) -> Pruned:
        options = self.options
        self.target, self.cpu = _target(options.target, options.cpu)
        with self.stages.stage("couple") as stage:
            coupling, groups = prunable(self.original)
            groups = without(groups, coupling, options.keep)
            stage.outcome = f"{sum(len(g) > 1 for g in groups)} groups of channels"
        int8 = self.target.scheme is not None
        self.kernel_tile = tile_of(self.cpu, int8=int8)
        self.tile = options.round_to or self.kernel_tile
        auto, least = options.round_to is None, options.min_channels
        self.counts = {g.name: _legal(g, self.tile, auto=auto, min_channels=least)[1] for g in groups}
        self.cost = self._cost(coupling)
        self.whole = self.cost(coupling).total()
        self._measure_accuracy("before", self.original)
        before = {g.name: g for g in groups}
        teacher = GraphModule(self.original).eval() if options.distill and options.settings else None
        for step in range(1, options.steps + 1):
            goal = self.whole * options.ratio ** (step / options.steps)
            coupling = self._step(coupling, before, goal, last=step == options.steps)
            if options.settings is not None:
                assert self.data is not None  # `prune` has seen to it
                with self.stages.stage("tune") as stage:
                    tuned = tune_graph(
                        coupling.graph,
                        self.data,
                        settings=options.settings,
                        teacher=teacher,
                        seed=options.seed + step - 1,
                        progress=self.on_epoch,
                        on_step=self.on_step,
                    )
                    coupling = replace(coupling, graph=tuned.graph)
                    self.accuracy["after"] = tuned.accuracy
                    stage.outcome = f"step {step} of {options.steps}: {tuned.accuracy.top1:.2f} %"
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
        aim = goal
        for attempt in range(CORRECTIONS):
            with self.stages.stage("prune") as stage:
                chosen = plan(
                    coupling,
                    groups,
                    scores,
                    self.cost(coupling),
                    goal=aim,
                    counts={g.name: [n for n in self.counts[g.name] if n <= len(g)] for g in groups},
                    across=SCORES[options.score].across,
                    scope=options.scope,
                    what=NAMES[options.what],
                    whole=self.whole,
                )
                pruned = apply(coupling, chosen.removed)
                share = chosen.cost / self.whole
                stage.outcome = f"{share:.3f} of the {NAMES[options.what]}, {len(chosen.removed)} units go"
            if options.what != "latency" or not last or self.cpu != local_cpu():
                break
            with self.stages.stage("time") as stage:
                measured = self._timed(pruned)
                stage.outcome = f"{measured:.3f} of the unpruned net's latency, {share:.3f} was predicted"
            if abs(measured - options.ratio) <= NEAR or attempt == CORRECTIONS - 1:
                break
            # What the table does not see (hand-overs between ops) does not shrink with the channels.
            aim *= options.ratio / measured
        pruned = self._recalibrated(pruned)
        now = restricted(coupling, chosen.removed, pruned)
        if last:
            self._measure_accuracy("pruned", pruned)
        return now

    def _timed(self, pruned: Graph) -> float:
        report = compare(
            {"unpruned": self.original, "pruned": pruned},
            self.target,
            self.cpu,
            threads=self.options.threads,
            min_seconds=1.0,
        )
        whole, part = report.runs
        return part.min_ms / whole.min_ms

    def _scores(self, coupling: Coupling) -> Array:
        found = None
        if SCORES[self.options.score].images:
            if self.data is None:
                raise UsageError(f"the score `{self.options.score}` needs images", do="give --data")
            found = sensitivities(coupling.graph, self.data.batches(32, split="calibration", limit=SCORED_IMAGES))
        return unit_scores(coupling, self.options.score, sensitivities=found, seed=self.options.seed)

    def _recalibrated(self, graph: Graph) -> Graph:
        """The graph with batch norm's statistics measured again: channels that are gone shift those behind them."""
        if not any(op.kind == "batch_norm" for op in graph.ops):
            return graph
        if self.data is None:
            self.notes.append("batch norm's statistics are still those of the unpruned net: give --data")
            return graph
        module = GraphModule(graph)
        batches = self.data.batches(128, split="calibration", limit=RECALIBRATED_IMAGES)
        recalibrate_batch_norm(module, (x for x, _ in batches))
        return module.to_graph()

    def _measure_accuracy(self, when: str, graph: Graph) -> None:
        if self.data is None or self.data.classes is None:
            return
        logits = graph.shape(graph.outputs[0])[-1]
        if logits != len(self.data.classes):
            raise InputError(
                "the net and the data have different classes",
                expected=f"{logits} classes, as the net has",
                got=f"{len(self.data.classes)}",
                do="give images of the classes that the net was trained for",
            )
        with self.stages.stage("eval") as stage:
            self.accuracy[when] = evaluate(GraphModule(graph), self.data)
            stage.outcome = f"{when}: {self.accuracy[when].top1:.2f} % of {self.accuracy[when].n} images"

    def _report(self, coupling: Coupling, before: Mapping[str, Group]) -> Pruned:
        graph = coupling.graph
        after = {g.name: g.channels for g in groups_of(coupling)}
        rows = tuple(GroupRow(g.name, tuple(g.layers), g.channels, after[g.name]) for g in before.values())
        ledgers = [ledger_of(c, COSTS["params"]).total() for c in (prunable(self.original)[0], coupling)]
        predicted = measured = fastest = interval = None
        doubts: tuple[str, ...] = ()
        if self.options.what == "latency":
            predicted = (self.whole, self.cost(coupling).total())
        if (self.options.time_it or self.options.what == "latency") and self.cpu == local_cpu():
            with self.stages.stage("bench") as stage:
                report = compare(
                    {"unpruned": self.original, "pruned": graph}, self.target, self.cpu, threads=self.options.threads
                )
                whole, part = report.runs
                measured = (whole.median_ms * 1e3, part.median_ms * 1e3)
                fastest = (whole.min_ms * 1e3, part.min_ms * 1e3)
                interval = (part.ratio_ci95.low, part.ratio_ci95.high)
                doubts = tuple(dict.fromkeys((*whole.unstable, *part.unstable)))
                stage.outcome = f"{part.ratio:.3f} of the unpruned net's latency as {self.target.name}"
        return Pruned(
            graph,
            rows,
            (macs_total(self.original), macs_total(graph)),
            (round(ledgers[0]), round(ledgers[1])),
            self.accuracy,
            predicted,
            measured,
            fastest,
            interval,
            doubts,
            tuple(self.notes),
            self.options,
            untrained=self.source.weights.untrained,
        )
