"""`edgecnn lint`: what makes a net slower than it has to be on a target, what each finding costs, what to do."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgecnn.lint import Finding, Review

SHOWN_PLACES = 3


class Gravity(str, Enum):
    """From which severity on the verb fails."""

    error = "error"
    warning = "warning"
    never = "never"


def lint(
    net: Annotated[str, typer.Argument(help="A net, my_net.py:build, a bundle, or an artifact.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The target it shall run on.")] = "tflite-int8",
    cpu: Annotated[str | None, typer.Option(help="The core. Another than this machine's: costs are estimated.")] = None,
    input_shape: Annotated[str | None, typer.Option("--input", help="CxHxW. Default: the net's.")] = None,
    net_option: Annotated[list[str] | None, typer.Option(help="key=value for the net. Repeatable.")] = None,
    measure: Annotated[bool, typer.Option(help="Time operators and alternatives on this machine.")] = True,
    top: Annotated[int, typer.Option(help="Show the dearest findings; 0: all.", min=0)] = 12,
    fail_on: Annotated[Gravity, typer.Option(help="Exit with 1 from this severity on.")] = Gravity.error,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Find what makes a net slower than it has to be on a target, with what each finding costs."""
    from edgecnn.cli.console import pairs, print_json, shape
    from edgecnn.pipeline.lint import lint as review

    found = review(
        net,
        target=target,
        cpu=cpu,
        input_shape=shape(input_shape),
        options=pairs(net_option or [], option="--net-option"),
        measure=measure,
    )
    print_json(found.to_json()) if as_json else _print(found, top)
    grave = {"error": ("error",), "warning": ("error", "warning"), "never": ()}[fail_on.value]
    if any(f.severity in grave for f in found.findings):
        raise typer.Exit(1)


def _print(found: Review, top: int) -> None:
    from edgecnn.cli.console import output

    console = output()
    where = f" on {found.target} for {found.cpu}" if found.target else f" in {found.facts['engine']}"
    time = "" if found.latency_us is None else f", {found.latency_us / 1e3:.3f} ms one by one"
    time += "" if found.whole_us is None else f", {found.whole_us / 1e3:.3f} ms as one net"
    console.print(f"{found.subject}{where}: {found.operators} operators{time}", markup=False)
    console.print(f"costs      {found.basis}", markup=False)
    shown = found.findings[:top] if top else found.findings
    for finding in shown:
        _print_finding(finding)
    rest = len(found.findings) - len(shown)
    if rest:
        console.print(f"\nand {rest} smaller findings: --top 0 shows all", markup=False)
    if not found.findings:
        console.print("nothing found")


def _print_finding(finding: Finding) -> None:
    from rich.markup import escape

    from edgecnn.cli.console import output

    colours = {"error": "red", "warning": "yellow", "info": "cyan"}
    more = len(finding.where) - SHOWN_PLACES
    places = ", ".join(finding.where[:SHOWN_PLACES]) + (f" and {more} more" if more > 0 else "")
    output().print(f"\n[{colours[finding.severity]}]{finding.severity:<8}[/] {finding.rule}  {escape(places)}")
    for label, text in (("what", finding.what), ("costs", finding.cost), ("do", finding.do)):
        if text:
            output().print(f"  {label:<7}{text}", markup=False)
