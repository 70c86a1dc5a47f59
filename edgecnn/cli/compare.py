"""`edgecnn compare`: saved measurements beside each other, if they may stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    reports: Annotated[list[Path], typer.Argument(help="Files of `edgecnn bench --save`; ratios refer to the first.")],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare unlike measurements too, and say in the table how they differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Set saved measurements beside each other; refuses unlike ones (device, threads, clocks, versions, input)."""
    from rich.markup import escape

    from edgecnn.bench.saved import compare as set_beside
    from edgecnn.bench.saved import load_saved
    from edgecnn.cli.console import grid, print_json, print_table, progress
    from edgecnn.errors import CheckFailed

    rows = set_beside([(str(path), load_saved(path)) for path in reports])
    apart = [row for row in rows if row.unlike]
    if apart and not anyway:
        raise CheckFailed(
            "these measurements were not taken under like conditions",
            where=f"{apart[0].file}: {apart[0].run.artifact}",
            got="\n".join(apart[0].unlike),
            do="measure both in one `edgecnn bench`, or say --anyway",
        )
    if as_json:
        print_json({"rows": [row.to_json() for row in rows]})
        return
    table = grid("report", "device", "artifact", "median ms>", "ratio>", "verdict", "unlike")
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
        )
    print_table(table)
    if len(reports) > 1:
        say = "between files the rounds were not interleaved: the machine may have changed in the meantime"
        progress().print(f"  note       {say}", markup=False)
