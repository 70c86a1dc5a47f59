"""`edgecnn doctor`: what this machine has, what decides int8 speed on it, and what to do about each finding."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Check versions, CPU features and runtimes; measures with a probe whether int8 takes the fast path."""
    from edgecnn.cli.findings import print_findings
    from edgecnn.doctor import examine

    print_findings(examine(), as_json=as_json)
