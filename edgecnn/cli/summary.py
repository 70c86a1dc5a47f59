"""The short table at the end of an export."""

from __future__ import annotations

from typing import Any

from edgecnn.artifact import Artifact
from edgecnn.cli.console import print_table


def print_artifact(artifact: Artifact) -> None:
    """Prints what was made and what was proved of it."""
    from rich.markup import escape
    from rich.table import Table

    manifest = artifact.manifest
    table = Table.grid(padding=(0, 2))
    rows = {
        "artifact": str(artifact.path) + ("  (UNTRAINED weights)" if manifest["weights"]["untrained"] else ""),
        "bytes": f"{artifact.size_bytes:,}",
        "net": f"{manifest['net']['params']:,} parameters, {manifest['net']['macs']:,} multiply-adds",
        "input": input_line(manifest),
        "parity": manifest["parity"]["summary"],
        "coverage": coverage_line(manifest["coverage"]),
        "rewritten": ", ".join(f"{rule} {count}" for rule, count in manifest["rewrites"].items()) or "nothing",
    }
    for label, text in rows.items():
        table.add_row(label, escape(text))
    print_table(table)


def input_line(manifest: dict[str, Any]) -> str:
    """The input in one line: type, shape, layout, meaning."""
    spec = manifest["input"]
    code = f", real = (code - {spec['zero_point']}) * {spec['scale']:.6g}" if spec.get("scale") else ""
    return f"{spec['dtype']} {'x'.join(map(str, spec['shape']))} {spec['layout']}, {spec['meaning']}{code}"


def coverage_line(coverage: dict[str, Any]) -> str:
    """Coverage in one line, with every operator outside the fast path."""
    outside = coverage.get("outside", [])
    text = f"{100 * coverage['macs_share']:.1f} % of multiply-adds, {100 * coverage['ops_share']:.1f} % of operators"
    if coverage.get("partitions") is not None:
        text += f", {coverage['partitions']} partition" + ("s" if coverage["partitions"] != 1 else "")
    return text + (f"; outside: {', '.join(outside[:6])}" + (" ..." if len(outside) > 6 else "") if outside else "")
