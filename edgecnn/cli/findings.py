"""Findings about a machine on the terminal, for `doctor` and `devices check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from edgecnn.doctor import Finding

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Prints what was found and what to do; exits with 5 if something fails."""
    from rich.markup import escape

    from edgecnn.cli.console import output, print_json

    if as_json:
        print_json({"findings": [finding.to_json() for finding in findings]})
    else:
        for finding in findings:
            mark = f"[{COLOURS[finding.status]}]{finding.status:<4}[/]"
            output().print(f"{mark}  {escape(finding.what)}: {escape(finding.found)}")
            if finding.do:
                output().print(f"      do: {escape(finding.do)}")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(5)
