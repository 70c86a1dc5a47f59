"""`edgecnn eval`: accuracy on images, of the artifact itself in its runtime."""

from __future__ import annotations

from typing import Annotated

import typer


def evaluate(
    artifact: Annotated[str, typer.Argument(help="A .tflite or .onnx file, a bundle, or a net (with --weights).")],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A profile, or a folder or archive with one subfolder per class.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many images, drawn by --seed.")] = None,
    weights: Annotated[str | None, typer.Option(help="For a net: imagenet, random, or a file.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="For a net: CxHxW.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="For a net: key=value. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of --limit and of random weights.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one inference.")] = 1,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure top-1 and top-5 accuracy on held-out images."""
    from rich.progress import Progress

    from edgecnn.cli.console import grid, pairs, print_json, print_table, progress, shape
    from edgecnn.pipeline.evaluate import evaluate as run_evaluate

    options = pairs(net_option or [], option="--net-option")
    with Progress(console=progress(), transient=True) as bar:
        task = bar.add_task("images", total=None)
        found = run_evaluate(
            artifact,
            data=data,
            limit=limit,
            threads=threads,
            seed=seed,
            skip_unreadable=skip_unreadable,
            on_images=lambda done, total: bar.update(task, completed=done, total=total),
            weights=weights,
            input_shape=shape(input_shape),
            options=options,
        )
    for note in found.notes:
        progress().print(f"  note       {note}", markup=False)
    if found.skipped:
        progress().print(f"  note       {found.skipped} unreadable images were left out", markup=False)
    if as_json:
        print_json(found.to_json())
        return
    table = grid("artifact", "top-1 %>", "top-5 %>", "images>", "data")
    mark = "  (UNTRAINED)" if found.untrained else ""
    table.add_row(found.artifact + mark, f"{found.top1:.2f}", f"{found.top5:.2f}", str(found.n), found.data)
    print_table(table)
