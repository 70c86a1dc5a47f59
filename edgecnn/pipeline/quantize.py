"""`edgecnn quantize`: up the ladder, rung by rung, until the net loses no more than it may; the result is a bundle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact import atomic_write, canonical_json, refuse_existing
from edgecnn.data import Dataset, Preprocessing, load_profile
from edgecnn.data.dataset import ImageRecord
from edgecnn.errors import CheckFailed, UsageError, unknown
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.coded import Coding
from edgecnn.pipeline.ladder import RUNGS, Rung, State, Tools, first_state, same_function, signal
from edgecnn.pipeline.qat import coded_target
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.train import classes_of
from edgecnn.pipeline.trial import Judge, Right, points_lost, top1_interval
from edgecnn.pipeline.tune import check_net
from edgecnn.quant.choose import PROBES
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.quant.hygiene import findings
from edgecnn.quant.loss import OpLoss, ValueLoss, op_losses, value_losses
from edgecnn.targets.target import Target, core_named

ALIKE_DB = 60.0
"""Signal to noise that the net must keep through rewrites and equalisation, in float32: rounding constants to 24 bits a
few times leaves far more, unless the net amplifies noise, and a wrong rewrite costs most of the signal."""


@dataclass(frozen=True)
class QuantizeOptions:
    """What is quantised for what, and how far to go.

    Args:
        target: a name of `edgecnn list targets` that has codes.
        cpu: the core; None: this machine's.
        settings: the target's own.
        max_drop: points of top-1 that may be lost; the ladder ends at the first rung that loses no more.
        highest: the last rung to try; None: all there are.
        everything: climb to `highest` whatever the loss.
        estimator: of the first rung.
        images: of the calibration split, for ranges and means.
        probes: how many of them are run for each trial of a parameter.
        limit: of the evaluation images; None: all.
        latency: measure it.
        seed: of the images that are drawn.
        skip_unreadable: leave out images that cannot be read.
    """

    target: str = "tflite-int8"
    cpu: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    max_drop: float = 1.0
    highest: str | None = None
    everything: bool = False
    estimator: str = "mse"
    images: int = 512
    probes: int = PROBES
    limit: int | None = None
    latency: bool = True
    seed: int = 0
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Step:
    """A rung that was climbed.

    Args:
        rung: its name; `does` and `said`: what it does, and what it did here.
        top1: accuracy of the artifact in its runtime, percent; `interval` 95 %.
        lost: points against the float net; `lost_half`: half the width of the 95 % interval of this paired difference.
        sqnr_db: of the net's output, on training images that no rung has seen (where there are enough).
        ratio: latency over that of the float net; None: not measured.
    """

    rung: str
    does: str
    said: str
    top1: float
    interval: tuple[float, float]
    lost: float
    lost_half: float
    sqnr_db: float
    ratio: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        numbers = ("top1", "lost", "lost_half", "sqnr_db", "ratio")
        found = {k: v if k not in numbers or v is None else round(v, 4) for k, v in vars(self).items()}
        return found | {"interval": [round(v, 4) for v in self.interval]}


@dataclass(frozen=True)
class Quantized:
    """What the ladder came to.

    Args:
        source: the net that was quantised.
        graph: the best, with codes.
        coding: what `export` must know of it.
        float_top1: of the float net in the same runtime, percent; `float_interval` 95 %.
        steps: the rungs that were climbed, in order; `best` is the name of the one that `graph` comes from.
        images: how many were evaluated.
        statistics: of the calibration images against those of training.
        values: what is left of each value; empty without a report.
        ops: each op quantised alone, the dearest first; empty without a report.
        notes: what the user must know.
        calibration_list: the images that codes were chosen on, with hashes.
        preprocessing: of the images.
        labels: names of the classes.
    """

    source: NetSource
    graph: Graph
    coding: Coding
    float_top1: float
    float_interval: tuple[float, float]
    steps: tuple[Step, ...]
    best: str
    max_drop: float
    images: int
    statistics: Mapping[str, float | str]
    values: tuple[ValueLoss, ...]
    ops: tuple[OpLoss, ...]
    notes: tuple[str, ...]
    calibration_list: tuple[ImageRecord, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]

    @property
    def step(self) -> Step:
        """The rung that was taken."""
        return next(step for step in self.steps if step.rung == self.best)

    @property
    def within(self) -> bool:
        """Whether it loses no more than it may."""
        return self.step.lost <= self.max_drop

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json` and the report."""
        found: dict[str, Any] = {
            "net": self.source.name,
            "target": self.coding.target,
            "cpu": self.coding.cpu,
            "float": {"top1": round(self.float_top1, 4), "interval": [round(v, 4) for v in self.float_interval]},
            "images": self.images,
            "max_drop": self.max_drop,
            "rungs": [step.to_json() for step in self.steps],
            "best": self.best,
            "within": self.within,
            "calibration": {**(self.coding.calibration or {}), **self.statistics},
            "notes": list(self.notes),
        }
        if self.values:
            found["values"] = [vars(value) for value in self.values]
            found["ops"] = [{**vars(op), "sqnr_db": op.sqnr_db} for op in self.ops]
        return found


def quantize(
    net: str | NetSource,
    *,
    data: str | Dataset,
    options: QuantizeOptions,
    report: bool = False,
    stages: Stages | None = None,
    options_of_net: Mapping[str, object] | None = None,
    **source_options: Any,
) -> Quantized:
    """Climbs the ladder until the net loses at most `max_drop` points, and keeps the best rung.

    Codes are chosen on images of the calibration split alone. Accuracy is that of artifacts in their runtime on the
    evaluation split. What a rung builds on is decided by the output's signal to noise on training images, not by
    accuracy; only which of the rungs is kept is.

    Args:
        net: as for `load_source`, or a net that is loaded already.
        data: labelled images: a profile, or a folder or archive with a subfolder per class.
        options: what for, and how far.
        report: look at each value and each op of the result.
        stages: told about each rung.
        options_of_net: where `net` is a name.
        **source_options: `weights` and `input_shape`, likewise.

    Raises:
        UsageError: a name or number that cannot be.
        InputError: images without labels or with other classes.
        CheckFailed: the rewritten net is not the net.
    """
    stages = stages or Stages()
    target, cpu = coded_target(options.target), core_named(options.cpu)
    rungs = rungs_to(options.highest)
    _check(options, target)
    with stages.stage("load") as stage:
        given = {"options": options_of_net, **source_options}
        source = load_source(net, seed=options.seed, **given) if isinstance(net, str) else net
        if source.coding is not None:
            raise UsageError("the bundle has codes already", where=source.spec, do="quantise the float net")
        dataset = _dataset(data, source, options)
        imported = source.to_graph()
        check_net(imported, source.labels, classes_of(dataset))
        stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    assert target.scheme is not None  # `coded_target` has seen to it
    tools = Tools(target.scheme(cpu), dataset, options.images, options.probes, options.estimator, target, cpu)
    with stages.stage("look") as stage:
        statistics, doubts = findings(imported, tools.calibration())
        calibration = _calibration(dataset, options)
        stage.outcome = f"{calibration['images']} calibration images of `{dataset.name}`"
    notes = [*dataset.notes, *doubts]
    for text in notes:
        stages.note(text)
    with tempfile.TemporaryDirectory(prefix="edgecnn-quantize-") as folder:
        judge = Judge(target, cpu, options.settings, dataset, options.limit, Path(folder))
        climbed = _climb(imported, rungs, tools, judge, options, stages)
        if options.latency:
            with stages.stage("bench") as stage:
                graphs = {step.rung: state.coded for step, state in climbed.reached}
                ratios = judge.latencies(imported, graphs)
                stage.outcome = "each rung against float"
        else:
            ratios = {}
    steps = tuple(_timed(step, ratios) for step, _ in climbed.reached)
    best = min(steps, key=lambda step: (step.lost, -step.sqnr_db))
    state = next(state for step, state in climbed.reached if step.rung == best.rung)
    values: list[ValueLoss] = []
    ops: list[OpLoss] = []
    if report:
        with stages.stage("report") as stage:
            x = tools.some(min(64, options.probes))
            values, ops = value_losses(state.graph, state.coded, x), op_losses(state.graph, state.coded, x)
            stage.outcome = f"{len(values)} values, {len(ops)} ops"
    before = climbed.float_right
    return Quantized(
        source,
        state.coded,
        Coding(target.name, cpu, options.settings, f"ladder: {best.rung}", calibration),
        100 * float(before.mean()),
        top1_interval(before),
        steps,
        best.rung,
        options.max_drop,
        len(before),
        statistics,
        tuple(values),
        tuple(ops),
        tuple(notes),
        dataset.image_list("calibration", limit=options.images),
        dataset.preprocessing,
        classes_of(dataset),
    )


def rungs_to(highest: str | None) -> tuple[Rung, ...]:
    """The rungs up to the one of this name.

    Raises:
        UsageError: there is none.
    """
    names = [rung.name for rung in RUNGS]
    if highest is None:
        return RUNGS
    if highest not in names:
        raise unknown("rung", highest, names)
    return RUNGS[: names.index(highest) + 1]


@dataclass(frozen=True)
class _Climbed:
    float_right: Right
    reached: list[tuple[Step, State]]


def _climb(
    imported: Graph, rungs: tuple[Rung, ...], tools: Tools, judge: Judge, options: QuantizeOptions, stages: Stages
) -> _Climbed:
    with stages.stage("float") as stage:
        before = judge.float_right(imported)
        stage.outcome = f"{100 * float(before.mean()):.2f} % of {len(before)} images"
    unseen = tools.unseen()
    graph, _ = run_passes(imported, judge.target.passes(judge.cpu, options.settings))
    state = first_state(graph, tools)
    reached: list[tuple[Step, State]] = []
    for rung in rungs:
        with stages.stage(rung.name) as stage:
            higher = rung.climb(state, tools)
            _prove(imported, higher.graph, unseen)
            right = judge.right(higher.coded, rung.name)
            lost, half = points_lost(before, right)
            sqnr = signal(higher, graph, unseen)
            top1 = 100 * float(right.mean())
            step = Step(rung.name, rung.does, higher.said, top1, top1_interval(right), lost, half, sqnr)
            reached.append((step, higher))
            state = max((s for _, s in reached), key=lambda s: signal_of(reached, s))
            stage.outcome = f"{top1:.2f} %, {lost:+.2f} ± {half:.2f} points lost, {sqnr:.1f} dB; {higher.said}"
        if lost <= options.max_drop and not options.everything:
            break
    return _Climbed(before, reached)


def signal_of(reached: list[tuple[Step, State]], state: State) -> float:
    """The signal to noise that was measured of a state."""
    return next(step.sqnr_db for step, other in reached if other is state)


def _prove(imported: Graph, graph: Graph, images: Any) -> None:
    alike = same_function(imported, graph, images[:8])
    if alike < ALIKE_DB:
        raise CheckFailed(
            "the net is not the same function after its rewrites",
            where=graph.name,
            expected=f"at least {ALIKE_DB:g} dB between float outputs",
            got=f"{alike:.1f} dB",
        )


def _timed(step: Step, ratios: Mapping[str, float]) -> Step:
    return Step(**{**vars(step), "ratio": ratios.get(step.rung)})


def _check(options: QuantizeOptions, target: Target) -> None:
    if options.estimator not in ESTIMATORS:
        raise unknown("estimator", options.estimator, ESTIMATORS)
    for key in options.settings:
        if key not in target.settings:
            raise unknown(f"setting of {target.name}", key, target.settings)
    if not np.isfinite(options.max_drop) or not -100 <= options.max_drop <= 100:
        raise UsageError("a drop is in points of top-1", where="--max-drop", got=f"{options.max_drop:g}")
    for name, count in (("--images", options.images), ("--probes", options.probes)):
        if count < 1:
            raise UsageError("the number of images must be positive", where=name, got=str(count))


def _dataset(data: str | Dataset, source: NetSource, options: QuantizeOptions) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return load_profile(
        data,
        input_shape=source.input_shape,
        preprocessing=source.preprocessing,
        seed=options.seed,
        skip_unreadable=options.skip_unreadable,
    )


def _calibration(dataset: Dataset, options: QuantizeOptions) -> dict[str, Any]:
    """For the manifest: which images the codes were chosen on."""
    return {
        "data": dataset.name,
        "images": len(dataset.image_list("calibration", limit=options.images)),
        "unfit": dataset.unfit,
        "images_sha256": dataset.fingerprint("calibration", limit=options.images),
    }


def write(found: Quantized, path: Path, *, overwrite: bool) -> None:
    """Writes the bundle, and beside it `NAME.quantization.json`: the rungs, and the calibration images with hashes.

    Raises:
        UsageError: one of them exists and `overwrite` is off.
    """
    beside = record_path(path)
    refuse_existing(path, beside, overwrite=overwrite)
    source = found.source
    earlier = bundle.load(source.spec)[1] if source.weights.kind == "bundle" else {"net": source.name}
    if source.weights.untrained:
        earlier["untrained"] = "true"
    images = [{"name": image.name, "sha256": image.sha256} for image in found.calibration_list]
    atomic_write(beside, canonical_json({**found.to_json(), "calibration_list": images}))
    provenance = {
        **earlier,
        "params": str(source.params),
        "macs": str(source.macs_of(source.to_graph())),
        **found.coding.to_provenance(),
        "quantize": json.dumps([step.to_json() for step in found.steps], sort_keys=True),
        "preprocessing": found.preprocessing.model_dump_json(),
        "labels": "\n".join(found.labels),
    }
    bundle.save(found.graph, path, provenance=provenance)


def record_path(path: Path) -> Path:
    """Where the record of a quantised bundle lies."""
    return path.with_suffix(".quantization.json")
