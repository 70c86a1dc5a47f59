"""`edgecnn doctor`: what this machine has, what decides int8 speed on it, and what to do about each finding."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Check versions, CPU features and runtimes; measures with a probe whether int8 takes the fast path."""
    from rich.markup import escape

    from edgecnn.cli.console import output, print_json
    from edgecnn.doctor import examine

    findings = examine()
    if as_json:
        print_json({"findings": [finding.to_json() for finding in findings]})
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for finding in findings:
            mark = f"[{colours[finding.status]}]{finding.status:<4}[/]"
            output().print(f"{mark}  {escape(finding.what)}: {escape(finding.found)}")
            if finding.do:
                output().print(f"      do: {escape(finding.do)}")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(5)
