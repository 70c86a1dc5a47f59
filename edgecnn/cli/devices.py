"""`edgecnn devices`: the devices there are, and what one of them is like."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="List the devices there are, or check one.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
) -> None:
    """List the devices there are: TOML files under recipes/devices, here, in your configuration, and shipped."""
    if context.invoked_subcommand is not None:
        return
    from rich.markup import escape

    from edgecnn.cli.console import grid, print_json, print_table
    from edgecnn.device.profile import rows

    found = rows()
    if as_json:
        print_json({"devices": found})
        return
    table = grid("name", "transport", "address", "what it is", "file")
    for row in found:
        title = row["title"] + (" (EMULATED)" if row["emulated"] else "")
        table.add_row(*(escape(text) for text in (row["name"], row["transport"], row["address"], title, row["file"])))
    print_table(table)


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A device's name, or its .toml file.")],
    probe: Annotated[bool, typer.Option(help="Time a small net in int8 and float32 with each engine.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Connect, and say what the device is, what it lacks, and whether int8 is fast there. Installs nothing."""
    from edgecnn.cli.console import progress
    from edgecnn.cli.findings import print_findings
    from edgecnn.device.profile import load_device
    from edgecnn.pipeline.device_check import check_device

    console = progress()
    device, profile = load_device(name)
    findings = check_device(
        device, profile, probe=probe, progress=lambda line: console.print(f"  {line}", markup=False)
    )
    print_findings(findings, as_json=as_json)
