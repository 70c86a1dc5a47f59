"""What pruning is asked for and what it comes to: options and result, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgecnn.data import Accuracy
from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph
from edgecnn.pipeline.relearn import Relearning
from edgecnn.prune.plan import Scope
from edgecnn.prune.score import SCORES

LossBy = Literal["auto", "measured", "score"]
What = Literal["macs", "params", "latency"]
Unit = Literal["us", "instructions"]
NAMES: Mapping[What, str] = {"macs": "multiply-adds", "params": "parameters", "latency": "latency"}


@dataclass(frozen=True)
class PruneOptions:
    """What the caller decides; the defaults are the command line's.

    Args:
        what: what shall shrink.
        ratio: to which share of what it is.
        score: a name in `prune.score.SCORES`.
        scope: over all groups by what they lose per cost saved, or each to the same share.
        loss: what a group loses: measured on the images, or by the scores of its filters; `auto`: measured if there
            are images. It matters globally only.
        blocks: whether residual branches may go as a whole, where losses are measured; None: if latency is the goal.
        round_to: channel counts become multiples of it; None: of the target's tile.
        min_channels: what each layer keeps at least.
        keep: patterns of layers that stay as they are.
        steps: in how many steps, each followed by fine-tuning.
        relearning: the fine-tuning after each step; None: none, only batch norm's statistics are measured again.
        target: what the net is for: it gives the tile, and what is timed.
        cpu: the core; None: this machine's, or the device's. On an emulated device, one that it emulates.
        device: where latency is measured, by the name of its file; None: here. On an emulated one instructions are
            counted instead.
        threads: of one inference, where time is measured.
        time_it: whether the result is timed against the unpruned net; always for a goal of latency.
        seed: of scores by chance, draws and fine-tuning.
    """

    what: What = "macs"
    ratio: float = 0.5
    score: str = "l1"
    scope: Scope = "global"
    loss: LossBy = "auto"
    blocks: bool | None = None
    round_to: int | None = None
    min_channels: int = 8
    keep: Sequence[str] = ()
    steps: int = 1
    relearning: Relearning | None = None
    target: str = "tflite-int8"
    cpu: str | None = None
    device: str | None = None
    threads: int = 1
    time_it: bool = True
    seed: int = 0

    def check(self) -> None:
        """Raises a UsageError for what cannot be meant."""
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"a ratio of {self.ratio:g}", where=f"--{self.what}", expected="more than 0 and less than 1"
            )
        if self.steps < 1 or self.min_channels < 1 or (self.round_to is not None and self.round_to < 1):
            raise UsageError("steps, counts of channels and multiples begin at 1")
        if self.blocks and (self.loss == "score" or self.scope == "layer"):
            raise UsageError(
                "residual branches go by what the net loses without them, and nothing measures that",
                where="--blocks",
                do="leave out --loss score and --scope layer",
            )
        SCORES[self.score]


@dataclass(frozen=True)
class GroupRow:
    """One group before and after: channels of its first layer."""

    name: str
    layers: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class Timing:
    """The artifacts of both nets, timed in turn; pairs are (unpruned, pruned).

    Args:
        median: of all runs.
        fastest: the minimum, which other programs disturb least.
        ratio_ci95: of the medians' ratio.
        doubts: what made the measurement unstable.
        unit: of the pairs; instructions under emulation are counts that repeat, and no times.
    """

    median: tuple[float, float]
    fastest: tuple[float, float]
    ratio_ci95: tuple[float, float]
    doubts: tuple[str, ...] = ()
    unit: Unit = "us"

    @property
    def ratio(self) -> float:
        """Pruned over unpruned, of the fastest runs."""
        return self.fastest[1] / self.fastest[0]

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the unit in the names."""
        if self.unit == "instructions":
            return {"instructions": list(self.median), "emulated": True}
        return {
            "median_us": list(self.median),
            "fastest_us": list(self.fastest),
            "ratio_ci95": list(self.ratio_ci95),
            "doubts": list(self.doubts),
        }


@dataclass(frozen=True)
class Pruned:
    """What pruning came to; accuracies are empty without labelled images, `timing` is None where nothing was timed.

    `branches` are the residual sums that went with all that was added there.
    `predicted` is what the table says, (unpruned, pruned), in `unit`.
    """

    graph: Graph
    groups: tuple[GroupRow, ...]
    macs: tuple[int, int]
    params: tuple[int, int]
    accuracy: Mapping[str, Accuracy]
    predicted: tuple[float, float] | None
    timing: Timing | None
    notes: tuple[str, ...]
    options: PruneOptions
    branches: tuple[str, ...] = ()
    path: Path | None = None
    untrained: bool = False
    unit: Unit = "us"

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "bundle": None if self.path is None else str(self.path),
            "groups": [{**vars(row), "layers": list(row.layers)} for row in self.groups],
            "branches": list(self.branches),
            "macs": list(self.macs),
            "params": list(self.params),
            "accuracy": {when: {"top1": a.top1, "top5": a.top5, "n": a.n} for when, a in self.accuracy.items()},
            f"predicted_{self.unit}": self.predicted and list(self.predicted),
            "timing": self.timing and self.timing.to_json(),
            "notes": list(self.notes),
            "untrained": self.untrained,
        }
