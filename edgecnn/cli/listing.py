"""`edgecnn list`: the nets, targets, recipes and calibration profiles there are."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer


class Things(str, Enum):
    """What can be listed."""

    nets = "nets"
    targets = "targets"
    recipes = "recipes"
    profiles = "profiles"


def list_things(
    what: Annotated[Things, typer.Argument(help="nets, targets, recipes or profiles.")],
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also their options and settings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List what there is to choose from."""
    from edgecnn.cli.console import grid, output, print_json, print_table
    from edgecnn.pipeline import catalogue

    rows: list[dict[str, Any]] = getattr(catalogue, what.value)()
    if as_json:
        print_json({what.value: rows})
        return
    headings, cells = catalogue.COLUMNS[what.value]
    table = grid(*headings)
    for row in rows:
        table.add_row(*(_cell(row[c]) for c in cells))
        if verbose:
            for key, meaning in row.get("options", {}).items():
                table.add_row(f"    {key}", *[""] * (len(cells) - 2), meaning)
    print_table(table)
    if verbose and what is Things.nets:
        output().print("\nOptions of every net beside its own, except of those with a `p` of their own:")
        for line in catalogue.convolution_options():
            output().print(f"    {line}", markup=False)


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return escape(", ".join(value) if isinstance(value, list) else str(value))
