"""What every verb does alike: progress on stderr, one table or one JSON object on stdout, `key=value` options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgecnn.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgecnn.pipeline.stages import Stages


def progress() -> Console:
    """The console for progress and remarks: stderr, so that stdout stays clean for pipes."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def output() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """A table on stdout, as wide as it needs to be: a line that runs over is better than a number that is cut."""
    from rich.console import Console

    plain = output()
    needed = plain.measure(table, options=plain.options.update(width=1000)).maximum
    Console(highlight=False, soft_wrap=True, width=max(plain.width, needed)).print(table)


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def reporting_stages() -> Stages:
    """Stages that print themselves as they end: name, time, outcome."""
    from rich.markup import escape

    from edgecnn.pipeline.stages import Stages

    console = progress()
    return Stages(
        on_stage=lambda s: console.print(
            f"  {s.name:<10} {'up to date' if s.skipped else f'{s.seconds:6.2f} s  '}  {escape(s.outcome)}".rstrip()
        ),
        on_note=lambda text: console.print(f"  [yellow]note[/yellow]       {escape(text)}"),
        on_bytes=download_bar(console),
    )


def download_bar(console: Console) -> Callable[[int, int | None], None]:
    """A callback that shows a progress bar from the first byte to the last."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        "  download  ", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console
    )
    task = bar.add_task("weights", total=None)

    def update(done: int, total: int | None) -> None:
        if done == 0 or not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=total)
        if total is not None and done >= total:
            bar.stop()

    return update


def pairs(values: Sequence[str], *, option: str) -> dict[str, str]:
    """`key=value` options as a dict.

    Raises:
        UsageError: one has no `=`, or a key stands twice.
    """
    found: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"`{text}` is not of the form key=value", where=option, do=f"write {option} width=0.5")
        if key in found:
            raise UsageError(f"`{key}` is given twice", where=option, got=f"{found[key]} and {value}")
        found[key] = value
    return found


def shape(text: str | None) -> tuple[int, int, int] | None:
    """`3x224x224` as (C, H, W).

    Raises:
        UsageError: it is not three positive numbers with `x` between them.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts):
        raise UsageError(
            f"`{text}` is not an input shape",
            where="--input",
            expected="CHANNELSxHEIGHTxWIDTH",
            do="write --input 3x224x224",
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def grid(*headings: str) -> Table:
    """A plain table without a frame; a heading that ends in `>` is a column of numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading.rstrip(">"), justify="right" if heading.endswith(">") else "left", no_wrap=True)
    return table
