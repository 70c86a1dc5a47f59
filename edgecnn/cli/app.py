"""The command line: one command per verb. Each verb's file is light; torch and the runtimes load only when it runs."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperGroup

from edgecnn.cli import (
    bench,
    compare,
    devices,
    doctor,
    evaluate,
    export,
    lint,
    listing,
    predict,
    prune,
    qat,
    quantize,
    replay,
    run,
    sensitivity,
    show,
    train,
    tune,
)

PAIRS_OPTIONS = ("--net-option", "--set")
PAIR = re.compile(r"[A-Za-z_]\w*=")


def spread_pairs(args: list[str]) -> list[str]:
    """`args` in which every key=value after a --net-option or --set has that option of its own.

    Example:
        >>> spread_pairs(["show", "resnet18", "--net-option", "conv=hetconv", "P=4"])
        ['show', 'resnet18', '--net-option', 'conv=hetconv', '--net-option', 'P=4']
    """
    spread: list[str] = []
    for arg in args:
        after_a_pair = spread[-2:-1] and spread[-2] in PAIRS_OPTIONS and PAIR.match(spread[-1])
        spread += [spread[-2], arg] if after_a_pair and PAIR.match(arg) else [arg]
    return spread


class _Verbs(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_pairs(args))


app = typer.Typer(
    name="edgecnn",
    cls=_Verbs,
    help="From a small CNN to the fastest correct artifact for a device: fold, quantise, export, prove, measure.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 bad input or a device that failed, "
    "4 an op cannot be lowered, 5 the environment lacks something, 70 a bug in edgecnn, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("compare")(compare.compare)
app.command("replay")(replay.replay)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("quantize")(quantize.quantize)
app.command("qat")(qat.qat)
app.command("prune")(prune.prune)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("run")(run.run)
app.command("list")(listing.list_things)
app.command("show")(show.show)
app.command("lint")(lint.lint)
app.add_typer(devices.app, name="devices")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from edgecnn import __version__

        typer.echo(f"edgecnn {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="The version."),
) -> None:
    """From a small CNN to the fastest correct artifact for a device."""
