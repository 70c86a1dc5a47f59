"""`edgecnn replay`: a saved measurement again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgecnn.bench.replay import Again


def replay(
    report: Annotated[Path, typer.Argument(help="A file of `edgecnn bench --save`.")],
    device: Annotated[
        str | None, typer.Option(help="The device it was taken on, if its file has another name now.")
    ] = None,
    within: Annotated[
        float, typer.Option(min=0, max=100, help="Percent that the machine may differ by and count as the same.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure the same files with the same settings on the same device again: the same, or different because of what.

    Exits 0 if all are the same, and 1 if one differs.
    """
    from rich.markup import escape

    from edgecnn.bench.replay import check_files
    from edgecnn.bench.replay import replay as run_replay
    from edgecnn.bench.saved import load_saved
    from edgecnn.cli.console import grid, print_json, print_table, progress
    from edgecnn.device.place import Remote
    from edgecnn.device.profile import load_device
    from edgecnn.errors import CheckFailed

    console = progress()

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    saved = load_saved(report)
    check_files(saved)
    name = device or saved.device
    if name is None:
        found = run_replay(saved, device=None, within=within / 100, progress=say)
    else:
        with Remote(*load_device(name)) as remote:
            found = run_replay(saved, device=remote, within=within / 100, progress=say)
    if as_json:
        print_json({"report": str(report), "within_percent": within, "artifacts": [one.to_json() for one in found]})
    else:
        table = grid("artifact", "then ms>", "now ms>", "now / then>", "verdict")
        for one in found:
            interval = f"{one.ratio:.3f} ({one.ci95.low:.3f} - {one.ci95.high:.3f})"
            verdict = f"same within {within:g} %" if one.same else "DIFFERENT"
            table.add_row(escape(one.artifact), f"{one.then_ms:.3f}", f"{one.now_ms:.3f}", interval, verdict)
        print_table(table)
        for one in found:
            for reason in one.because:
                say(f"note       {one.artifact}: {reason}")
    if apart := [one for one in found if not one.same]:
        raise CheckFailed(
            f"`{apart[0].artifact}` takes {apart[0].ratio:.3f} times what it took",
            where=str(report),
            got=_why(apart[0]),
            do="look at the conditions; with none that differs, other load, heat or the hosting machine remain",
        )


def _why(one: Again) -> str:
    return "\n".join(one.because) or "no recorded condition differs"
