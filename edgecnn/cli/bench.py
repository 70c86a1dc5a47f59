"""`edgecnn bench`: is A faster than B, on this machine or on a device?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgecnn.bench.profile import Profile
    from edgecnn.bench.records import BenchReport

T = TypeVar("T")


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
    profile: Annotated[bool, typer.Option("--profile", help="Also the time of each operator.")] = False,
    sustained: Annotated[
        str | None,
        typer.Option(help="Instead: run each artifact without a pause for so long (90s, 5m), and show the curve."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was pushed on the device.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the report with its raw samples to this JSON file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted measurement of the same --save.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --save.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Time artifacts against each other: fresh processes, interleaved A B B A, raw samples kept, intervals stated.

    On an emulated device the executed instructions of an inference are counted instead: no time is ever given.
    """
    import json

    from edgecnn.artifact import atomic_write, refuse_existing
    from edgecnn.bench.checkpoint import partial_path
    from edgecnn.bench.claim import parse_claim
    from edgecnn.bench.profile import profile as run_profile
    from edgecnn.bench.run import bench as run_bench
    from edgecnn.cli.bench_count import count_and_print
    from edgecnn.cli.bench_print import print_profile, print_report
    from edgecnn.cli.console import print_json, progress
    from edgecnn.errors import CheckFailed, UsageError

    if save is not None:
        refuse_existing(save, overwrite=overwrite)
    if resume and (save is None or sustained is not None):
        raise UsageError("nothing says which measurement to resume", where="--resume", do="give its --save as well")
    claimed = parse_claim(claim, artifacts) if claim is not None else None
    emulated = bool(device) and _emulated(device or [])
    if (emulated or sustained is not None) and (claimed is not None or profile):
        raise UsageError(
            f"{'instructions are' if emulated else 'a curve is'} no comparison of latencies",
            where="--assert or --profile",
            do="leave it out" + (", or name a real device" if emulated else ""),
        )
    if emulated:
        if sustained is not None or resume:
            raise UsageError("an emulated device gives no times", where="--sustained or --resume", do="leave it out")
        counts = count_and_print(artifacts, core.split(","), as_json=as_json)
        if save is not None:
            atomic_write(save, (json.dumps(counts) + "\n").encode())
        return
    console = progress()

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    if sustained is not None:
        _sustained(artifacts, sustained, device, threads, seed, keep, save, as_json, say)
        return

    def measure(remote: Any, say: Callable[[str], None]) -> tuple[BenchReport, list[Profile]]:
        report = run_bench(
            artifacts,
            threads=threads,
            min_seconds=min_seconds,
            blocks=blocks,
            seed=seed,
            device=remote,
            checkpoint=None if save is None else partial_path(save, remote.name if remote is not None else None),
            resume=resume,
            progress=say,
        )
        if not profile:
            return report, []
        say("timing each operator")
        return report, [run_profile(path, threads=threads, seed=seed, device=remote) for path in artifacts]

    found, failures = _on_devices(device, measure, say, keep) if device else ([measure(None, say)], [])

    def content(samples: bool) -> dict[str, Any]:
        records = [report.to_json(samples=samples) for report, _ in found]
        for record, (_, profiles) in zip(records, found, strict=True):
            for run, one in zip(record["runs"], profiles, strict=False):
                run["profile"] = one.to_json()
        return records[0] if len(device or ()) < 2 else {"devices": {str(r["device"]): r for r in records}}

    if found and save is not None:
        atomic_write(save, (json.dumps(content(samples=True)) + "\n").encode())
    if found and as_json:
        print_json(content(samples=False))
    elif not as_json:
        for report, profiles in found:
            print_report(report, say)
            for one in profiles:
                print_profile(one, say)
    for failure in failures[:-1]:
        say(str(failure))
    if failures:
        raise failures[-1]
    if claimed is not None:
        findings = [(report, claimed.judge(report)) for report, _ in found]
        for report, finding in findings:
            say(f"{report.device + ': ' if report.device else ''}{finding}")
        if missed := [finding for _, finding in findings if finding.outcome != "holds"]:
            raise CheckFailed(f"`{claimed}` was not shown", where="--assert", got=str(missed[0]))


def _sustained(
    artifacts: Sequence[str],
    duration: str,
    device: list[str] | None,
    threads: int,
    seed: int,
    keep: bool,
    save: Path | None,
    as_json: bool,
    say: Callable[[str], None],
) -> None:
    import json

    from edgecnn.artifact import atomic_write
    from edgecnn.bench.sustained import parse_duration
    from edgecnn.bench.sustained import sustained as run_sustained
    from edgecnn.cli.bench_print import print_curves
    from edgecnn.cli.console import print_json
    from edgecnn.errors import DeviceFailed

    seconds = parse_duration(duration)

    def measure(remote: Any, say: Callable[[str], None]) -> Any:
        return run_sustained(artifacts, seconds=seconds, threads=threads, seed=seed, device=remote, progress=say)

    found, failures = _on_devices(device, measure, say, keep) if device else ([measure(None, say)], [])
    records = [one.to_json() for one in found]
    content = records[0] if len(device or ()) < 2 and records else {"devices": {r["device"]: r for r in records}}
    if found and save is not None:
        atomic_write(save, (json.dumps(content) + "\n").encode())
    if as_json:
        print_json(content)
    else:
        for one in found:
            print_curves(one, say)
    if failures:
        raise failures[-1]
    if broken := [curve for one in found for curve in one.curves if curve.broken is not None]:
        raise DeviceFailed(f"the curve of `{broken[0].artifact}` is not whole", got=broken[0].broken)


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
    names: list[str], measure: Callable[[Any, Callable[[str], None]], T], say: Callable[[str], None], keep: bool
) -> tuple[list[T], list[Exception]]:
    """What was measured on each device, side by side, and the failures of those that failed."""
    from concurrent.futures import ThreadPoolExecutor

    from edgecnn.device.place import Remote
    from edgecnn.device.profile import load_device
    from edgecnn.errors import EdgecnnError, UsageError

    loaded = [load_device(name) for name in names]
    if len({name for name, _ in loaded}) < len(loaded):
        raise UsageError("a device is given twice", where="--device", do="name each once")

    def one(name: str, profile: Any) -> T:
        with Remote(name, profile, keep=keep) as remote:
            if keep:
                say(f"{name}: what is pushed stays in {remote.folder}")
            return measure(remote, lambda line: say(f"{name}: {line}"))

    found: list[T] = []
    failures: list[Exception] = []
    with ThreadPoolExecutor(len(loaded)) as pool:
        for future in [pool.submit(one, *pair) for pair in loaded]:
            try:
                found.append(future.result())
            except EdgecnnError as failure:
                failures.append(failure)
    return found, failures
