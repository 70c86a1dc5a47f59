"""Measures our int8 artifacts against the vendors' own converters: same nets, weights, images and runtime, interleaved.

The peers need many packages that edgecnn does not, so they live in a virtual environment of their own:

    python3 -m venv work/peers
    work/peers/bin/pip install "torch>=2.6,<2.14" litert-torch==0.10.0 ai-edge-quantizer==0.10.0 onnx onnxscript \
        onnxruntime==1.31.1 pydantic platformdirs pillow safetensors
    .venv/bin/python scripts/measure_against_peers.py --peers work/peers/bin/python

Prints a Markdown table: for each net how many times faster our artifact is than the peer's (ratio of medians, one
interleaved run, 95 % interval), the goal of the project, and how close each stays to the float net (cosine of the
scores on images that served for no calibration; the weights are UNTRAINED, so accuracies would mean nothing).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from edgecnn.artifact import Artifact, sha256_of_file
from edgecnn.bench.records import ArtifactRun, BenchReport
from edgecnn.bench.run import bench
from edgecnn.data import load_profile
from edgecnn.inference import Predictor
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import NetSource, load_source

GOALS: dict[tuple[str, str, str], float] = {
    ("mobilenet_v3_large", "tflite", "litert-torch + ai-edge-quantizer"): 4.0,
    ("mobilenet_v3_large", "tflite", "our float TFLite"): 2.1,
    ("mobilenet_v3_small", "tflite", "litert-torch + ai-edge-quantizer"): 5.5,
    ("shufflenet_v2_x1_0", "tflite", "litert-torch + ai-edge-quantizer"): 1.15,
    ("resnet18", "tflite", "litert-torch + ai-edge-quantizer"): 1.15,
    ("mobilenet_v2", "tflite", "litert-torch + ai-edge-quantizer"): 1.0,
    ("efficientnet_b0", "tflite", "litert-torch + ai-edge-quantizer"): 1.0,
    ("mobilenet_v3_large", "onnx", "quantize_static QDQ u8s8"): 1.5,
    ("shufflenet_v2_x1_0", "onnx", "quantize_static QDQ u8s8"): 1.5,
    ("mobilenet_v2", "onnx", "quantize_static QDQ u8s8"): 1.15,
    ("efficientnet_b0", "onnx", "quantize_static QDQ u8s8"): 1.15,
}
"""(net, file, peer): how many times faster ours shall be at least."""

FAMILIES = (
    "alexnet",
    "vgg11",
    "vgg16_hetconv",
    "googlenet",
    "inception_v3",
    "resnet20",
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "squeezenet1_1",
    "densenet121",
    "xception",
    "igcv1_l24m2",
    "mobilenet_v1",
    "mnasnet1_0",
    "shufflenet_v1",
    "efficientnet_lite0",
    "efficientnet_v2_s",
    "nasnet_a_mobile",
)
"""One net per family beside those of the goals; `--nets families` measures them."""

CONVERTERS = {"tflite": ("litert", "litert-torch + ai-edge-quantizer"), "onnx": ("ort", "quantize_static QDQ u8s8")}
CALIBRATION_IMAGES = 32
SEED = 0


@dataclass(frozen=True)
class Row:
    """One comparison."""

    net: str
    file: str
    peer: str
    ours: ArtifactRun
    other: ArtifactRun
    ours_cosine: float
    other_cosine: float
    seconds: tuple[float, float]

    def markdown(self) -> str:
        """The row of the table."""
        low, high = self.other.ratio_ci95.low, self.other.ratio_ci95.high
        return (
            f"| {self.net} | {self.file} | {self.peer} | {self.ours.median_ms:.2f} | {self.other.median_ms:.2f} "
            f"| {self.other.ratio:.2f} ({low:.2f} to {high:.2f}) "
            f"| {self.ours_cosine:.3f} / {self.other_cosine:.3f} | {self.seconds[0]:.1f} / {self.seconds[1]:.1f} |"
        )

    @property
    def goal(self) -> str:
        """Whether the project's goal for this row is reached; empty where there is none."""
        goal = GOALS.get((self.net, self.file, self.peer))
        if goal is None:
            return ""
        reached = "reached" if self.other.ratio >= goal else "NOT reached"
        return f"{self.net} {self.file}, {self.peer}: {self.other.ratio:.2f}, goal {goal} {reached}"


HEADING = (
    "| net (UNTRAINED) | file | against | ours ms | theirs ms | times faster (95 %) "
    "| cosine to float, ours / theirs | seconds to convert, ours / theirs |\n"
    "|---|---|---|---:|---:|---:|---|---|"
)


def prepare(net: str, work: Path) -> tuple[NetSource, Path, Path, np.ndarray]:
    """The net with seeded weights, its files for the peers, and images for judging."""
    work.mkdir(parents=True, exist_ok=True)
    source = load_source(net, weights="random", seed=SEED)
    assert source.module is not None
    weights, images = work / "weights.safetensors", work / "images.npy"
    save_file({k: v.contiguous() for k, v in source.module.state_dict().items()}, weights)
    data = load_profile("photos", input_shape=source.input_shape, seed=SEED)
    batches = [x for x, _ in data.batches(8, limit=CALIBRATION_IMAGES + 8)]
    stack = np.concatenate(batches)
    np.save(images, stack[:CALIBRATION_IMAGES])
    return source, weights, images, stack[CALIBRATION_IMAGES:]


def cosine_to_float(path: Path, source: NetSource, images: np.ndarray) -> float:
    """The mean cosine between the artifact's scores and the float net's."""
    assert source.module is not None
    with torch.inference_mode():
        expected = source.module(torch.from_numpy(images)).numpy()
    preprocessing = load_profile("photos", input_shape=source.input_shape).preprocessing
    with Predictor(Artifact.open(path)) as predictor:
        found = predictor.scores(images, preprocessing)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float(np.mean((expected * found).sum(1) / np.maximum(norms, 1e-12)))


def convert(net: str, file: str, weights: Path, images: Path, *, peers: str) -> tuple[Path, float]:
    """The peer's file and how many seconds it took to make; one that was made of the same weights is kept."""
    theirs = weights.with_name(f"peer.{file}")
    record = theirs.with_name(f"conversion-{file}.json")  # `peer.tflite.json` would be its manifest
    made_of = sha256_of_file(weights)
    if theirs.exists() and record.exists():
        known = json.loads(record.read_text())
        if known["weights_sha256"] == made_of:
            return theirs, known["seconds"]
    start = time.perf_counter()
    command = [peers, str(Path(__file__).with_name("peers_convert.py")), "--net", net, "--weights", str(weights)]
    command += ["--images", str(images), "--tool", CONVERTERS[file][0], "--out", str(theirs)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    record.write_text(json.dumps({"seconds": seconds, "weights_sha256": made_of}))
    return theirs, seconds


def make(net: str, file: str, *, work: Path, peers: str) -> None:
    """Makes the peer's file, and says how it went."""
    _, weights, images, _ = prepare(net, work / net)
    try:
        _, seconds = convert(net, file, weights, images, peers=peers)
    except subprocess.CalledProcessError as error:
        print(f"{net}.{file}: the peer's converter failed with exit code {error.returncode}", flush=True)
    else:
        print(f"{net}.{file}: {seconds:.1f} s", flush=True)


def compare(net: str, file: str, *, work: Path, peers: str, min_seconds: float) -> tuple[list[Row], BenchReport]:
    """Converts `net` both ways and times the files against each other."""
    source, weights, images, held_out = prepare(net, work / net)
    theirs, their_seconds = convert(net, file, weights, images, peers=peers)
    paths: list[Path] = []
    start = time.perf_counter()
    for target in (f"{file}-int8", f"{file}-fp32"):
        options = ExportOptions(
            target=target,
            weights="random",
            seed=SEED,
            calibration_images=CALIBRATION_IMAGES,
            input_type="float32",  # as the peer's files have it
            output=work / net,
            stem=f"ours-{target}",
            overwrite=True,
            min_coverage=0.0,
        )
        paths.append(export(source, options=options).path)
        if target.endswith("int8"):
            our_seconds = time.perf_counter() - start
    report = bench([paths[0], theirs, paths[1]], threads=1, min_seconds=min_seconds, blocks=30, extras=False)
    ours, other, floating = report.runs
    cosine = cosine_to_float(paths[0], source, held_out)
    rows = [
        Row(
            net,
            file,
            CONVERTERS[file][1],
            ours,
            other,
            cosine,
            cosine_to_float(theirs, source, held_out),
            (our_seconds, their_seconds),
        )
    ]
    label = "our float TFLite" if file == "tflite" else "our float ONNX"
    rows.append(Row(net, file, label, ours, floating, cosine, 1.0, (our_seconds, 0.0)))
    print("\n".join(row.markdown() for row in rows), flush=True)
    return rows, report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the Python of the peers' virtual environment")
    parser.add_argument(
        "--nets", nargs="*", default=sorted({net for net, _, _ in GOALS}), help="`families`: one net per family"
    )
    parser.add_argument("--files", nargs="*", default=list(CONVERTERS), choices=list(CONVERTERS))
    parser.add_argument("--work", type=Path, default=Path("work/peers-compare"))
    parser.add_argument("--min-seconds", type=float, default=6.0, help="per artifact")
    parser.add_argument("--convert-only", action="store_true", help="make the peers' files, to be measured later")
    options = parser.parse_args()
    if not Path(options.peers).is_file():
        print(f"there is no `{options.peers}`; make it so:\n{__doc__}", file=sys.stderr)
        return 5
    nets = FAMILIES if options.nets == ["families"] else options.nets
    if options.convert_only:
        for net in nets:
            for file in options.files:
                make(net, file, work=options.work, peers=options.peers)
        return 0
    print(HEADING, flush=True)
    rows: list[Row] = []
    versions: dict[str, str] = {}
    for net in nets:
        for file in options.files:
            try:
                more, report = compare(
                    net, file, work=options.work, peers=options.peers, min_seconds=options.min_seconds
                )
            except subprocess.CalledProcessError as error:
                print(f"| {net} | {file} | their converter failed with exit code {error.returncode} |", flush=True)
                continue
            rows += more
            versions |= report.versions
    if not rows:
        return 1
    print("\n" + conditions(report, versions))
    goals = [row.goal for row in rows if row.goal]
    print("\n".join(goals), file=sys.stderr)
    return 1 if any("NOT" in goal for goal in goals) else 0


def conditions(report: BenchReport, versions: dict[str, str]) -> str:
    """Where and how the table was measured, in a sentence."""
    machine = report.machine
    tools = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"Medians, one thread, batch 1, float input on both sides, one interleaved run per file; {machine['cpu']} "
        f"({', '.join(machine['features'])}), {machine['cores']} cores, shared; {tools}, litert-torch 0.10.0, "
        "ai-edge-quantizer 0.10.0."
    )


if __name__ == "__main__":
    sys.exit(main())
