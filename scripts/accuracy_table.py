"""Measures what int8 costs in accuracy, ours beside the vendors' own quantisers: same nets, images and runtimes.

    python scripts/accuracy_table.py work/cifar10/*/float.safetensors --data cifar10:DIR --peers work/peers/bin/python

`--peers` is the Python of the environment that `measure_against_peers.py` describes; without it only our own artifacts
are measured. Every quantiser gets the same calibration images of the training split and the same float net: the peers
get our float artifact, which is the form their tools read best. Every artifact answers every image of the evaluation
split in its own runtime. `--also NAME=DIR` adds artifacts made elsewhere (`DIR/LABEL.tflite`), such as after QAT.

Prints a Markdown table: points of top-1 lost against the float net with the 95 % interval of the paired difference
(normal approximation to the counts of images that only one of the two gets right), and for peers the probability of a
difference to ours at least as large if both were equally good (exact McNemar test, two-sided).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecnn.artifact import Artifact
from edgecnn.data import Dataset, load_profile
from edgecnn.errors import EdgecnnError
from edgecnn.inference import Predictor
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import NetSource, load_source

Right = npt.NDArray[np.bool_]
FILES = {"tflite": "ai-edge-quantizer", "onnx": "quantize_static"}


@dataclass(frozen=True)
class Answers:
    """Which images of the evaluation split an artifact got right."""

    net: str
    file: str
    tool: str
    right: Right

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * float(self.right.mean())


def lost(before: Right, after: Right) -> tuple[float, float]:
    """Points of top-1 lost, and half the width of the 95 % interval."""
    only_before, only_after, n = int((before & ~after).sum()), int((after & ~before).sum()), len(before)
    difference = (only_before - only_after) / n
    variance = (only_before + only_after) / n - difference**2
    return 100 * difference, 100 * 1.96 * math.sqrt(variance / n)


def mcnemar(a: Right, b: Right) -> float:
    """The exact two-sided probability of disagreements as uneven as these if both were equally good."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, float(2 * tail / 2**n))


def answers(path: Path, data: Dataset, *, limit: int | None) -> Right:
    """Which images the artifact at `path` gets right."""
    found = []
    with Predictor(Artifact.open(path)) as predictor:
        for x, labels in data.batches(500, split="evaluation", limit=limit):
            assert labels is not None
            found.append(predictor.scores(x, data.preprocessing).argmax(1) == labels)
    return np.concatenate(found)


def made(
    source: NetSource, target: str, data: Dataset, work: Path, *, images: int, max_drop: float | None = None
) -> Path:
    """Our artifact for `target`; with `max_drop`, up the ladder until it loses no more points."""
    options = ExportOptions(
        target=target,
        calibration_images=images,
        input_type="float32",
        output=work,
        stem=f"ours-{target}",
        overwrite=True,
        min_coverage=0.0,
        max_drop=max_drop,
    )
    return export(source, options=options, data=data).path


def one_net(bundle: Path, data: Dataset, options: argparse.Namespace) -> Iterator[Answers]:
    """The answers of the float net and of every int8 form of it."""
    source = load_source(str(bundle))
    label = bundle.parent.name if bundle.stem == "float" else bundle.stem
    work: Path = options.work / label
    work.mkdir(parents=True, exist_ok=True)
    images = work / "images.npy"
    batches = data.batches(64, split="calibration", limit=options.calibration_images)
    np.save(images, np.concatenate([x for x, _ in batches]))
    for file, peer in FILES.items():
        floating = made(source, f"{file}-fp32", data, work, images=options.calibration_images)
        images_at_most = options.calibration_images
        ours = made(source, f"{file}-int8", data, work, images=images_at_most, max_drop=options.max_drop)
        paths = {"float": floating, "edgecnn": ours}
        if options.peers:
            theirs = work / f"peer{floating.suffix}"
            script = str(Path(__file__).with_name("peers_quantize.py"))
            command = [options.peers, script, "--float", str(floating), "--images", str(images), "--out", str(theirs)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            paths[peer] = theirs
        for tool, folder in options.also:
            if (found := folder / f"{label}{floating.suffix}").exists():
                paths[tool] = found
        for tool, path in paths.items():
            yield Answers(label, file, tool, answers(path, data, limit=options.limit))


def rows(found: list[Answers]) -> Iterator[str]:
    """The lines of the Markdown table."""
    yield "| net | file | float top-1 % | quantiser | points lost (95 %) | p of the difference to ours |"
    yield "|---|---|---:|---|---:|---:|"
    by_place = {(a.net, a.file, a.tool): a for a in found}
    for answer in found:
        if answer.tool == "float":
            continue
        floating, ours = (by_place[answer.net, answer.file, tool] for tool in ("float", "edgecnn"))
        points, half = lost(floating.right, answer.right)
        p = "" if answer.tool == "edgecnn" else f"{mcnemar(ours.right, answer.right):.2g}"
        yield (
            f"| {answer.net} | {answer.file} | {floating.top1:.2f} | {answer.tool} "
            f"| {points:+.2f} ({points - half:+.2f} to {points + half:+.2f}) | {p} |"
        )


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", required=True, help="a profile with labels, such as cifar10:DIR")
    parser.add_argument("--peers", help="the Python of the peers' virtual environment")
    parser.add_argument("--also", action="append", default=[], type=_named, metavar="NAME=DIR")
    parser.add_argument("--work", type=Path, default=Path("work/accuracy"))
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--max-drop", type=float, help="ours climbs the ladder of `edgecnn quantize` to this loss")
    parser.add_argument("--limit", type=int, help="of evaluation images; default: all")
    options = parser.parse_args()
    found: list[Answers] = []
    for bundle in options.bundles:
        source = load_source(str(bundle))
        data = load_profile(options.data, input_shape=source.input_shape, preprocessing=source.preprocessing)
        try:
            found += one_net(bundle, data, options)
        except (EdgecnnError, subprocess.CalledProcessError) as error:
            print(f"{bundle}: {error}", file=sys.stderr)
    print("\n".join(rows(found)))
    summary = {f"{a.net} {a.file} {a.tool}": round(a.top1, 2) for a in found}
    print(json.dumps(summary), file=sys.stderr)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
