"""`edgecnn prune`: a net in, a smaller one of the same form out, as a bundle with what it cost and what it lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecnn.artifact import refuse_existing
from edgecnn.data import Dataset
from edgecnn.ir import bundle
from edgecnn.lint.kernels import tile_of
from edgecnn.pipeline.prune_line import Line, legal_counts, target_of
from edgecnn.pipeline.pruned import Pruned, PruneOptions
from edgecnn.pipeline.relearn import Images, data_of, provenance_of, source_of
from edgecnn.pipeline.stages import Stages
from edgecnn.prune.groups import prunable
from edgecnn.prune.latency import LatencyTable
from edgecnn.train.trainer import OnStep, Progress


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
    found = Line(source, original, how, images, stages, table).run()
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
    chosen, core = target_of(target, cpu)
    tile = tile_of(core, int8=chosen.scheme is not None)
    rows = []
    for group in groups:
        step, counts = legal_counts(group, coupling, tile, round_to, min_channels)
        each = next(iter(group.layers.values()))
        rows.append({**group.to_json(), "minimum": counts[-1] * each, "step": step * each})
    return {"groups": rows, "stay": [vars(lock) for lock in dict.fromkeys(coupling.locks)]}


def _record(found: Pruned) -> dict[str, Any]:
    options = found.options
    return {
        "what": options.what,
        "ratio": options.ratio,
        "score": options.score,
        "scope": options.scope,
        "loss": options.loss,
        "branches": list(found.branches),
        "steps": options.steps,
        "from_params": found.params[0],
        "from_macs": found.macs[0],
    }
