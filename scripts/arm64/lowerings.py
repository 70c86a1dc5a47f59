"""Checks by counted instructions that each core gets the lowering that is cheapest on it.

    scripts/arm64/device.sh kit
    .venv/bin/python scripts/arm64/lowerings.py --nets mobilenet_v3_small shufflenet_v2_x1_0

For every setting of an int8 target with more than one form, and for the lowering of every kind of core, the artifact is
counted on each core under QEMU. Prints a Markdown table of ratios to what `auto` gives: below 1, the choice is wrong.
The weights are UNTRAINED; counts repeat exactly and are no times. The exit code is 1 if a choice costs over 0.5 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from edgecnn.bench.instructions import CORES, count
from edgecnn.errors import EdgecnnError
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.targets import all_targets, ort, tflite

NETS = ("mobilenet_v3_small", "shufflenet_v2_x1_0")
LOSS = 0.005
"""What a wrong choice may cost before it counts: where forms are this close, memory decides and not instructions."""


def made(net: str, target: str, cpu: str, settings: dict[str, str], folder: Path) -> Path | None:
    """The artifact; None where the settings cannot be."""
    stem = "-".join((net, target, cpu, *(f"{k}.{v}" for k, v in settings.items())))
    options = ExportOptions(
        target=target,
        cpu=cpu,
        weights="random",
        calibration="random",
        calibration_images=8,
        settings=settings,
        output=folder,
        stem=stem,
        min_coverage=0.0,
    )
    try:
        return export(net, options=options).path
    except EdgecnnError as problem:
        print(f"left out {stem}: {problem.what}", file=sys.stderr)
        return None


def rows(net: str, target: str, core: str, folder: Path) -> list[tuple[str, float]]:
    """What each other form costs over what the core gets, with its name."""
    cpu = CORES[core].cpu
    auto = made(net, target, cpu, {}, folder)
    assert auto is not None  # what nobody asked otherwise for can be made
    forms: dict[str, Path] = {}
    for other in sorted({c.cpu for c in CORES.values()} - {cpu}):
        if (path := made(net, target, other, {}, folder)) is not None:
            forms[f"as for {other}"] = path
    for key, values in (tflite if target.startswith("tflite") else ort).SETTINGS.items():
        for value in values:
            if value != "auto" and (path := made(net, target, cpu, {key: value}, folder)) is not None:
                forms[f"{key}={value}"] = path
    # Forms that come out as the same file need no count.
    known = auto.read_bytes()
    different = {name: path for name, path in forms.items() if path.read_bytes() != known}
    first, *others = count([auto, *different.values()], cores=[core])
    return [(name, found.total / first.total) for name, found in zip(different, others, strict=True)]


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="*", default=NETS)
    parser.add_argument("--targets", nargs="*", default=("tflite-int8", "onnx-int8"))
    parser.add_argument("--cores", nargs="*", default=tuple(CORES))
    options = parser.parse_args()
    all_targets()
    wrong = 0
    print("| net (UNTRAINED, EMULATED) | target | core | other forms, instructions over what the core gets |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="edgecnn-lowerings-") as name:
        for net in options.nets:
            for target in options.targets:
                for core in options.cores:
                    folder = Path(name) / net / target / core
                    folder.mkdir(parents=True)
                    found = rows(net, target, core, folder)
                    wrong += sum(ratio < 1 - LOSS for _, ratio in found)
                    text = ", ".join(f"{form} {ratio:.3f}" for form, ratio in found) or "none differs"
                    print(f"| {net} | {target} | {core} | {text} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
