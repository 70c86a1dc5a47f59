"""`edgecnn run`: a whole recipe, from training to the comparison table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's .toml file, or a name of `edgecnn list recipes`.")],
    work: Annotated[
        Path | None, typer.Option(help="Where results go. Default: work/<recipe>. What is up to date there is kept.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="A profile or path of images in place of the recipe's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train, export, check, evaluate, bench and compare the nets of a recipe."""
    from edgecnn.artifact import atomic_write
    from edgecnn.cli.console import print_json, print_table, progress, reporting_stages
    from edgecnn.pipeline.recipe_run import run_recipe
    from edgecnn.report.tables import comparison

    with progress().status("starting") as status:
        stages = reporting_stages()
        stages.on_start = lambda name: status.update(name)
        found = run_recipe(
            recipe,
            work=work,
            data=data,
            stages=stages,
            on_epoch=lambda label, e: status.update(
                f"train {label}: epoch {e.epoch}/{e.epochs}, loss {e.loss:.3f}, {e.seconds:.1f} s per epoch"
            ),
        )
    table = comparison(found.table_rows(), title=found.title)
    markdown = found.folder / "comparison.md"
    atomic_write(markdown, table.to_markdown().encode())
    if as_json:
        print_json({"folder": str(found.folder), "rows": list(found.rows), "broken": list(found.broken)})
    else:
        print_table(table.to_rich())
        progress().print(f"  written    {markdown} and comparison.json, artifacts beside them", markup=False)
    if found.broken:
        for line in found.broken:
            progress().print(f"CheckFailed: {line}", markup=False)
        raise typer.Exit(1)
