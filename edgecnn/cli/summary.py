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
        "parity": parity_line(manifest["parity"]),
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


def parity_line(parity: dict[str, Any]) -> str:
    """The chain in one line."""
    parts = []
    if parity.get("torch_relative_error") is not None:
        parts.append(f"graph = torch to {parity['torch_relative_error']:.1e}")
    if parity.get("artifact_relative_error") is not None:
        parts.append(f"artifact = graph to {parity['artifact_relative_error']:.1e}")
    if "sqnr_db" in parity:
        parts.append(f"int8 {parity['sqnr_db']:.1f} dB")
    if ops := parity.get("per_op"):
        off = ops["ops"] - ops["exact_ops"]
        rest = f", {off} off by at most {ops['max_codes']} in single codes" if off else ""
        parts.append(f"{ops['exact_ops']} of {ops['ops']} ops bit-exact in the runtime{rest}")
    return "; ".join(parts)


def coverage_line(coverage: dict[str, Any]) -> str:
    """Coverage in one line, with every operator outside the fast path."""
    outside = coverage.get("outside", [])
    text = f"{100 * coverage['macs_share']:.1f} % of multiply-adds, {100 * coverage['ops_share']:.1f} % of operators"
    if coverage.get("partitions") is not None:
        text += f", {coverage['partitions']} partition" + ("s" if coverage["partitions"] != 1 else "")
    return text + (f"; outside: {', '.join(outside[:6])}" + (" ..." if len(outside) > 6 else "") if outside else "")
