"""`edgecnn qat`: a net is quantised for a target and trained with the target's codes; the result is a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from edgecnn.data import Dataset
from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.coded import Coding
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.pipeline.train import RunOptions, Trained, classes_of, data_provenance, dataset_of, finish, logged, running
from edgecnn.pipeline.tune import check_net, load_teacher
from edgecnn.quant.assign import assign
from edgecnn.quant.fake import FakeQuantModule
from edgecnn.quant.measure import measure
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Cpu, Target, core_named
from edgecnn.train.evaluate import evaluate
from edgecnn.train.qat import quantization_aware
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import NO_SAY

BATCH = 8


@dataclass(frozen=True)
class QatOptions:
    """What is quantised, for what, and what is learned.

    Args:
        target: a name of `edgecnn list targets` that has codes.
        cpu: the core; None: this machine's.
        settings: the target's own settings.
        estimator: a name in `quant.estimate.ESTIMATORS`.
        calibration_images: of the training images, at most, for the ranges to begin with.
        act_bits: simulated bits of activations; `weight_bits` those of weights.
        weight_bits: see `act_bits`.
        learn_scales: train scales too.
        learn_zero_points: train zero points too.
    """

    target: str = "tflite-int8"
    cpu: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    estimator: str = "mse"
    calibration_images: int = 256
    act_bits: int = 8
    weight_bits: int = 8
    learn_scales: bool = True
    learn_zero_points: bool = False


def qat(
    spec: str,
    *,
    data: str | Dataset,
    settings: TrainSettings,
    coding: QatOptions,
    run: RunOptions,
    teacher: str | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    **source_options: Any,
) -> Trained:
    """Trains a net with the codes of a target and writes it, with its codes, as a bundle that `export` takes.

    A bundle that has codes already is trained from them.

    Args:
        spec: as for `load_source`.
        data: a profile, or a folder or archive with a subfolder per class.
        settings: how to train; `train.qat.QAT` is a good start.
        coding: what for, and what is learned.
        run: where to, and what to tell on the way.
        teacher: a bundle or net whose answers are imitated; None: the same net in float.
        seed: of the order of the images and all else that is drawn.
        skip_unreadable: leave out images that cannot be read.
        **source_options: `weights`, `input_shape` and `options`, where `spec` is a net.

    Returns:
        What was learned; accuracies, also `before`, are those of the integers that the artifact will compute.

    Raises:
        EdgecnnError: as `quantization_aware`; or a name, option or file that cannot be used.
    """
    target, cpu = coded_target(coding.target), core_named(coding.cpu)
    with running(settings, run) as world:
        source = load_source(spec, seed=seed, **source_options)
        dataset = dataset_of(data, source.input_shape, source.preprocessing, seed=seed, skip_unreadable=skip_unreadable)
        classes = classes_of(dataset)
        graph = source.to_graph()
        check_net(graph, source.labels, classes)
        coded = codes_for(source, graph, dataset, target, cpu, coding)
        teaching: nn.Module = load_teacher(teacher, dataset, classes) if teacher else GraphModule(coded).eval()
        before = evaluate(FakeQuantModule(coded), dataset)
        with logged(run, leads=world.leads) as (log, on_epoch, on_step):
            result = quantization_aware(
                coded,
                dataset,
                settings=settings,
                teacher=teaching,
                learn_scales=coding.learn_scales,
                learn_zero_points=coding.learn_zero_points,
                seed=seed,
                progress=on_epoch,
                on_step=on_step,
                checkpoint=run.checkpoint,
            )
            log.result(top1=result.accuracy.top1, top5=result.accuracy.top5)
        earlier = bundle.load(spec)[1] if source.weights.kind == "bundle" else {"net": source.name}
        provenance = {
            **earlier,
            "params": str(source.params),
            "macs": str(source.macs_of(graph)),
            "qat": settings.model_dump_json(exclude=NO_SAY),
            "qat.seed": str(seed),
            **({"qat.teacher": Path(teacher).name} if teacher else {}),
            **Coding(target.name, cpu, coding.settings, "qat").to_provenance(),
            **data_provenance(dataset),
        }
        return finish(result.graph, result, before, source.params, provenance, run, dataset, world)


def coded_target(name: str) -> Target:
    """The target of this name.

    Raises:
        UsageError: there is none, or it computes in float.
    """
    all_targets()
    target = TARGETS[name]
    if target.scheme is None:
        coded = sorted(key for key, other in TARGETS.items() if other.scheme is not None)
        raise UsageError(f"`{name}` computes in float", where="--target", expected="one of " + ", ".join(coded))
    return target


def codes_for(
    source: NetSource, imported: Graph, dataset: Dataset, target: Target, cpu: Cpu, options: QatOptions
) -> Graph:
    """The graph that training begins with: the bundle's if it has codes, else rewritten, measured and assigned."""
    if source.coding is not None:
        source.coding.require(target.name, cpu, options.settings, where=source.spec)
        return imported
    assert target.scheme is not None  # `coded_target` has seen to it
    scheme = replace(target.scheme(cpu), act_bits=options.act_bits, weight_bits=options.weight_bits)
    graph, _ = run_passes(imported, target.passes(cpu, options.settings))
    images = (x for x, _ in dataset.batches(BATCH, split="calibration", limit=options.calibration_images))
    return assign(graph, measure(graph, images), scheme, estimator=options.estimator)[0]
