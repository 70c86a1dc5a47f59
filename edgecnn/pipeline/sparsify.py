"""`edgecnn prune --unstructured`: single weights become zero; what that saves is bytes on the way, and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecnn.artifact import refuse_existing
from edgecnn.data import Accuracy, Dataset
from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.pipeline.draft import compare, draft
from edgecnn.pipeline.relearn import Images, Relearning, data_of, provenance_of, source_of
from edgecnn.pipeline.stages import Stages
from edgecnn.prune.coupling import PRODUCERS
from edgecnn.prune.groups import matching
from edgecnn.prune.plan import Scope
from edgecnn.prune.sparse import magnitude_masks, masked, masking, sparsity_of
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Target, core_named
from edgecnn.train.trainer import OnStep, Progress


@dataclass(frozen=True)
class SparseOptions:
    """What the caller decides.

    Args:
        sparsity: the share of the weights of convolutions and linear layers that becomes zero.
        scope: over all layers, or the same share of each.
        keep: patterns of layers that stay whole.
        steps: in how many steps, each followed by fine-tuning; the share rises as a cube, most of it early.
        relearning: the fine-tuning after each step; None: none.
        target: whose artifact is packed, and timed.
        cpu: the core; None: this machine's.
        threads: of one inference.
        time_it: whether both artifacts are timed.
        seed: of draws and fine-tuning.
    """

    sparsity: float
    scope: Scope = "global"
    keep: tuple[str, ...] = ()
    steps: int = 1
    relearning: Relearning | None = None
    target: str = "tflite-int8"
    cpu: str | None = None
    threads: int = 1
    time_it: bool = True
    seed: int = 0

    def check(self) -> None:
        """Raises a UsageError for what cannot be meant."""
        if not 0 < self.sparsity < 1:
            raise UsageError(
                f"a share of {self.sparsity:g}", where="--unstructured", expected="more than 0 and less than 1"
            )

    def at(self, step: int) -> float:
        """The share after a step.

        Source: Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878, equation 1.
        """
        return self.sparsity * (1 - (1 - step / self.steps) ** 3)


@dataclass(frozen=True)
class Sparsified:
    """What it came to; `file_bytes` and `packed_bytes` (deflated) are of the target's artifact, (dense, sparse)."""

    graph: Graph
    sparsity: float
    by_layer: Mapping[str, float]
    file_bytes: tuple[int, int]
    packed_bytes: tuple[int, int]
    accuracy: Mapping[str, Accuracy]
    fastest_us: tuple[float, float] | None
    notes: tuple[str, ...]
    options: SparseOptions
    path: Path | None = None
    untrained: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "bundle": None if self.path is None else str(self.path),
            "sparsity": self.sparsity,
            "by_layer": dict(self.by_layer),
            "file_bytes": list(self.file_bytes),
            "packed_bytes": list(self.packed_bytes),
            "accuracy": {when: {"top1": a.top1, "top5": a.top5, "n": a.n} for when, a in self.accuracy.items()},
            "fastest_us": self.fastest_us and list(self.fastest_us),
            "notes": list(self.notes),
            "untrained": self.untrained,
        }


def sparsify(
    spec: str,
    *,
    how: SparseOptions,
    data: str | Dataset | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    stages: Stages | None = None,
    on_epoch: Progress | None = None,
    on_step: OnStep | None = None,
    **source_options: Any,
) -> Sparsified:
    """The net that `spec` names with most of its weights zero, written as a bundle.

    Args:
        spec: as for `load_source`.
        how: how many weights go, and which.
        data: images for fine-tuning and accuracy.
        output: the bundle to write; None: none.
        overwrite: replace one that exists.
        restart: fine-tune afresh where an interrupted run left checkpoints; else it goes on.
        stages: told about each stage.
        on_epoch: called after each epoch of fine-tuning.
        on_step: called after each step of fine-tuning.
        **source_options: `weights`, `input_shape` and `options`, where `spec` is a net.

    Raises:
        UsageError: a name, pattern or share that cannot be.
        EdgecnnError: as `tune_graph`.
    """
    how.check()
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    all_targets()
    target, cpu = TARGETS[how.target], core_named(how.cpu)
    stages = stages or Stages()
    with stages.stage("load") as stage:
        source = source_of(spec, seed=how.seed, **source_options)
        original = source.to_graph()
        stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    layers = {op.output: op.inputs[1] for op in original.ops if op.kind in PRODUCERS}
    kept = {layers[name] for name in matching(original, layers, how.keep)}
    dataset = data_of(data, source, seed=how.seed)
    images = Images(dataset, original, stages, how.seed, on_epoch, on_step, output)
    if restart:
        images.forget()
    images.begin(source.labels, how.relearning)
    graph = original
    for step in range(1, how.steps + 1):
        with stages.stage("prune") as stage:
            masks = magnitude_masks(graph, how.at(step), scope=how.scope, kept=kept)
            graph = masked(graph, masks)
            stage.outcome = f"{sparsity_of(graph):.1%} of the weights are zero"
        graph = images.recalibrate(graph, masking(masks))
        if step == how.steps:
            images.measure("pruned", graph)
        if how.relearning is not None:
            graph = images.tune(graph, how.relearning, step=step, steps=how.steps, make_module=masking(masks))
    files = [draft(g, target, cpu) for g in (original, graph)]
    found = Sparsified(
        graph,
        sparsity_of(graph),
        {name: float((graph.const(weight) == 0).mean()) for name, weight in layers.items()},
        (len(files[0]), len(files[1])),
        (len(zlib.compress(files[0], 9)), len(zlib.compress(files[1], 9))),
        images.accuracy,
        _timed(original, graph, how, target, stages) if how.time_it and cpu == local_cpu() else None,
        (*images.notes, "zeros are multiplied like other numbers: the net is smaller when packed, and not faster"),
        how,
        untrained=source.weights.untrained and how.relearning is None,
    )
    if output is not None:
        record = {"what": "unstructured", "sparsity": how.sparsity, "scope": how.scope, "steps": how.steps}
        content = provenance_of(source, dataset, how.relearning, record, params=source.params, seed=how.seed)
        bundle.save(graph, output, provenance=content)
        images.forget()
        found = replace(found, path=output)
    return found


def _timed(original: Graph, graph: Graph, how: SparseOptions, target: Target, stages: Stages) -> tuple[float, float]:
    with stages.stage("bench") as stage:
        graphs = {"dense": original, "sparse": graph}
        whole, part = compare(graphs, target, core_named(how.cpu), threads=how.threads, min_seconds=1.0).runs
        stage.outcome = f"{part.min_ms / whole.min_ms:.3f} of the dense net's latency as {target.name}"
    return whole.min_ms * 1e3, part.min_ms * 1e3
