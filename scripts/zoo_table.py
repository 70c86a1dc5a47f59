"""Exports every net of the zoo to every target, times int8 against float, and prints the table of the README.

    python scripts/zoo_table.py --store work/zoo.jsonl
    python scripts/zoo_table.py --store work/zoo.jsonl --print

Every net runs at its own resolution with UNTRAINED weights, in a process of its own, whose peak memory is recorded.
What is done is appended to the store, so a run that was cut off goes on where it stopped; artifacts are deleted once
they are measured. All nets take some hours on two cores; `--nets` chooses some, `--side` makes the images smaller.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecnn.bench.run import bench
from edgecnn.errors import EdgecnnError
from edgecnn.nets import NETS
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import load_source
from edgecnn.targets import all_targets

PAIRS = {"tflite": ("tflite-int8", "tflite-fp32"), "onnx": ("onnx-int8", "onnx-fp32")}
ORDER = ("tflite-int8", "tflite-fp32", "tflite-fp16", "onnx-int8", "onnx-fp32")
CALIBRATION_IMAGES = 4


def one_net(name: str, *, side: int | None, seconds: float) -> Iterator[dict[str, Any]]:
    """The findings about one net: a row per target, and a row per runtime with the time of int8 over that of float."""
    entry = NETS[name]
    shape = (3, side, side) if side else entry.input_shape
    source = load_source(name, weights="random", input_shape=shape)
    with tempfile.TemporaryDirectory(prefix="edgecnn-zoo-") as folder:
        paths: dict[str, Path] = {}
        for target in ORDER:
            row: dict[str, Any] = {"net": name, "target": target, "input": list(shape)}
            started = time.perf_counter()
            try:
                options = ExportOptions(
                    target=target,
                    weights="random",
                    calibration_images=CALIBRATION_IMAGES,
                    min_coverage=0.0,
                    output=Path(folder),
                    input_type="float32",
                )
                artifact = export(source, options=options)
            except EdgecnnError as error:
                row |= {"ok": False, "error": type(error).__name__, "what": error.what, "where": error.where}
            else:
                parity, coverage = artifact.manifest["parity"], artifact.manifest["coverage"]
                paths[target] = artifact.path
                row |= {
                    "ok": parity["ok"],
                    "size_bytes": artifact.size_bytes,
                    "sqnr_db": parity.get("sqnr_db"),
                    "per_op": parity.get("per_op"),
                    "relative_error": parity.get("artifact_relative_error"),
                    "macs_share": coverage["macs_share"],
                    "ops_share": coverage["ops_share"],
                    "partitions": coverage["partitions"],
                    "outside": len(coverage["outside"]),
                }
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            yield row | {"seconds": round(time.perf_counter() - started, 2), "peak_bytes": peak}
        for runtime, pair in PAIRS.items():
            if all(target in paths for target in pair):
                report = bench([paths[t] for t in pair], threads=1, min_seconds=seconds, extras=False)
                run = report.runs[1]
                interval = [run.ratio_ci95.low, run.ratio_ci95.high]
                yield {
                    "net": name,
                    "runtime": runtime,
                    "int8_ms": report.runs[0].median_ms,
                    "float_ms": run.median_ms,
                    "times_faster": run.ratio,
                    "interval": interval,
                    "machine": dict(report.machine),
                    "versions": dict(report.versions),
                }


def read(store: Path) -> list[dict[str, Any]]:
    """What is known; a line that was cut off is left out."""
    rows = []
    for line in store.read_text().splitlines() if store.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the Markdown table, one net each."""
    yield (
        "| net (UNTRAINED) | input | TFLite int8: exact ops | fast path | MB | times faster than float (95 %) "
        "| ONNX int8: exact ops | fast path | MB | times faster than float (95 %) | float TFLite, fp16, ONNX |"
    )
    yield "|---|---:|---|---:|---:|---:|---|---:|---:|---:|---|"
    exports = {(r["net"], r["target"]): r for r in rows if "target" in r}
    times = {(r["net"], r["runtime"]): r for r in rows if "runtime" in r}
    for name in dict.fromkeys(net for net, _ in exports):
        first = exports[name, ORDER[0]]
        cells = [name, str(first["input"][1])]
        for runtime, (int8, _) in PAIRS.items():
            cells += [*_int8(exports.get((name, int8))), _faster(times.get((name, runtime)))]
        cells.append(", ".join(_float(exports.get((name, t))) for t in ORDER if not t.endswith("int8")))
        yield "| " + " | ".join(cells) + " |"


def _int8(row: dict[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return ("", "", "")
    if not row["ok"] or "size_bytes" not in row:
        return (f"{row['error']}: {row['what']}", "", "")
    per_op = row["per_op"]
    return (
        f"{per_op['exact_ops']} of {per_op['ops']}",
        f"{100 * row['macs_share']:.1f} %",
        f"{row['size_bytes'] / 1e6:.1f}",
    )


def _float(row: dict[str, Any] | None) -> str:
    if row is None:
        return "?"
    return "yes" if row["ok"] else f"{row['error']}"


def _faster(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["interval"]
    return f"{row['times_faster']:.2f} ({low:.2f} to {high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="JSON lines; appended to")
    parser.add_argument("--nets", nargs="*", default=None, help="default: all")
    parser.add_argument("--side", type=int, help="of the images; default: each net's own")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, per artifact")
    parser.add_argument("--print", dest="only_print", action="store_true", help="the table of what is in the store")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    all_targets()
    if options.one:
        for row in one_net(options.one, side=options.side, seconds=options.seconds):
            print(json.dumps(row), flush=True)
        return 0
    if not options.only_print:
        run_all(options)
    print("\n".join(table(read(options.store))))
    return 0


def run_all(options: argparse.Namespace) -> None:
    """Every net that is not in the store yet, smallest first."""
    options.store.parent.mkdir(parents=True, exist_ok=True)
    done = {row["net"] for row in read(options.store)}
    names = options.nets or sorted(NETS, key=lambda name: NETS[name].macs)
    for name in names:
        if name in done:
            continue
        command = [sys.executable, __file__, "--store", str(options.store), "--one", name]
        command += ["--seconds", str(options.seconds), *(["--side", str(options.side)] if options.side else [])]
        started = time.perf_counter()
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode:
            print(f"{name}: failed with {child.returncode}; see above", file=sys.stderr)
            continue
        with options.store.open("a") as file:  # all of a net or nothing
            file.write(child.stdout)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
