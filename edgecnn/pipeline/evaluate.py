"""Accuracy and answers: of an artifact in its runtime, of a graph, of a module; all through the same counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgecnn.artifact import Artifact
from edgecnn.data import Dataset, Preprocessing, load_profile, preprocess_image, score
from edgecnn.data.labels import imagenet_labels
from edgecnn.errors import UsageError
from edgecnn.inference import Predictor
from edgecnn.ir import reference
from edgecnn.pipeline.source import NetSource, load_source

Floats = npt.NDArray[np.float32]
Answer = Callable[[Floats, Preprocessing], Floats]
ARTIFACT_SUFFIXES = (".tflite", ".onnx")
BATCH = 32


@dataclass(frozen=True)
class Evaluation:
    """How often a net was right.

    Units: `top1` and `top5` in percent of `n` images.
    """

    artifact: str
    top1: float
    top5: float
    n: int
    data: str
    untrained: bool
    notes: tuple[str, ...] = ()
    skipped: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "artifact": self.artifact,
            "top1": round(self.top1, 4),
            "top5": round(self.top5, 4),
            "n": self.n,
            "data": self.data,
            "untrained": self.untrained,
            "skipped": self.skipped,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Answering:
    """Something that answers images with class scores: what `eval` and `predict` need of an artifact, graph or net."""

    name: str
    input_shape: tuple[int, int, int]
    scores: Answer
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    untrained: bool


@contextmanager
def answering(spec: str, *, threads: int = 1, seed: int = 0, **source_options: Any) -> Iterator[Answering]:
    """What `spec` names, ready to answer: an artifact (.tflite, .onnx), a bundle, or a net with weights.

    Raises:
        InputError: a file that cannot be used.
        UsageError: an unknown net, or options that do not apply.
    """
    if spec.endswith(ARTIFACT_SUFFIXES):
        if given := [k for k, v in source_options.items() if v]:
            raise UsageError(
                "an artifact brings its weights and options with it",
                where=spec,
                got=", ".join(sorted(given)),
                do="leave them out",
            )
        artifact = Artifact.open(spec)
        with Predictor(artifact, threads=threads) as predictor:
            yield Answering(
                spec,
                predictor.input_shape,
                predictor.scores,
                preprocessing_of(artifact),
                labels_of(artifact.manifest.get("labels")),
                bool(artifact.manifest.get("weights", {}).get("untrained", False)),
            )
        return
    source = load_source(spec, seed=seed, **source_options)
    labels = source.labels or (imagenet_labels() if source.weights.kind == "imagenet" else None)
    yield Answering(
        spec, source.input_shape, _answer_of(source), source.preprocessing, labels, source.weights.untrained
    )


def _answer_of(source: NetSource) -> Answer:
    def by_graph(x: Floats, _: Preprocessing) -> Floats:
        assert source.graph is not None  # chosen below
        y: Floats = reference.run(source.graph, x)[0]
        return y

    def by_module(x: Floats, _: Preprocessing) -> Floats:
        assert source.module is not None  # chosen below
        with torch.inference_mode():
            y: Floats = source.module(torch.from_numpy(x)).numpy()
        return y

    return by_graph if source.graph is not None else by_module


def preprocessing_of(artifact: Artifact) -> Preprocessing | None:
    """The preprocessing in an artifact's manifest; None if it has none."""
    recorded = dict(artifact.manifest.get("preprocessing", {}))
    recorded.pop("embedded", None)
    if not recorded:
        return None
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}
    return Preprocessing.model_validate(tuples)


def labels_of(recorded: list[str] | str | None) -> tuple[str, ...] | None:
    """Class names from a manifest: a list of them, or the name of a known list."""
    if recorded == "imagenet-1k":
        return imagenet_labels()
    return tuple(recorded) if isinstance(recorded, list) else None


def evaluate(
    spec: str,
    *,
    data: str | Dataset,
    limit: int | None = None,
    threads: int = 1,
    seed: int = 0,
    skip_unreadable: bool = False,
    on_images: Callable[[int, int], None] | None = None,
    **source_options: Any,
) -> Evaluation:
    """Top-1 and top-5 accuracy of what `spec` names on held-out images.

    Args:
        spec: an artifact, a bundle, or a net (with `weights`, `input_shape`, `options` as `load_source` takes them).
        data: a profile, or a folder or archive with a subfolder per class.
        limit: at most this many images, drawn by `seed`.
        threads: of one inference.
        seed: of `limit`, and of random weights.
        skip_unreadable: leave out images that cannot be read.
        on_images: called with (images done, images in all).
        **source_options: for nets.

    Raises:
        InputError: images without labels, or files that cannot be used.
        UsageError: an unknown name.
        CheckFailed: the net answers with NaN.
    """
    with answering(spec, threads=threads, seed=seed, **source_options) as net:
        if isinstance(data, Dataset):
            dataset = data
        else:
            dataset = load_profile(
                data,
                input_shape=net.input_shape,
                preprocessing=net.preprocessing,
                seed=seed,
                skip_unreadable=skip_unreadable,
            )
        total = len(dataset.indices("evaluation", limit=limit))

        def answers() -> Iterator[tuple[Floats, Any]]:
            done = 0
            for x, y in dataset.batches(BATCH, split="evaluation", limit=limit):
                yield net.scores(x, dataset.preprocessing), y
                done += len(x)
                if on_images:
                    on_images(done, total)

        found = score(answers())
        return Evaluation(
            spec, found.top1, found.top5, found.n, dataset.name, net.untrained, dataset.notes, len(dataset.skipped)
        )


@dataclass(frozen=True)
class Prediction:
    """The classes a net finds in one image, best first, as (class number, label, probability), and the time it took."""

    image: str
    classes: tuple[tuple[int, str, float], ...]
    latency_ms: float


def predict(
    spec: str, images: list[str], *, top: int = 5, threads: int = 1, data: str | None = None, **source_options: Any
) -> tuple[list[Prediction], bool]:
    """The best `top` classes for each image, and whether the net is untrained.

    Args:
        spec: as for `evaluate`.
        images: paths of image files.
        top: how many classes.
        threads: of one inference.
        data: the profile whose preprocessing to use if `spec` brings none.
        **source_options: for nets.

    Raises:
        InputError: an image or a file that cannot be read.
    """
    found: list[Prediction] = []
    with answering(spec, threads=threads, **source_options) as net:
        preprocessing = net.preprocessing
        if preprocessing is None:
            from edgecnn.data import read_profile

            preprocessing = read_profile(data or "imagenet").preprocessing(net.input_shape)
        for image in images:
            x = preprocess_image(Path(image), preprocessing)[None]
            if not found:
                net.scores(x, preprocessing)  # the first call pays for the engine's start
            start = perf_counter()
            scores = net.scores(x, preprocessing)[0]
            latency_ms = (perf_counter() - start) * 1e3
            shifted = np.exp(scores.astype(np.float64) - scores.max())
            probabilities = shifted / shifted.sum()
            best = np.argsort(-probabilities, kind="stable")[:top]
            labels = net.labels if net.labels and len(net.labels) == len(scores) else None
            named = tuple((int(i), labels[i] if labels else f"class {i}", float(probabilities[i])) for i in best)
            found.append(Prediction(image, named, latency_ms))
        return found, net.untrained
