"""What the verbs that train have in common: their options as settings, and progress with the time that is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.cli.console import pairs, progress
from edgecnn.errors import UsageError

if TYPE_CHECKING:
    from edgecnn.pipeline.train import Trained
    from edgecnn.train.settings import TrainSettings
    from edgecnn.train.trainer import EpochReport, StepReport

SET_HELP = "key=value of a recipe's [train] table, such as ema=0.999 or mixup=0.2. Repeatable."


def train_settings(base: TrainSettings, given: dict[str, Any], pairs_given: Sequence[str]) -> TrainSettings:
    """`base` with the options that were given, and the `key=value` of --set over them.

    Raises:
        UsageError: a key there is not, or a value that is not legal; all are listed.
    """
    from edgecnn.data.settings import parse_settings
    from edgecnn.train.settings import TrainSettings

    table = {key: value for key, value in given.items() if value is not None}
    table |= {key: _value(text) for key, text in pairs(pairs_given, option="--set").items()}
    return parse_settings(TrainSettings, {**base.model_dump(), **table}, where="--set")


def _value(text: str) -> int | float | str:
    """A number where it is one, as TOML has it; a name otherwise."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextmanager
def training_progress() -> Iterator[tuple[Callable[[EpochReport], None], Callable[[StepReport], None]]]:
    """Callbacks for each epoch (a line) and each step (a bar with the time left), on stderr.

    Only the first of several processes shows anything.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = progress()
    console.quiet = os.environ.get("RANK", "0") != "0"
    bar = Progress(
        TextColumn("  epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log file gets the lines alone
    )
    with bar:
        task = bar.add_task("steps", total=None, start=False, visible=False, epoch="1", loss=float("nan"))

        def on_step(report: StepReport) -> None:
            if not bar.tasks[0].started:
                # From here on the speed is measured; a run that goes on has its first steps behind it.
                bar.update(task, completed=report.done, total=report.steps, visible=True)
                bar.start_task(task)
            bar.update(task, completed=report.done, total=report.steps, epoch=str(report.epoch), loss=report.loss)

        def on_epoch(report: EpochReport) -> None:
            console.print(
                f"  epoch      {report.epoch:>3}/{report.epochs}  loss {report.loss:.4f}  "
                f"right {report.train_top1:6.2f} %  {report.seconds:7.1f} s"
            )

        yield on_epoch, on_step


def print_trained(found: Trained, *, as_json: bool) -> None:
    """The result on stdout; the first of several processes speaks for all."""
    from edgecnn.cli.console import grid, print_json, print_table

    if not found.leads:
        return
    for note in found.notes:
        progress().print(f"  note       {note}", markup=False)
    if as_json:
        print_json(found.to_json())
        return
    table = grid("bundle", "before %>", "top-1 %>", "top-5 %>", "images>", "seconds>")
    before = "" if found.before is None else f"{found.before.top1:.2f}"
    after = found.accuracy
    table.add_row(
        str(found.path), before, f"{after.top1:.2f}", f"{after.top5:.2f}", str(after.n), f"{found.seconds:.1f}"
    )
    print_table(table)


def bundle_path(path: Path) -> Path:
    """`path`, if it is named as bundles are.

    Raises:
        UsageError: it is not, and no verb would take it for a bundle.
    """
    if path.suffix != ".safetensors":
        raise UsageError(
            f"`{path}` is not the name of a bundle",
            where="--output",
            expected="a file that ends in .safetensors",
            do=f"write -o {path / 'net.safetensors' if path.is_dir() else path.with_name(path.name + '.safetensors')}",
        )
    return path
