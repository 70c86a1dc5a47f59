"""A graph as an artifact on trial: which images it gets right in its runtime, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecnn.artifact import Artifact
from edgecnn.bench.run import bench
from edgecnn.data import Dataset
from edgecnn.data.dataset import Batch
from edgecnn.errors import CheckFailed, InputError
from edgecnn.inference import Predictor
from edgecnn.ir.graph import Graph
from edgecnn.passes.standard import run_passes
from edgecnn.targets import TARGETS
from edgecnn.targets.target import Cpu, EmitOptions, Target

Right = npt.NDArray[np.bool_]
BATCH = 50
IN_MEMORY = 2**29
"""Images are decoded once, and kept as pixels, if they have no more bytes than this."""


@dataclass
class Judge:
    """Asks artifacts about the evaluation split.

    Args:
        target: what graphs are emitted for.
        cpu: the core.
        settings: the target's own.
        dataset: labelled images.
        limit: of them; None: all.
        folder: for artifacts.
    """

    target: Target
    cpu: Cpu
    settings: Mapping[str, str]
    dataset: Dataset
    limit: int | None
    folder: Path

    def __post_init__(self) -> None:
        channels, height, width = self.dataset.preprocessing.input_shape
        count = len(self.dataset.indices("evaluation", limit=self.limit))
        self._kept: list[Batch] | None = None
        if 4 * count * channels * height * width <= IN_MEMORY:
            self._kept = list(self._decoded())

    def _decoded(self) -> Iterator[Batch]:
        return self.dataset.batches(BATCH, split="evaluation", limit=self.limit)

    def right(self, graph: Graph, label: str) -> Right:
        """Which images the graph gets right as an artifact of the target.

        Raises:
            CheckFailed: an answer is not finite.
        """
        return self._right(self.emitted(graph, label, self.target, floats=True), self.target)

    def float_right(self, imported: Graph) -> Right:
        """The like for the float net, in the same runtime."""
        target = float_twin(self.target)
        graph, _ = run_passes(imported, target.passes(self.cpu, {}))
        return self._right(self.emitted(graph, "float", target, floats=True), target)

    def emitted(self, graph: Graph, label: str, target: Target, *, floats: bool) -> Path:
        """The artifact's file; it takes floats, or what the target takes by default."""
        kind = "float32" if floats and "float32" in target.input_types else target.input_types[0]
        settings = self.settings if target is self.target else {}
        options = EmitOptions(cpu=self.cpu, input_type=kind, settings=settings)
        path = self.folder / f"{label}-{kind}{target.suffix}"
        path.write_bytes(target.emit(graph, options).data)
        return path

    def _right(self, path: Path, target: Target) -> Right:
        manifest = {"input": {"layout": "NHWC" if target.nhwc else "NCHW"}}
        found = []
        with Predictor(Artifact(path, manifest)) as predictor:
            for x, labels in self._kept or self._decoded():
                if labels is None:
                    raise InputError("accuracy needs labels", do="use a folder with one subfolder per class")
                scores = predictor.scores(x, self.dataset.preprocessing)
                if not np.isfinite(scores).all():
                    raise CheckFailed("the net's answer is not finite", where=path.stem)
                found.append(scores.argmax(1) == labels)
        return np.concatenate(found)

    def latencies(self, imported: Graph, graphs: Mapping[str, Graph], *, seconds: float = 0.5) -> dict[str, float]:
        """Latency of each graph over that of the float net, measured in turns; equal structures are timed once."""
        target = float_twin(self.target)
        graph, _ = run_passes(imported, target.passes(self.cpu, {}))
        same: dict[tuple[str, ...], str] = {structure(g): name for name, g in reversed(list(graphs.items()))}
        paths = [self.emitted(graph, "float", target, floats=False)]
        paths += [self.emitted(graphs[name], name, self.target, floats=False) for name in same.values()]
        runs = bench(paths, min_seconds=seconds, blocks=6, processes=1, extras=False).runs[1:]
        ratio_of = {name: run.ratio for name, run in zip(same.values(), runs, strict=True)}
        return {name: ratio_of[same[structure(g)]] for name, g in graphs.items()}


def structure(graph: Graph) -> tuple[str, ...]:
    """What decides latency: the ops, and which of them compute on codes of which type."""
    kinds = [(op.kind, graph.value(op.output).q) for op in graph.ops]
    return tuple(f"{kind}:{'float' if q is None else q.dtype}" for kind, q in kinds)


def float_twin(target: Target) -> Target:
    """The float target of the same runtime."""
    return TARGETS["tflite-fp32" if target.runtime == "litert" else "onnx-fp32"]


def points_lost(before: Right, after: Right) -> tuple[float, float]:
    """Points of top-1 lost, and half the width of the 95 % interval of this paired difference.

    The normal approximation to the counts of images that only one of the two gets right.
    """
    only_before, only_after, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    difference = (only_before - only_after) / n
    variance = (only_before + only_after) / n - difference**2
    return 100 * difference, 100 * 1.96 * math.sqrt(variance / n)


def top1_interval(right: Sequence[bool] | Right) -> tuple[float, float]:
    """Wilson's 95 % interval of the accuracy, in percent."""
    n, p, z2 = len(right), float(np.mean(right)), 1.96**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return 100 * (centre - half), 100 * (centre + half)
