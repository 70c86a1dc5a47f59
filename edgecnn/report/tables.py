"""Comparison tables from plain rows, as Rich, Markdown or CSV; units stand in the headings, doubts in every row.

A mark (untrained weights, emulated timing, unstable measurement) is part of the row's first cell, so that no rendering
and no copied line can lose it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.table

Row = Mapping[str, Any]
ABSENT = "-"
MARKS = "marks"
"""The key of a row's marks: a sequence of words."""


@dataclass(frozen=True)
class Column:
    """One column: the rows' `key`, its heading with the unit, and how a value is written."""

    key: str
    heading: str
    write: Callable[[Any], str]
    number: bool = True

    def cell(self, row: Row) -> str:
        """The text for `row`; a dash where it has no value."""
        value = row.get(self.key)
        return ABSENT if value is None else self.write(value)


def _fixed(digits: int, *, per: float = 1.0) -> Callable[[Any], str]:
    return lambda value: f"{value / per:.{digits}f}"


def _range(digits: int) -> Callable[[Any], str]:
    return lambda ends: f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


COMPARISON: tuple[Column, ...] = (
    Column("net", "net", str, number=False),
    Column("target", "target", str, number=False),
    Column("params", "parameters (k)", _fixed(1, per=1e3)),
    Column("macs", "multiply-adds (M)", _fixed(2, per=1e6)),
    Column("accuracy", "top-1 (%)", _fixed(2, per=1e-2)),
    Column("size_bytes", "size (kB)", _fixed(1, per=1e3)),
    Column("latency_ms", "median (ms)", _fixed(3)),
    Column("ci95_ms", "95 % interval (ms)", _range(3)),
    Column("ratio", "time / first", _fixed(2)),
    Column("ratio_ci95", "95 % interval", _range(2)),
)
"""The columns of a recipe's table. `accuracy` is 0...1, `latency_ms` a median, `ratio` time over the first row's."""


@dataclass(frozen=True)
class Table:
    """Rows under columns; a column that no row has a value for is left out.

    Raises:
        ValueError: a row has keys that no column shows; data must not vanish silently.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    title: str = ""

    def __post_init__(self) -> None:
        known = {column.key for column in self.columns} | {MARKS}
        for row in self.rows:
            if stray := set(row) - known:
                raise ValueError(f"no column shows {sorted(stray)}")

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns that some row has a value for."""
        return tuple(c for c in self.columns if any(row.get(c.key) is not None for row in self.rows))

    def cells(self, row: Row) -> list[str]:
        """The texts of one row; its marks stand in capitals behind the first."""
        first, *others = (column.cell(row) for column in self.shown)
        return [" ".join([first, *(f"({mark.upper()})" for mark in row.get(MARKS, ()))]), *others]

    def to_markdown(self) -> str:
        """The table in Markdown; numbers are aligned to the right."""
        lines = [
            _markdown_line([column.heading for column in self.shown]),
            _markdown_line(["---:" if column.number else "---" for column in self.shown]),
            *(_markdown_line(self.cells(row)) for row in self.rows),
        ]
        heading = f"**{self.title}**\n\n" if self.title else ""
        return heading + "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """The table as CSV, with the raw values under the keys of the rows; an interval takes two columns."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        keys = [column.key for column in self.shown]
        wide = {key for key in keys if any(_is_interval(row.get(key)) for row in self.rows)}
        writer.writerow([*(name for key in keys for name in _csv_names(key, key in wide)), MARKS])
        for row in self.rows:
            values = [value for key in keys for value in _csv_values(row.get(key), key in wide)]
            writer.writerow([*values, " ".join(row.get(MARKS, ()))])
        return out.getvalue()

    def to_rich(self) -> rich.table.Table:
        """The table for a terminal."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(title=self.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in self.shown:
            # A table that is wider than the terminal is better scrolled than cut.
            table.add_column(escape(column.heading), justify="right" if column.number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*(escape(cell) for cell in self.cells(row)))
        return table


def comparison(rows: Sequence[Row], *, title: str = "") -> Table:
    """The table of a recipe: one row per artifact, with keys of `COMPARISON` and `marks`."""
    return Table(tuple(rows), COMPARISON, title)


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _is_interval(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _csv_names(key: str, wide: bool) -> list[str]:
    return [f"{key}_low", f"{key}_high"] if wide else [key]


def _csv_values(value: Any, wide: bool) -> list[Any]:
    if not wide:
        return ["" if value is None else value]
    return ["", ""] if value is None else list(value)
