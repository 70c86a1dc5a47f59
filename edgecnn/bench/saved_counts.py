"""Saved counts of instructions: read strictly, and set beside times as columns of their own, never as times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgecnn.bench.saved import Part, SavedReport, parse_saved, read_json
from edgecnn.errors import InputError


class SavedCount(Part):
    """What one artifact executes on one kind of core."""

    artifact: str
    sha256: str
    core: Annotated[str, Field(min_length=1, max_length=40)]
    instructions_per_inference: Annotated[int, Field(gt=0)]
    engine: dict[str, str]


class SavedCounts(Part):
    """A file that `edgecnn bench --device arm64-emulated --save` wrote."""

    schema_version: Annotated[Literal[1], Field(alias="schema")]
    kind: str
    counts: Annotated[list[SavedCount], Field(min_length=1)]


@dataclass(frozen=True)
class CountRow:
    """The counts of one artifact: instructions per inference by core, and their ratio to the first artifact's."""

    artifact: str
    sha256: str
    instructions: dict[str, int]
    ratios: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dict(self.__dict__)


def load_any(path: Path) -> SavedReport | SavedCounts:
    """A saved report, or saved counts.

    Raises:
        InputError: the file is neither.
    """
    content = read_json(path)
    if isinstance(content, dict) and "counts" in content:
        return parse_saved(SavedCounts, content, path)
    return parse_saved(SavedReport, content, path)


def beside(files: Sequence[tuple[str, SavedCounts]]) -> tuple[list[str], list[CountRow]]:
    """The cores there are, and a row per artifact; ratios refer to the first artifact counted on that core.

    Raises:
        InputError: two files hold different counts of the same artifact and core, as by two versions of an engine.
    """
    cores: dict[str, int] = {}
    rows: dict[str, CountRow] = {}
    for file, saved in files:
        for one in saved.counts:
            total = one.instructions_per_inference
            first = cores.setdefault(one.core, total)
            row = rows.setdefault(one.sha256, CountRow(one.artifact, one.sha256, {}, {}))
            if row.instructions.setdefault(one.core, total) != total:
                raise InputError(
                    f"`{one.artifact}` was counted twice on {one.core}, with different counts",
                    where=file,
                    expected=f"{row.instructions[one.core]} instructions",
                    got=f"{total} by {one.engine.get('name')} {one.engine.get('version')}",
                    do="count it again with one version",
                )
            row.ratios[one.core] = total / first
    return list(cores), list(rows.values())
