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
    only: Annotated[str, typer.Argument(help="Nets only: those with this in their name or family.")] = "",
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also their options and settings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List what there is to choose from."""
    from edgecnn.cli.console import grid, output, print_json, print_table
    from edgecnn.errors import UsageError
    from edgecnn.pipeline import catalogue

    rows: list[dict[str, Any]] = getattr(catalogue, what.value)()
    if only:
        if what is not Things.nets:
            raise UsageError("only nets can be filtered", where=f"list {what.value} {only}", do="leave the filter out")
        rows = [r for r in rows if any(only in n for n in (r["name"], r["family"], *r["aliases"]))]
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
            for figure in row.get("published", ()):
                table.add_row("    published", *[""] * (len(cells) - 2), _accuracy(figure))
    print_table(table)
    if verbose and what is Things.nets:
        output().print("\nOptions of every net beside its own, except of those with a `p` of their own:")
        for line in catalogue.convolution_options():
            output().print(f"    {line}", markup=False)


def _accuracy(figure: dict[str, Any]) -> str:
    from rich.markup import escape

    rates = [
        f"{name} {figure[key]} %" for name, key in (("top-1", "top1"), ("top-5", "top5")) if figure[key] is not None
    ]
    return escape(", ".join(rates) + f": {figure['source']}" + (f" ({figure['note']})" if figure["note"] else ""))


def _cell(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return escape(", ".join(value) if isinstance(value, list) else str(value))
