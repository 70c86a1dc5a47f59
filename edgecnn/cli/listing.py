"""`edgecnn list`: the nets, building blocks, targets, recipes and calibration profiles there are."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer


class Things(str, Enum):
    """What can be listed."""

    nets = "nets"
    blocks = "blocks"
    targets = "targets"
    recipes = "recipes"
    profiles = "profiles"


def list_things(
    what: Annotated[Things, typer.Argument(help="nets, blocks, targets, recipes or profiles.")],
    only: Annotated[str, typer.Argument(help="Nets only: those with this in their name, family or alias.")] = "",
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also options, settings, and of nets every published accuracy.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List what there is to choose from."""
    from edgecnn.cli.console import grid, print_json, print_table
    from edgecnn.cli.list_nets import print_nets
    from edgecnn.errors import UsageError
    from edgecnn.pipeline import catalogue

    rows: list[dict[str, Any]] = getattr(catalogue, what.value)()
    if only:
        if what is not Things.nets:
            raise UsageError("only nets can be filtered", where=f"list {what.value} {only}", do="leave the filter out")
        part = only.lower()
        rows = [r for r in rows if any(part in n.lower() for n in (r["name"], r["family"], *r["aliases"]))]
    if as_json:
        print_json({what.value: rows})
        return
    if what is Things.nets:
        print_nets(rows, details=verbose, other_convolutions=catalogue.convolution_options())
        return
    headings, cells = catalogue.COLUMNS[what.value]
    table = grid(*headings)
    for row in rows:
        table.add_row(*(_cell(row[c]) for c in cells))
        if verbose:
            for key, meaning in row.get("options", {}).items():
                table.add_row(f"    {key}", *[""] * (len(cells) - 2), meaning)
    print_table(table)


def _cell(value: object) -> str:
    from rich.markup import escape

    return escape(", ".join(value) if isinstance(value, list) else str(value))
