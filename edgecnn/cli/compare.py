"""`edgecnn compare`: saved measurements beside each other, if they may stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Files of `edgecnn bench --save`; ratios refer to the first. Counts become columns."),
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare unlike measurements too, and say in the table how they differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Set saved measurements beside each other; refuses unlike ones (device, threads, clocks, versions, input)."""
    from rich.markup import escape

    from edgecnn.bench.saved import SavedReport
    from edgecnn.bench.saved import compare as set_beside
    from edgecnn.bench.saved_counts import SavedCounts, beside, load_any
    from edgecnn.cli.console import grid, print_json, print_table, progress
    from edgecnn.errors import CheckFailed

    loaded = [(str(path), load_any(path)) for path in reports]
    timed = [(file, saved) for file, saved in loaded if isinstance(saved, SavedReport)]
    rows = set_beside(timed) if timed else []
    cores, counts = beside([(file, saved) for file, saved in loaded if isinstance(saved, SavedCounts)])
    apart = [row for row in rows if row.unlike]
    if apart and not anyway:
        raise CheckFailed(
            "these measurements were not taken under like conditions",
            where=f"{apart[0].file}: {apart[0].run.artifact}",
            got="\n".join(apart[0].unlike),
            do="measure both in one `edgecnn bench`, or say --anyway",
        )
    if as_json:
        counted = [row.to_json() for row in counts]
        print_json({"rows": [row.to_json() for row in rows], **({"instructions": counted} if counts else {})})
        return
    table = grid("report", "device", "artifact", "median ms>", "ratio>", "verdict", "unlike", *(f"{c}>" for c in cores))
    by_file = {row.sha256: row for row in counts}

    def instructions(sha256: str) -> list[str]:
        row = by_file.get(sha256)
        if row is None:
            return ["-"] * len(cores)
        cells = [(row.instructions.get(core), row.ratios.get(core)) for core in cores]
        return ["-" if total is None else f"{total / 1e6:.2f} M ({ratio:.3f})" for total, ratio in cells]

    for row in rows:
        ratio = "1" if row.ratio is None or row.ci95 is None else f"{row.ratio:.3f}"
        interval = "" if row.ci95 is None else f" ({row.ci95.low:.3f} - {row.ci95.high:.3f})"
        marks = "  (UNSTABLE)" if row.run.unstable else ""
        table.add_row(
            escape(row.file),
            escape(row.device),
            escape(row.run.artifact) + marks,
            f"{row.median_ms:.3f}",
            ratio + interval,
            row.verdict,
            escape("; ".join(row.unlike)),
            *instructions(row.run.sha256),
        )
    for one in counts:
        if one.sha256 not in {row.run.sha256 for row in rows}:
            table.add_row("", "emulated", escape(one.artifact), "-", "-", "", "", *instructions(one.sha256))
    print_table(table)
    console = progress()
    if len(timed) > 1:
        say = "between files the rounds were not interleaved: the machine may have changed in the meantime"
        console.print(f"  note       {say}", markup=False)
    if counts:
        say = "EMULATED columns: executed instructions per inference, with the ratio to the first artifact; no times"
        console.print(f"  note       {say}", markup=False)
