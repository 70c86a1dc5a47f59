"""`edgecnn bench --device arm64-emulated`: how many ARM instructions an inference executes, with no ARM board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def count_and_print(artifacts: Sequence[str], cores: Sequence[str], *, as_json: bool) -> dict[str, Any]:
    """Counts, prints the table or one JSON object, and returns that object."""
    from rich.markup import escape

    from edgecnn.artifact import sha256_of_file
    from edgecnn.bench.instructions import GROUPS, LABEL, count
    from edgecnn.bench.records import SCHEMA
    from edgecnn.cli.console import grid, print_json, print_table, progress

    console = progress()

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False)

    found = count(artifacts, cores=[core.strip() for core in cores if core.strip()], progress=say)
    digests = {path: sha256_of_file(path) for path in artifacts}
    counts = [{**one.to_json(), "sha256": digests[one.artifact]} for one in found]
    record = {"schema": SCHEMA, "kind": LABEL, "counts": counts}
    if as_json:
        print_json(record)
        return record
    table = grid("core", "artifact", "total M>", *(f"{group} M>" for group in GROUPS), "ratio>")
    for one in found:
        first = next(other for other in found if other.core == one.core)
        table.add_row(
            one.core,
            escape(one.artifact),
            f"{one.total / 1e6:.2f}",
            *(f"{value / 1e6:.2f}" for value in one.groups.values()),
            f"{one.total / first.total:.3f}",
        )
    print_table(table)
    engines = {f"{one.engine['name']} {one.engine['version']}" for one in found}
    say(f"EMULATED: millions of executed instructions per inference, 1 thread, no times; {', '.join(sorted(engines))}")
    return record
