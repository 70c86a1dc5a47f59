"""What `edgecnn bench` shows on the terminal: the comparison, what stands beside it, profiles and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecnn.bench.profile import Profile
    from edgecnn.bench.records import ArtifactRun, BenchReport
    from edgecnn.bench.sustained import Sustained

Say = Callable[[str], None]
MOST_OPS = 15
CURVE_ROWS = 12


def print_report(report: BenchReport, say: Say) -> None:
    """Latency and verdicts, then the figures beside them, then what the reader must know."""
    from rich.markup import escape

    from edgecnn.artifact import Artifact
    from edgecnn.cli.console import grid, print_table

    table = grid("artifact", "median ms>", "95 % interval>", "p90>", "p99>", "ratio>", "verdict")
    for run in report.runs:
        untrained = Artifact.open(run.artifact).manifest.get("weights", {}).get("untrained")
        marks = [mark for mark, on in (("UNTRAINED", untrained), ("UNSTABLE", run.unstable)) if on]
        table.add_row(
            escape(run.artifact) + "".join(f"  ({mark})" for mark in marks),
            f"{run.median_ms:.3f}",
            f"{run.ci95.low:.3f} - {run.ci95.high:.3f}",
            _ms(run.p90_ms),
            _ms(run.p99_ms),
            f"{run.ratio:.3f} ({run.ratio_ci95.low:.3f} - {run.ratio_ci95.high:.3f})",
            run.verdict,
        )
    print_table(table)
    print_table(_beside(report.runs))
    for run in report.runs:
        for text in (*run.unstable, *run.notes):
            say(f"note       {run.artifact}: {text}")
    for text in report.notes:
        say(f"note       {report.device or 'this machine'}: {text}")
    machine = report.machine
    say(
        (f"{report.device}: " if report.device else "")
        + f"{machine.get('cpu') or 'this machine'}, {report.threads} thread(s), "
        + ", ".join(f"{k} {v}" for k, v in report.versions.items())
    )


def _beside(runs: Sequence[ArtifactRun]) -> Any:
    """What an inference takes with all that is around it; columns that nothing was measured for are left out."""
    from rich.markup import escape

    from edgecnn.cli.console import grid

    columns: list[tuple[str, list[str | None]]] = [
        ("with copies ms>", [_ms(run.copies_ms) for run in runs]),
        ("from pixels ms>", [_ms(run.whole_ms) for run in runs]),
        ("first ms>", [f"{run.first_ms:.2f}" for run in runs]),
        ("load ms>", [f"{run.load_ms:.1f}" for run in runs]),
        ("cold start ms>", [None if run.cold_ms is None else f"{run.cold_ms:.0f}" for run in runs]),
        ("peak MB>", [f"{run.peak_mb:.0f}" for run in runs]),
        ("energy mJ>", [_energy(run) for run in runs]),
    ]
    told = [(head, cells) for head, cells in columns if any(cell not in (None, "-") for cell in cells)]
    table = grid("beside it", *(head for head, _ in told))
    for i, run in enumerate(runs):
        table.add_row(escape(run.artifact), *(cells[i] or "-" for _, cells in told))
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _energy(run: ArtifactRun) -> str | None:
    energy = run.energy
    if energy is None or "sensor" not in energy:
        return None
    return f"{energy['joules_per_run'] * 1e3:.2f}, {energy['above_idle_joules_per_run'] * 1e3:.2f} above idle " + (
        f"({energy['sensor']})"
    )


def print_profile(found: Profile, say: Say) -> None:
    """The slowest operations of the graph."""
    from rich.markup import escape

    from edgecnn.cli.console import grid, print_table

    total = found.total_us
    table = grid("operation (module)", "executed as", "us>", "share>")
    entries = found.by_op()
    for op, kinds, latency_us in entries[:MOST_OPS]:
        table.add_row(escape(op), escape(kinds), f"{latency_us:.1f}", f"{latency_us / total:.1%}" if total else "-")
    print_table(table)
    rest = entries[MOST_OPS:]
    if rest:
        say(f"and {len(rest)} more operations, {sum(e[2] for e in rest):.1f} us together; --json has them all")
    say(f"{found.artifact}: {len(found.rows)} operators, {total:.1f} us in sum, by {found.by}")


def print_curves(found: Sustained, say: Say) -> None:
    """Each artifact's curve in a dozen rows, and when throttling set in."""
    from rich.markup import escape

    from edgecnn.cli.console import grid, print_table

    for curve in found.curves:
        table = grid(f"{escape(curve.artifact)}: after s>", "median ms>", "to the start>", "clock MHz>", "degrees C>")
        step = max(1, len(curve.points) // CURVE_ROWS)
        for point in curve.points[step - 1 :: step]:
            table.add_row(
                f"{point.at_s:.0f}",
                f"{point.median_ms:.3f}",
                f"{point.median_ms / curve.start_ms:.3f}",
                "-" if point.clock_mhz is None else f"{point.clock_mhz:.0f}",
                "-" if point.temp_c is None else f"{point.temp_c:.1f}",
            )
        print_table(table)
        throttling = curve.throttling
        if throttling is None:
            say(f"{curve.artifact}: no throttling in {curve.points[-1].at_s:.0f} s")
        else:
            say(f"{curve.artifact}: throttling set in after {throttling[0]:.0f} s: {throttling[1]}")
        if curve.broken is not None:
            say(f"{curve.artifact}: INTERRUPTED after {curve.points[-1].at_s:.0f} s: {curve.broken}")
    for note in found.notes:
        say(f"note       {note}")
    say(f"{found.device or 'this machine'}: {found.machine.get('cpu')}, {found.threads} thread(s)")
