"""`edgecnn bench`: is A faster than B, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    artifacts: Annotated[list[str], typer.Argument(help=".tflite and .onnx files; ratios refer to the first.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    min_seconds: Annotated[float, typer.Option(min=0.01, help="How long each artifact is timed in all.")] = 2.0,
    blocks: Annotated[int, typer.Option(min=6, help="Rounds; in each, every artifact is timed once.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random inputs and the bootstrap.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Write the report with its raw samples to this JSON file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --save.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time artifacts against each other: fresh processes, interleaved A B B A, raw samples kept, intervals stated."""
    import json

    from rich.markup import escape

    from edgecnn.artifact import Artifact, atomic_write, refuse_existing
    from edgecnn.bench.run import bench as run_bench
    from edgecnn.cli.console import grid, print_json, print_table, progress

    if save is not None:
        refuse_existing(save, overwrite=overwrite)
    console = progress()
    report = run_bench(
        artifacts,
        threads=threads,
        min_seconds=min_seconds,
        blocks=blocks,
        seed=seed,
        progress=lambda line: console.print(f"  {line}", markup=False),
    )
    if save is not None:
        atomic_write(save, (json.dumps(report.to_json(samples=True)) + "\n").encode())
    if as_json:
        print_json(report.to_json())
        return
    table = grid(
        "artifact",
        "median ms>",
        "95 % interval>",
        "p90>",
        "p99>",
        "first ms>",
        "load ms>",
        "peak MB>",
        "ratio>",
        "verdict",
    )
    for run in report.runs:
        manifest = Artifact.open(run.artifact).manifest
        marks = "".join(
            f"  ({mark})"
            for mark, on in (
                ("UNTRAINED", manifest.get("weights", {}).get("untrained")),
                ("UNSTABLE", run.unstable),
            )
            if on
        )
        table.add_row(
            escape(run.artifact) + marks,
            f"{run.median_ms:.3f}",
            f"{run.ci95.low:.3f} - {run.ci95.high:.3f}",
            f"{run.p90_ms:.3f}",
            f"{run.p99_ms:.3f}",
            f"{run.first_ms:.2f}",
            f"{run.load_ms:.1f}",
            f"{run.peak_mb:.0f}",
            f"{run.ratio:.3f} ({run.ratio_ci95.low:.3f} - {run.ratio_ci95.high:.3f})",
            run.verdict,
        )
    print_table(table)
    for run in report.runs:
        for text in (*run.unstable, *run.notes):
            console.print(f"  note       {run.artifact}: {text}", markup=False)
    machine = report.machine
    console.print(
        f"  {machine.get('cpu') or machine.get('model') or 'this machine'}, {threads} thread(s), "
        + ", ".join(f"{k} {v}" for k, v in report.versions.items()),
        markup=False,
    )
