"""`edgecnn sensitivity`: which layers of a net can be pruned, and which cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgecnn.pipeline.sensitivity import Sensitivity


def sensitivity(
    net: Annotated[str, typer.Argument(help="A bundle, or a net with weights.")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    ratios: Annotated[str, typer.Option(help="Shares of a group that are left, with commas.")] = "0.9,0.75,0.5,0.25",
    score: Annotated[str, typer.Option(help="What a filter is worth: l1, l2, bn, taylor, fpgm, random.")] = "l1",
    keep: Annotated[list[str] | None, typer.Option(help="Layers left out, such as 'layer4.*'. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images for each accuracy. Default: all.")] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure batch norm's statistics again each time.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="A plot to write (.png, .svg, .pdf).")] = None,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="For a net: key=value. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of chance and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Prune each group of channels alone, without retraining, and print the accuracy by how much of it is left."""
    from edgecnn.cli.console import pairs, print_json, reporting_stages, shape
    from edgecnn.pipeline.sensitivity import sensitivity as run
    from edgecnn.report.plots import check_plot_path, plot_curves

    if plot is not None:
        check_plot_path(plot)
    found = run(
        net,
        data=data,
        ratios=_ratios(ratios),
        score=score,
        keep=tuple(keep or ()),
        limit=limit,
        recalibrate=recalibrate,
        seed=seed,
        stages=reporting_stages(),
        weights=weights,
        input_shape=shape(input_shape),
        options=pairs(net_option or [], option="--net-option"),
    )
    if plot is not None:
        plot_curves(
            plot,
            (1.0, *found.ratios),
            {group.name: (found.whole.top1, *group.top1.values()) for group in found.groups},
            title=f"{found.net}: one group pruned at a time, by {found.score}",
            x_label="share of the group's channels that is left",
            y_label=f"top-1 (%), {found.whole.n} images",
            level=found.whole.top1,
        )
    print_json(found.to_json()) if as_json else _print(found)


def _ratios(text: str) -> tuple[float, ...]:
    from edgecnn.errors import UsageError

    try:
        found = {float(part) for part in text.split(",")}
    except ValueError:
        raise UsageError(
            f"`{text}` are no ratios", where="--ratios", expected="numbers with commas, such as 0.75,0.5"
        ) from None
    return tuple(sorted(found, reverse=True))


def _print(found: Sensitivity) -> None:
    from edgecnn.cli.console import grid, output, print_table

    table = grid("top-1 (%)", "layers>", "channels>", *(f"{ratio:g} left>" for ratio in found.ratios))
    for group in found.groups:
        accuracies = (f"{top1:.2f}" for top1 in group.top1.values())
        table.add_row(group.name, str(len(group.layers)), str(group.channels), *accuracies)
    print_table(table)
    output().print(f"unpruned   {found.whole.top1:.2f} % of {found.whole.n} images")
