"""What every way of pruning does with images: accuracy before and after, and fine-tuning, taught by the whole net."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from torch import nn

from edgecnn.data import Accuracy, Dataset, load_profile
from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.train import classes_of, data_provenance
from edgecnn.pipeline.tune import check_net, load_teacher
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import NO_SAY, OnStep, Progress
from edgecnn.train.tune import tune_graph

RECALIBRATED_IMAGES = 2048
CHECKPOINT = ".checkpoint.safetensors"


@dataclass(frozen=True)
class Relearning:
    """How a net learns again what it has lost.

    Args:
        settings: of the fine-tuning after each step.
        teacher: a bundle or net whose answers are imitated; None: the net before pruning.
        distill: whether anybody is imitated.
    """

    settings: TrainSettings
    teacher: str | None = None
    distill: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {**self.settings.model_dump(mode="json", exclude=NO_SAY), "teacher": self.teacher}


@dataclass
class Images:
    """A data set beside the net that is pruned.

    Args:
        data: its images; None: there are none, and nothing can be measured or learned.
        original: the graph before pruning.
        stages: told about each stage.
        seed: of draws and fine-tuning.
        on_epoch: called after each epoch of fine-tuning.
        on_step: called after each step of fine-tuning.
        output: the bundle that will be written; checkpoints of fine-tuning lie beside it until then.
        accuracy: what was measured so far, by when.
        notes: what the reader of the result must know.
    """

    data: Dataset | None
    original: Graph
    stages: Stages
    seed: int = 0
    on_epoch: Progress | None = None
    on_step: OnStep | None = None
    output: Path | None = None
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _teacher: nn.Module | None = None

    def begin(self, labels: tuple[str, ...] | None, relearning: Relearning | None) -> None:
        """Refuses what does not fit together, before any work, and measures the net as it is.

        Raises:
            UsageError: fine-tuning without images.
            InputError: net, data or teacher have different classes.
        """
        if relearning is not None:
            if self.data is None:
                raise UsageError("fine-tuning needs images", do="give --data, or leave out --epochs")
            classes = classes_of(self.data)
            if relearning.teacher is not None:
                self._teacher = load_teacher(relearning.teacher, self.data, classes)
            elif relearning.distill:
                self._teacher = GraphModule(self.original).eval()
        if self.data is not None and self.data.classes is not None:
            check_net(self.original, labels, self.data.classes)
        self.measure("before", self.original)

    def measure(self, when: str, graph: Graph) -> None:
        """The accuracy of a graph, where the images have labels."""
        if self.data is None or self.data.classes is None:
            return
        with self.stages.stage("eval") as stage:
            found = self.accuracy[when] = evaluate(GraphModule(graph), self.data)
            stage.outcome = f"{when}: {found.top1:.2f} % of {found.n} images"

    def tune(
        self,
        graph: Graph,
        relearning: Relearning,
        *,
        step: int = 1,
        steps: int = 1,
        make_module: Callable[[Graph], GraphModule] = GraphModule,
    ) -> Graph:
        """The graph after fine-tuning; its accuracy is noted."""
        assert self.data is not None  # `begin` has seen to it
        with self.stages.stage("tune") as stage:
            tuned = tune_graph(
                graph,
                self.data,
                settings=relearning.settings,
                teacher=self._teacher,
                seed=self.seed + step - 1,
                progress=self.on_epoch,
                on_step=self.on_step,
                make_module=make_module,
                checkpoint=self._checkpoint(step),
            )
            self.accuracy["after"] = tuned.accuracy
            stage.outcome = f"step {step} of {steps}: {tuned.accuracy.top1:.2f} %"
        return tuned.graph

    def _checkpoint(self, step: int) -> Path | None:
        return self.output and self.output.with_name(f"{self.output.stem}.step{step}{CHECKPOINT}")

    def forget(self) -> None:
        """Removes the checkpoints: the result is safe, or is not wanted."""
        if self.output is not None:
            for path in self.output.parent.glob(f"{escape(self.output.stem)}.step*{CHECKPOINT}"):
                path.unlink()

    def recalibrate(self, graph: Graph, make_module: Callable[[Graph], GraphModule] = GraphModule) -> Graph:
        """The graph with batch norm's statistics measured again: what is gone shifts the channels behind it."""
        if not any(op.kind == "batch_norm" for op in graph.ops):
            return graph
        if self.data is None:
            self.notes.append("batch norm's statistics are still those of the unpruned net: give --data")
            return graph
        module = make_module(graph)
        batches = self.data.batches(128, split="calibration", limit=RECALIBRATED_IMAGES)
        recalibrate_batch_norm(module, (x for x, _ in batches))
        return module.to_graph()


def source_of(spec: str, *, seed: int, **source_options: Any) -> NetSource:
    """The net to prune.

    Raises:
        UsageError: its graph has codes, which stand for the channels it has.
        EdgecnnError: as `load_source`.
    """
    source = load_source(spec, seed=seed, **source_options)
    if source.coding is not None:
        raise UsageError(
            f"the bundle is quantised for {source.coding.target}",
            where=spec,
            do="prune the float net, and quantise what is left",
        )
    return source


def data_of(data: str | Dataset | None, source: NetSource, *, seed: int) -> Dataset | None:
    """`data` as the net takes its images."""
    if not isinstance(data, str):
        return data
    return load_profile(data, input_shape=source.input_shape, preprocessing=source.preprocessing, seed=seed)


def provenance_of(
    source: NetSource,
    data: Dataset | None,
    relearning: Relearning | None,
    record: Mapping[str, Any],
    *,
    params: int,
    seed: int,
) -> dict[str, str]:
    """What a pruned bundle says about itself: all that the unpruned one said, and how it was pruned."""
    earlier = bundle.load(source.spec)[1] if source.weights.kind == "bundle" else {"net": source.name}
    if source.preprocessing is not None:
        earlier["preprocessing"] = source.preprocessing.model_dump_json()
    if source.labels:
        earlier["labels"] = "\n".join(source.labels)
    if relearning is not None and data is not None:
        earlier |= data_provenance(data)
        earlier.pop("untrained", None)
    elif source.weights.untrained:
        earlier["untrained"] = "true"
    how = {**record, "tune": None if relearning is None else relearning.to_json(), "seed": seed}
    return {**earlier, "params": str(params), "prune": json.dumps(how, sort_keys=True)}
