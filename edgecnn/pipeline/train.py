"""`edgecnn train`: weights for a net from nothing, proved and written as a bundle; and what all training shares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn import parity
from edgecnn.artifact import refuse_existing
from edgecnn.data import Accuracy, Dataset, Preprocessing, load_profile
from edgecnn.errors import CheckFailed, InputError, UsageError
from edgecnn.ir import bundle, reference
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.nets import NETS, build_net, load_user_net
from edgecnn.nets.auxiliary import drop_auxiliary
from edgecnn.nets.user_net import is_user_net
from edgecnn.pipeline.source import Shape, macs_total
from edgecnn.train.device import Compute
from edgecnn.train.log import TrainingLog
from edgecnn.train.loop import TrainResult, train_net
from edgecnn.train.parallel import World, processes
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import NO_SAY, EpochReport, OnStep, Progress, StepReport
from edgecnn.train.tune import TuneResult


@dataclass(frozen=True)
class RunOptions:
    """How a run of training goes, apart from what decides its result.

    Args:
        output: the bundle to write. The log lies beside it as `.log.jsonl`, and while training goes on a
            `.checkpoint.safetensors`, from which the same command goes on after an interrupt.
        overwrite: replace a bundle that exists.
        restart: start afresh where there is a checkpoint.
        threads: of PyTorch on the CPU; None: as it is. The order of sums, and so the last bits, depend on it.
        tensorboard: a folder for TensorBoard's event files.
        on_epoch: called after each epoch, in the first process only.
        on_step: called after each step, in the first process only.
    """

    output: Path
    overwrite: bool = False
    restart: bool = False
    threads: int | None = None
    tensorboard: Path | None = None
    on_epoch: Progress | None = None
    on_step: OnStep | None = None

    @property
    def checkpoint(self) -> Path:
        """Where the run goes on from."""
        return self.output.with_name(self.output.stem + ".checkpoint.safetensors")

    @property
    def log(self) -> Path:
        """Where its course is written to."""
        return self.output.with_name(self.output.stem + ".log.jsonl")


@dataclass(frozen=True)
class Trained:
    """What a run came to; `before` is the accuracy it started from, None for a net from nothing.

    `leads` is off in all but the first of several processes, whose bundle and tables count.
    """

    path: Path
    graph: Graph
    accuracy: Accuracy
    before: Accuracy | None
    history: tuple[EpochReport, ...]
    params: int
    seconds: float
    notes: tuple[str, ...] = ()
    leads: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json` and work folders."""
        return {
            "bundle": str(self.path),
            "accuracy": _plain(self.accuracy),
            "before": None if self.before is None else _plain(self.before),
            "macs": macs_total(self.graph),
            "params": self.params,
            "seconds": round(self.seconds, 1),
            "history": [vars(report) for report in self.history],
            "notes": list(self.notes),
        }


def _plain(accuracy: Accuracy) -> dict[str, float]:
    return {"top1": accuracy.top1, "top5": accuracy.top5, "n": accuracy.n}


def train(
    spec: str,
    *,
    data: str | Dataset,
    settings: TrainSettings,
    run: RunOptions,
    seed: int = 0,
    input_shape: Shape | None = None,
    options: Mapping[str, object] | None = None,
    skip_unreadable: bool = False,
) -> Trained:
    """Trains a net of the zoo or of the user's from random weights and writes it as a bundle.

    Args:
        spec: a net's name, `file.py:callable` or `module:callable`.
        data: a profile, or a folder or archive with a subfolder per class.
        settings: how.
        run: where to, and what to tell on the way.
        seed: of the weights, the order of the images and all else that is drawn.
        input_shape: (C, H, W); None: the net's own.
        options: the net's options; `num_classes` is the data's unless it is given.
        skip_unreadable: leave out images that cannot be read.

    Raises:
        EdgecnnError: as `train_net`; or a name, option or file that cannot be used.
    """
    given = dict(options or {})
    with running(settings, run) as world:
        own = spec not in NETS and is_user_net(spec)
        if own and input_shape is None:
            raise UsageError(
                "the input shape of your own net is not known", where=spec, do="give it, such as --input 3x224x224"
            )
        if spec.endswith(".safetensors"):
            raise UsageError("a bundle has its weights already", where=spec, do="train it further with `edgecnn tune`")
        shape = input_shape or NETS[spec].input_for(**given)
        dataset = dataset_of(data, shape, None, seed=seed, skip_unreadable=skip_unreadable)
        classes = classes_of(dataset)
        if not own:
            given = {"num_classes": len(classes), **given}
        module = load_user_net(spec, given, seed=seed) if own else build_net(spec, seed=seed, **given)
        name = spec.rsplit(":", 1)[-1] if own else NETS[spec].name
        provenance = {"net": name, "train": settings.model_dump_json(exclude=NO_SAY)}
        if given:
            provenance["options"] = json.dumps({key: str(value) for key, value in given.items()})
        return train_to_bundle(
            module, dataset, name=name, settings=settings, run=run, seed=seed, provenance=provenance, world=world
        )


def train_to_bundle(
    module: nn.Module,
    dataset: Dataset,
    *,
    name: str,
    settings: TrainSettings,
    run: RunOptions,
    seed: int,
    provenance: Mapping[str, str],
    world: World | None = None,
) -> Trained:
    """Trains `module`, imports it, proves the graph equal to it, and writes the bundle.

    Args:
        module: a net that takes what `dataset` gives.
        dataset: labelled images.
        name: of the graph.
        settings: how.
        run: where to, and what to tell on the way.
        seed: of all that is drawn.
        provenance: what the bundle should say besides parameters, seed, preprocessing and labels.
        world: the processes that train together; None: this one alone.

    Raises:
        CheckFailed: the loss is no longer finite, or the graph is not equal to the net.
    """
    world = world or World()
    with logged(run, leads=world.leads) as (log, on_epoch, on_step):
        result = train_net(
            module,
            dataset,
            settings=settings,
            seed=seed,
            progress=on_epoch,
            on_step=on_step,
            checkpoint=run.checkpoint,
        )
        log.result(top1=result.accuracy.top1, top5=result.accuracy.top5)
    drop_auxiliary(module)
    graph = _proved_graph(module, dataset, name)
    params = sum(p.numel() for p in module.parameters())
    content = {**provenance, "params": str(params), "seed": str(seed), **data_provenance(dataset)}
    return finish(graph, result, None, params, content, run, dataset, world)


def _proved_graph(module: nn.Module, dataset: Dataset, name: str) -> Graph:
    graph = replace(import_module(module, dataset.preprocessing.input_shape, name=name), name=name)
    x = next(dataset.batches(16, split="evaluation"))[0]
    with torch.inference_mode():
        error = parity.relative_error(reference.run(graph, x)[0], module(torch.from_numpy(x)).numpy())
    if error > parity.FLOAT_TOLERANCE:
        raise CheckFailed(
            "the graph is not equal to the trained net",
            where=name,
            expected=f"a relative error of at most {parity.FLOAT_TOLERANCE:.0e}",
            got=f"{error:.2g}",
        )
    return graph


def finish(
    graph: Graph,
    result: TrainResult | TuneResult,
    before: Accuracy | None,
    params: int,
    provenance: Mapping[str, str],
    run: RunOptions,
    dataset: Dataset,
    world: World,
) -> Trained:
    """Writes the bundle and only then removes the checkpoint, in the first process."""
    if world.leads:
        bundle.save(graph, run.output, provenance=provenance)
        run.checkpoint.unlink(missing_ok=True)
    return Trained(
        run.output, graph, result.accuracy, before, result.history, params, result.seconds, dataset.notes, world.leads
    )


@contextmanager
def running(settings: TrainSettings, run: RunOptions) -> Iterator[World]:
    """The processes that train together, with this run's threads, and nothing in the way of its result."""
    refuse_existing(run.output, overwrite=run.overwrite)
    on_gpu = Compute.of(settings).device.type == "cuda"
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads or threads)
    try:
        with processes(on_gpu=on_gpu) as world:
            if run.restart and world.leads:
                run.checkpoint.unlink(missing_ok=True)
            world.wait()
            yield world
    finally:
        torch.set_num_threads(threads)


@contextmanager
def logged(run: RunOptions, *, leads: bool) -> Iterator[tuple[TrainingLog | _Silence, Progress | None, OnStep | None]]:
    """The run's log, and callbacks that feed it and the user's; silent in all but the first process."""
    if not leads:
        yield _Silence(), None, None
        return
    with TrainingLog(run.log, tensorboard=run.tensorboard) as log:

        def on_epoch(report: EpochReport) -> None:
            log.epoch(report)
            if run.on_epoch is not None:
                run.on_epoch(report)

        def on_step(report: StepReport) -> None:
            log.step(report)
            if run.on_step is not None:
                run.on_step(report)

        yield log, on_epoch, on_step


class _Silence:
    """The log of a process that does not speak for all."""

    def result(self, **values: float) -> None:
        """Nothing."""


def dataset_of(
    data: str | Dataset, shape: Shape, preprocessing: Preprocessing | None, *, seed: int, skip_unreadable: bool
) -> Dataset:
    """`data` as a data set; see `load_profile`."""
    if isinstance(data, Dataset):
        return data
    return load_profile(
        data, input_shape=shape, preprocessing=preprocessing, seed=seed, skip_unreadable=skip_unreadable
    )


def classes_of(dataset: Dataset) -> tuple[str, ...]:
    """The data's classes.

    Raises:
        InputError: the data have no labels.
    """
    if dataset.classes is None:
        raise InputError("training needs labels", where=dataset.name, do="use a folder with one subfolder per class")
    return dataset.classes


def data_provenance(dataset: Dataset) -> dict[str, str]:
    """What a bundle says about the data it was trained on."""
    return {"preprocessing": dataset.preprocessing.model_dump_json(), "labels": "\n".join(classes_of(dataset))}
