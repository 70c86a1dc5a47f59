"""`edgecnn tune`: better weights for the graph of a bundle or a net, also from a teacher; the result is a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecnn.data import Dataset, Preprocessing
from edgecnn.errors import InputError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.pipeline.source import load_source
from edgecnn.pipeline.train import RunOptions, Trained, classes_of, data_provenance, dataset_of, finish, logged, running
from edgecnn.prune.sparse import masking, masks_of
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import NO_SAY, other_classes
from edgecnn.train.tune import tune_graph


def tune(
    spec: str,
    *,
    data: str | Dataset,
    settings: TrainSettings,
    run: RunOptions,
    teacher: str | None = None,
    seed: int = 0,
    skip_unreadable: bool = False,
    **source_options: Any,
) -> Trained:
    """Trains the graph of a bundle or a net further and writes it as a bundle; single weights that went stay zero.

    Args:
        spec: as for `load_source`.
        data: a profile, or a folder or archive with a subfolder per class; they are prepared as the bundle says.
        settings: how.
        run: where to, and what to tell on the way.
        teacher: a bundle, or a net with official weights, of the same classes and input.
        seed: of the order of the images and all else that is drawn.
        skip_unreadable: leave out images that cannot be read.
        **source_options: `weights`, `input_shape` and `options`, where `spec` is a net.

    Raises:
        EdgecnnError: as `tune_graph`; or a name, option or file that cannot be used.
    """
    with running(settings, run) as world:
        source = load_source(spec, seed=seed, **source_options)
        dataset = dataset_of(data, source.input_shape, source.preprocessing, seed=seed, skip_unreadable=skip_unreadable)
        classes = classes_of(dataset)
        graph = source.to_graph()
        check_net(graph, source.labels, classes)
        teaching = None if teacher is None else load_teacher(teacher, dataset, classes)
        before = evaluate(GraphModule(graph), dataset)
        earlier = bundle.load(spec)[1] if source.weights.kind == "bundle" else {"net": source.name}
        sparse = json.loads(earlier.get("prune", "{}")).get("what") == "unstructured"
        with logged(run, leads=world.leads) as (log, on_epoch, on_step):
            result = tune_graph(
                graph,
                dataset,
                settings=settings,
                teacher=teaching,
                seed=seed,
                progress=on_epoch,
                on_step=on_step,
                make_module=masking(masks_of(graph)) if sparse else GraphModule,
                checkpoint=run.checkpoint,
            )
            log.result(top1=result.accuracy.top1, top5=result.accuracy.top5)
        earlier.pop("untrained", None)
        provenance = {
            **earlier,
            "params": str(source.params),
            "tune": settings.model_dump_json(exclude=NO_SAY),
            "tune.seed": str(seed),
            **({"tune.teacher": Path(teacher).name} if teacher else {}),
            **data_provenance(dataset),
        }
        return finish(result.graph, result, before, source.params, provenance, run, dataset, world)


def check_net(graph: Graph, labels: tuple[str, ...] | None, classes: tuple[str, ...]) -> None:
    """Refuses a net that was trained for other classes, or for the same in another order."""
    logits = graph.shape(graph.outputs[0])
    if len(graph.outputs) != 1 or logits[1:] != (len(classes),):
        raise other_classes("the net", logits[-1], len(classes))
    if labels is not None and labels != classes:
        at = next(i for i, (a, b) in enumerate(zip(labels, classes, strict=True)) if a != b)
        raise InputError(
            "the net and the data have different classes",
            expected=f"class {at} is `{labels[at]}`, as in the net",
            got=f"class {at} is `{classes[at]}`, as in the data",
            do="name the data's folders as the net's classes are named",
        )


def load_teacher(spec: str, dataset: Dataset, classes: tuple[str, ...]) -> nn.Module:
    """The net that `spec` names, seeing images as `dataset` prepares them."""
    ours = dataset.preprocessing
    source = load_source(spec, input_shape=ours.input_shape)
    if source.weights.untrained:
        raise InputError("the teacher is untrained", where=spec, do="give a bundle that has learned these classes")
    module = GraphModule(source.graph) if source.graph is not None else source.module
    assert module is not None  # one of the two is always there
    with torch.no_grad():
        answers = module.eval()(torch.zeros(1, *ours.input_shape)).shape[-1]
    if answers != len(classes):
        raise other_classes("the teacher", answers, len(classes))
    theirs = source.preprocessing
    if theirs is None or (theirs.mean, theirs.std) == (ours.mean, ours.std):
        return module
    return _Renormalized(module, ours, theirs)


class _Renormalized(nn.Module):
    """A net that gets images normalised in `ours` way and was trained on those normalised in `theirs`."""

    def __init__(self, module: nn.Module, ours: Preprocessing, theirs: Preprocessing) -> None:
        super().__init__()
        self.module = module
        mean, std, their_mean, their_std = (
            torch.tensor(values).view(-1, 1, 1) for values in (ours.mean, ours.std, theirs.mean, theirs.std)
        )
        self.factor = nn.Buffer(std / their_std)
        self.offset = nn.Buffer((mean - their_mean) / their_std)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """The net's logits."""
        logits: Tensor = self.module(x_nchw * self.factor + self.offset)
        return logits
