"""`edgecnn list nets`: one line per net, and with -v all that is known of it below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COLUMNS = ("net", "input", "params>", "mult-adds>", "top-1 %>", "top-5 %>", "as published in", "weights")
SOURCE_WIDTH = 39
"""With it the lines have 120 columns."""
UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def print_nets(rows: list[dict[str, Any]], *, details: bool, other_convolutions: list[str]) -> None:
    """The nets on stdout.

    Args:
        rows: of `catalogue.nets`.
        details: also aliases, sources, options and every published accuracy, below each net.
        other_convolutions: the options that replace convolutions, a line each.
    """
    from edgecnn.cli.console import output

    console = output()
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i].rstrip(">")) for line in cells) for i in range(len(COLUMNS))]
    for number, line in enumerate(cells):
        aligned = [
            text.rstrip(">").rjust(width) if heading.endswith(">") else text.ljust(width)
            for text, heading, width in zip(line, COLUMNS, widths, strict=True)
        ]
        console.print("  ".join(aligned).rstrip(), markup=False)
        if number == 0:
            console.print("─" * (sum(widths) + 2 * (len(widths) - 1)))
        elif details:
            for text in _details(rows[number - 1]):
                console.print(f"    {text}", markup=False)
    if details:
        console.print("\nOptions of every net beside its own, except of those with a `p` of their own:")
        for text in other_convolutions:
            console.print(f"    {text}", markup=False)


def short(count: int) -> str:
    """A count in three digits: 2542856 is `2.54 M`."""
    for unit, name in UNITS:
        if count >= unit:
            value = count / unit
            return f"{value:.{3 - len(str(int(value)))}f}" + name
    return str(count)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figure = row["accuracy"] or {"top1": None, "top5": None, "source": "", "note": ""}
    return (
        row["name"],
        row["input"],
        short(row["params"]),
        short(row["macs"]),
        _percent(figure["top1"]),
        _percent(figure["top5"]),
        _short_source(figure),
        row["weights"]["from"] if row["weights"] else "none",
    )


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2f}"


def _short_source(figure: dict[str, Any]) -> str:
    """The first words of source and note: `He et al. 2016, 10 crops`."""
    words = [text.replace(";", ",").split(",")[0] for text in (figure["source"], figure["note"]) if text]
    text = ", ".join(words)
    return text if len(text) <= SOURCE_WIDTH else text[: SOURCE_WIDTH - 1] + "…"


def _details(row: dict[str, Any]) -> Iterator[str]:
    yield row["summary"]
    if row["aliases"]:
        yield "also called  " + ", ".join(row["aliases"])
    yield f"source       {row['source']}"
    if row["weights"]:
        weights = row["weights"]
        yield f"weights      {weights['url']}: top-1 {weights['top1']} %, top-5 {weights['top5']} %"
    for figure in row["published"]:
        yield f"published    {_figure(figure)}"
    for name, meaning in row["options"].items():
        yield f"option       {name}: {meaning}"


def _figure(figure: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{name} {figure[key]} %" for name, key in (("top-1", "top1"), ("top-5", "top5")) if figure[key] is not None
    )
    return f"{rates}: {figure['source']}" + (f" ({figure['note']})" if figure["note"] else "")
