"""`edgecnn sensitivity`: what each group of channels is worth, by the accuracy without its least worthy ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecnn.data import Accuracy, Dataset
from edgecnn.errors import UsageError
from edgecnn.ir.module import GraphModule
from edgecnn.pipeline.relearn import data_of, source_of
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.train import classes_of
from edgecnn.pipeline.tune import check_net
from edgecnn.prune.apply import apply
from edgecnn.prune.cost import COSTS, ledger_of
from edgecnn.prune.groups import alive, least_first, prunable, without
from edgecnn.prune.score import SCORES, sensitivities, unit_scores
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate

RATIOS = (0.9, 0.75, 0.5, 0.25)
"""Shares of a group that are left."""
SCORED_IMAGES = 512
RECALIBRATED_IMAGES = 256


@dataclass(frozen=True)
class GroupSensitivity:
    """One group alone.

    Args:
        name: that of its first layer.
        layers: which lose channels together.
        channels: of the first layer.
        top1: the accuracy in percent by the share of the group that is left.
        macs_left: the share of the net's multiply-adds that is left, likewise.
    """

    name: str
    layers: tuple[str, ...]
    channels: int
    top1: Mapping[float, float]
    macs_left: Mapping[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data: lists in the order of the ratios."""
        return {
            "name": self.name,
            "layers": list(self.layers),
            "channels": self.channels,
            "top1": list(self.top1.values()),
            "macs_left": list(self.macs_left.values()),
        }


@dataclass(frozen=True)
class Sensitivity:
    """All groups of a net; `ratios` are shares that were asked for, a group keeps the nearest count of units."""

    net: str
    ratios: tuple[float, ...]
    whole: Accuracy
    groups: tuple[GroupSensitivity, ...]
    score: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "net": self.net,
            "score": self.score,
            "ratios": list(self.ratios),
            "top1": self.whole.top1,
            "n": self.whole.n,
            "groups": [group.to_json() for group in self.groups],
        }


def sensitivity(
    spec: str,
    *,
    data: str | Dataset,
    ratios: Sequence[float] = RATIOS,
    score: str = "l1",
    keep: Sequence[str] = (),
    limit: int | None = None,
    recalibrate: bool = False,
    seed: int = 0,
    stages: Stages | None = None,
    on_group: Callable[[int, int], None] | None = None,
    **source_options: Any,
) -> Sensitivity:
    """The accuracy of a net that has lost channels of one group only, for each group and ratio; nothing is retrained.

    Args:
        spec: as for `load_source`.
        data: labelled images: a profile, or a folder or archive.
        ratios: shares of each group that are left.
        score: what a filter is worth; a name in `prune.score.SCORES`.
        keep: patterns of layers that are left out.
        limit: of the images that accuracy is measured on, drawn by the seed; None: all of the split.
        recalibrate: measure batch norm's statistics again before each accuracy.
        seed: of draws and of scores by chance.
        stages: told about each stage.
        on_group: called with (groups done, groups in all).
        **source_options: `weights`, `input_shape` and `options`, where `spec` is a net.

    Raises:
        UsageError: a ratio, score or pattern that cannot be.
        InputError: nothing to prune, no labels, or other classes.
    """
    if bad := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise UsageError(f"a ratio of {bad[0]:g}", where="--ratios", expected="more than 0 and less than 1")
    way = SCORES[score]
    stages = stages or Stages()
    with stages.stage("load") as stage:
        source = source_of(spec, seed=seed, **source_options)
        original = source.to_graph()
        stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    dataset = data_of(data, source, seed=seed)
    assert dataset is not None  # `data` is given
    check_net(original, source.labels, classes_of(dataset))
    coupling, groups = prunable(original)
    groups = tuple(g for g in without(groups, coupling, keep) if len(g) > 1)
    with stages.stage("eval") as stage:
        whole = evaluate(GraphModule(original), dataset, limit=limit)
        stage.outcome = f"{whole.top1:.2f} % of {whole.n} images"
    with stages.stage("score") as stage:
        batches = dataset.batches(32, split="calibration", limit=SCORED_IMAGES)
        found = sensitivities(coupling.graph, batches) if way.images else None
        scores = unit_scores(coupling, score, sensitivities=found, seed=seed)
        stage.outcome = score
    protected = alive(coupling, scores)
    orders = least_first(groups, scores, protected)
    ledger = ledger_of(coupling, COSTS["macs"])
    macs = ledger.total()
    rows = []
    with stages.stage("groups") as stage:
        for at, group in enumerate(groups):
            order = orders[group.name]
            most = len(group) - max(1, int(protected[group.units].sum()))
            top1, left = dict[float, float](), dict[float, float]()
            for ratio in ratios:
                removed = order[: min(most, round((1 - ratio) * len(group)))]
                module = GraphModule(apply(coupling, removed))
                if recalibrate:
                    x = (x for x, _ in dataset.batches(128, split="calibration", limit=RECALIBRATED_IMAGES))
                    recalibrate_batch_norm(module, x)
                top1[ratio] = evaluate(module, dataset, limit=limit).top1
                left[ratio] = 1 - ledger.saving(removed) / macs
            rows.append(GroupSensitivity(group.name, tuple(group.layers), group.channels, top1, left))
            if on_group is not None:
                on_group(at + 1, len(groups))
        stage.outcome = f"{len(groups)} groups at {len(ratios)} ratios"
    return Sensitivity(source.name, tuple(ratios), whole, tuple(rows), score)
