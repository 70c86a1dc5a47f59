"""`edgecnn bench`: is A faster than B, on this machine or on a device?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecnn.bench.records import BenchReport


def bench(
    artifacts: Annotated[list[str], typer.Argument(help=".tflite and .onnx files; ratios refer to the first.")],
    device: Annotated[
        list[str] | None,
        typer.Option(help="Measure there: a name of `edgecnn devices` or a .toml file; may be given several times."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    min_seconds: Annotated[float, typer.Option(min=0.01, help="How long each artifact is timed in all.")] = 2.0,
    blocks: Annotated[int, typer.Option(min=6, help="Rounds; in each, every artifact is timed once.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random inputs and the bootstrap.")] = 0,
    core: Annotated[
        str, typer.Option(help="On an emulated device: the cores to count instructions for, separated by commas.")
    ] = "cortex-a53,cortex-a72,cortex-a76,i8mm",
    claim: Annotated[
        str | None,
        typer.Option("--assert", help='Exit 1 unless it holds: "B < A", "B < A by 2%"; A is the first artifact.'),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was pushed on the device.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the report with its raw samples to this JSON file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --save.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time artifacts against each other: fresh processes, interleaved A B B A, raw samples kept, intervals stated.

    On an emulated device the executed instructions of an inference are counted instead: no time is ever given.
    """
    import json

    from edgecnn.artifact import atomic_write, refuse_existing
    from edgecnn.bench.claim import parse_claim
    from edgecnn.bench.run import bench as run_bench
    from edgecnn.cli.bench_count import count_and_print
    from edgecnn.cli.console import print_json, progress
    from edgecnn.errors import CheckFailed, UsageError

    if save is not None:
        refuse_existing(save, overwrite=overwrite)
    claimed = parse_claim(claim, artifacts) if claim is not None else None
    if device and _emulated(device):
        if claimed is not None:
            raise UsageError("instructions are no latency", where="--assert", do="leave it out, or name a real device")
        counts = count_and_print(artifacts, core.split(","), as_json=as_json)
        if save is not None:
            atomic_write(save, (json.dumps(counts) + "\n").encode())
        return
    console = progress()

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    def measure(remote: Any, say: Callable[[str], None]) -> BenchReport:
        return run_bench(
            artifacts,
            threads=threads,
            min_seconds=min_seconds,
            blocks=blocks,
            seed=seed,
            device=remote,
            progress=say,
        )

    reports, failures = _on_devices(device, measure, say, keep) if device else ([measure(None, say)], [])

    def content(samples: bool) -> dict[str, Any]:
        records = [report.to_json(samples=samples) for report in reports]
        return records[0] if len(device or ()) < 2 else {"devices": {str(r["device"]): r for r in records}}

    if reports and save is not None:
        atomic_write(save, (json.dumps(content(samples=True)) + "\n").encode())
    if reports and as_json:
        print_json(content(samples=False))
    elif not as_json:
        for report in reports:
            _print(report, say)
    for failure in failures[:-1]:
        say(str(failure))
    if failures:
        raise failures[-1]
    if claimed is not None:
        findings = [(report, claimed.judge(report)) for report in reports]
        for report, finding in findings:
            say(f"{report.device + ': ' if report.device else ''}{finding}")
        if missed := [finding for _, finding in findings if finding.outcome != "holds"]:
            raise CheckFailed(f"`{claimed}` was not shown", where="--assert", got=str(missed[0]))


def _emulated(names: list[str]) -> bool:
    """Whether the one device is emulated, so that instructions are counted there."""
    from edgecnn.device.profile import load_device
    from edgecnn.errors import UsageError

    emulated = [name for name in names if load_device(name)[1].emulated]
    if emulated and len(names) > 1:
        raise UsageError(
            f"`{emulated[0]}` is emulated, its instructions cannot stand beside times of other devices",
            where="--device",
            do="measure it in a run of its own",
        )
    return bool(emulated)


def _on_devices(
    names: list[str],
    measure: Callable[[Any, Callable[[str], None]], BenchReport],
    say: Callable[[str], None],
    keep: bool,
) -> tuple[list[BenchReport], list[Exception]]:
    """The reports of all devices, side by side, and the failures of those that failed."""
    from concurrent.futures import ThreadPoolExecutor

    from edgecnn.device.place import Remote
    from edgecnn.device.profile import load_device
    from edgecnn.errors import EdgecnnError, UsageError

    loaded = [load_device(name) for name in names]
    if len({name for name, _ in loaded}) < len(loaded):
        raise UsageError("a device is given twice", where="--device", do="name each once")

    def one(name: str, profile: Any) -> BenchReport:
        with Remote(name, profile, keep=keep) as remote:
            if keep:
                say(f"{name}: what is pushed stays in {remote.folder}")
            return measure(remote, lambda line: say(f"{name}: {line}"))

    reports: list[BenchReport] = []
    failures: list[Exception] = []
    with ThreadPoolExecutor(len(loaded)) as pool:
        for future in [pool.submit(one, *pair) for pair in loaded]:
            try:
                reports.append(future.result())
            except EdgecnnError as failure:
                failures.append(failure)
    return reports, failures


def _print(report: BenchReport, say: Callable[[str], None]) -> None:
    from rich.markup import escape

    from edgecnn.artifact import Artifact
    from edgecnn.cli.console import grid, print_table

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
            say(f"note       {run.artifact}: {text}")
    for text in report.notes:
        say(f"note       {report.device}: {text}")
    machine = report.machine
    say(
        (f"{report.device}: " if report.device else "")
        + f"{machine.get('cpu') or 'this machine'}, {report.threads} thread(s), "
        + ", ".join(f"{k} {v}" for k, v in report.versions.items())
    )
