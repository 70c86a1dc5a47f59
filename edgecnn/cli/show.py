"""`edgecnn show`: what a net, a bundle or an artifact is, layer by layer."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def show(
    net: Annotated[str, typer.Argument(help="A net, a building block, my_net.py:build, a bundle, or an artifact.")],
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also the graph as text, and why a rewrite skipped a place.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Show the graph as this target rewrites it; of a block, only this target."),
    ] = None,
    cpu: Annotated[str | None, typer.Option(help="With --target: the core.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="CxHxW. Default: the net's.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="key=value for the net or block. Repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show layers with all they cost, by type and in total (or, of an artifact, what it expects and where it runs)."""
    from edgecnn.cli.console import output, pairs, print_json, shape
    from edgecnn.cli.show_block import print_block
    from edgecnn.cli.show_net import print_net
    from edgecnn.pipeline import block_page, describe

    if describe.is_artifact(net):
        content = describe.describe_artifact(net)
        print_json(content) if as_json else _print_artifact(content)
        return
    options, wanted = pairs(net_option or [], option="--net-option"), shape(input_shape)
    if block_page.names_block(net):
        targets = None if target is None else [target]
        page = block_page.block_page(net, input_shape=wanted, options=options, targets=targets, cpu=cpu)
        print_json(page.to_json()) if as_json else print_block(page)
        if verbose and not as_json:
            output().print("\n" + describe.graph_text(page.graph), markup=False)
        return
    found = describe.describe(
        net,
        input_shape=wanted,
        options=options,
        target=target or ("tflite-int8" if verbose else None),
        cpu=cpu,
    )
    if as_json:
        print_json(found.to_json())
        return
    print_net(found)
    if verbose:
        output().print("\n" + describe.graph_text(found.graph), markup=False)
        left = [n for n in found.notes if not n.did]
        output().print(f"\n{len(found.notes) - len(left)} rewrites for {found.facts['target']} on {found.facts['cpu']}")
        for note in left:
            output().print(f"  {note}", markup=False)


def _print_artifact(content: dict[str, Any]) -> None:
    from rich.markup import escape

    from edgecnn.cli.console import grid, output, print_table
    from edgecnn.cli.summary import coverage_line

    console = output()
    engine = content["engine"]
    console.print(
        f"{content['artifact']}: {content['size_bytes']:,} bytes, {engine['name']} {engine['version']}", markup=False
    )
    table = grid("", "name", "type", "shape", "scale>", "zero>")
    for side in ("inputs", "outputs"):
        for spec in content[side]:
            coding = (f"{spec['scale']:.6g}", str(spec["zero_point"])) if spec["scale"] else ("", "")
            table.add_row(side[:-1], escape(spec["name"]), spec["dtype"], "x".join(map(str, spec["shape"])), *coding)
    print_table(table)
    console.print("coverage   " + coverage_line(content["coverage"]), markup=False)
    for key, value in sorted(content["metadata"].items()):
        console.print(f"metadata   {key}: {value}", markup=False)
    if content["manifest"] is None:
        console.print("manifest   none beside it")
