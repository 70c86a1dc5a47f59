"""`edgecnn quantize`: integers that lose no more accuracy than they may, by the least effort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgecnn.pipeline.quantize import Quantized


def quantize(
    net: Annotated[str, typer.Argument(help="A bundle, or a net with weights.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write (.safetensors).")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="One of `edgecnn list targets` that has codes.")
    ] = "tflite-int8",
    cpu: Annotated[
        str | None,
        typer.Option(help="The core: x86, x86-amx, armv8-a53, armv8, armv8-dot, armv8-i8mm. Default: this machine's."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for the target (see `edgecnn list targets -v`). Repeatable."),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Points of top-1 that may be lost.")] = 1.0,
    to: Annotated[str | None, typer.Option(help="The last rung to try. Default: as far as needed.")] = None,
    every_rung: Annotated[
        bool, typer.Option("--every-rung", help="Climb on where the drop is small enough already.")
    ] = False,
    estimator: Annotated[
        str, typer.Option(help="Of the first rung: mse, mean-minmax, minmax, percentile, entropy.")
    ] = "mse",
    images: Annotated[int, typer.Option(min=1, help="Calibration images, from the training split.")] = 512,
    probes: Annotated[int, typer.Option(min=1, help="Of these, how many are run for each trial.")] = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Images for each accuracy. Default: all.")] = None,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure latency.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="What is left of each value, and what each op costs; plot it too.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="The report's plot. Default: beside the bundle, .png.")] = None,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="For a net: key=value. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the images that are drawn.")] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Quantise a net, climbing from plain ranges to costlier ways until it is accurate; `edgecnn export` takes it."""
    from edgecnn.artifact import refuse_existing
    from edgecnn.cli.console import pairs, print_json, reporting_stages, shape
    from edgecnn.cli.training import bundle_path
    from edgecnn.pipeline.quantize import QuantizeOptions, record_path, write
    from edgecnn.pipeline.quantize import quantize as run
    from edgecnn.report.plots import check_plot_path

    path = bundle_path(output)
    picture = (plot or path.with_suffix(".report.png")) if report or plot else None
    if picture is not None:
        check_plot_path(picture)
    refuse_existing(path, record_path(path), *([picture] if picture else []), overwrite=overwrite)
    found = run(
        net,
        data=data,
        options=QuantizeOptions(
            target=target,
            cpu=cpu,
            settings=pairs(setting or [], option="--set"),
            max_drop=max_drop,
            highest=to,
            everything=every_rung,
            estimator=estimator,
            images=images,
            probes=probes,
            limit=limit,
            latency=not no_latency,
            seed=seed,
            skip_unreadable=skip_unreadable,
        ),
        report=picture is not None,
        stages=reporting_stages(),
        weights=weights,
        input_shape=shape(input_shape),
        options_of_net=pairs(net_option or [], option="--net-option"),
    )
    write(found, path, overwrite=overwrite)
    if picture is not None:
        _plot(found, picture)
    if as_json:
        print_json({"bundle": str(path), **found.to_json()})
    else:
        _print(found, path, picture)
    if not found.within:
        raise typer.Exit(1)


def _plot(found: Quantized, path: Path) -> None:
    from edgecnn.report.plots import plot_bars

    plot_bars(
        path,
        {
            "signal to noise of the value (dB)": {value.name: value.sqnr_db for value in found.values},
            "output's signal to noise, this op alone quantised (dB)": {op.name: op.sqnr_db for op in found.ops},
        },
        title=f"{found.source.name} for {found.coding.target}: {found.best}",
    )


def _print(found: Quantized, path: Path, picture: Path | None) -> None:
    from edgecnn.cli.console import grid, output, print_table

    if found.values:
        values = grid("value", "made by", "SQNR (dB)>", "saturated (%)>", "codes used (%)>")
        for value in found.values:
            numbers = (f"{value.sqnr_db:.1f}", f"{100 * value.saturated:.3f}", f"{100 * value.used:.0f}")
            values.add_row(value.name, value.kind, *numbers)
        print_table(values)
        ops = grid("op, alone quantised", "kind", "output's SQNR (dB)>", "noise (%)>")
        total = sum(op.noise for op in found.ops)
        for op in found.ops:
            ops.add_row(op.name, op.kind, f"{op.sqnr_db:.1f}", f"{100 * op.noise / max(total, 1e-30):.1f}")
        print_table(ops)
    table = grid("rung", "top-1 (%)>", "95 %>", "points lost>", "SQNR (dB)>", "latency / float>", "what it does")
    low, high = found.float_interval
    table.add_row("float", f"{found.float_top1:.2f}", f"{low:.2f}-{high:.2f}", "", "", "1.00", "")
    for step in found.steps:
        low, high = step.interval
        table.add_row(
            f"{step.rung} *" if step.rung == found.best else step.rung,
            f"{step.top1:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{step.lost:+.2f} ± {step.lost_half:.2f}",
            f"{step.sqnr_db:.1f}",
            "" if step.ratio is None else f"{step.ratio:.2f}",
            step.does,
        )
    print_table(table)
    out = output()
    if found.within:
        out.print(f"kept       {found.best}, in `{path}`", markup=False)
    else:
        lost = found.step.lost
        out.print(
            f"kept       {found.best}, in `{path}`; it loses {lost:.2f} points, more than {found.max_drop:g}",
            markup=False,
        )
    if picture is not None:
        out.print(f"plot       {picture}", markup=False)
