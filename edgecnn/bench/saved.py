"""Saved reports: read strictly, set beside each other, refused where they were not taken under like conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgecnn.bench import stats
from edgecnn.bench.records import SCHEMA
from edgecnn.bench.stats import Array, Interval
from edgecnn.errors import InputError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Samples = Annotated[list[Annotated[int, Field(ge=0, lt=2**62)]], Field(min_length=1)]


class Part(BaseModel):
    """Something saved; keys that are not read here are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


P = TypeVar("P", bound=Part)


class SavedRun(Part):
    """One artifact of a saved report; its samples are kept, everything else can be computed from them."""

    artifact: str
    sha256: str
    engine: dict[str, str]
    inputs: list[dict[str, Any]]
    unstable: list[str]
    blocks_ns: Annotated[list[Samples], Field(min_length=2)]

    @property
    def blocks(self) -> list[Array]:
        """The samples, nanoseconds, one array per round."""
        return [np.asarray(block, np.int64) for block in self.blocks_ns]


class SavedReport(Part):
    """A file that `edgecnn bench --save` wrote."""

    # A field of this name would hide a method of pydantic's.
    schema_version: Annotated[Literal[1], Field(alias="schema")]
    runs: Annotated[list[SavedRun], Field(min_length=1)]
    machine: dict[str, Any]
    versions: dict[str, str]
    threads: Annotated[int, Field(ge=1)]
    min_seconds: Finite
    blocks: Annotated[int, Field(ge=2)]
    processes: Annotated[int, Field(ge=1)]
    seed: int
    device: str | None
    shapes: dict[str, list[Annotated[int, Field(ge=1)]]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One artifact of one file, against the first artifact of the first file.

    Args:
        file: the saved report.
        run: the artifact in it.
        device: its name, or what its processor is.
        ratio: median over the reference's; None for the reference.
        ci95: of the ratio; paired by rounds inside one file, unpaired between files.
        unlike: what differs from the reference's conditions.
    """

    file: str
    run: SavedRun
    device: str
    median_ms: float
    ratio: float | None
    ci95: Interval | None
    unlike: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return {
            "file": self.file,
            "artifact": self.run.artifact,
            "device": self.device,
            "median_ms": self.median_ms,
            "ratio": self.ratio,
            "ratio_ci95": None if self.ci95 is None else [self.ci95.low, self.ci95.high],
            "verdict": self.verdict,
            "unlike": list(self.unlike),
            "unstable": self.run.unstable,
        }

    @property
    def verdict(self) -> str:
        """Faster or slower, if the interval allows to say so."""
        if self.ratio is None or self.ci95 is None:
            return "the reference"
        if 1.0 in self.ci95:
            return "no significant difference"
        return f"{1 / self.ratio:.2f} times faster" if self.ratio < 1 else f"{self.ratio:.2f} times slower"


def load_saved(path: Path) -> SavedReport:
    """The report in a file of `bench --save`.

    Raises:
        InputError: it cannot be read, is none, or is of another schema.
    """
    return parse_saved(SavedReport, read_json(path), path)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read `{path.name}`", where=str(path), got=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"`{path.name}` is not JSON", where=str(path), got=str(error)) from None


def parse_saved(kind: type[P], content: Any, path: Path) -> P:
    """What a saved file says, if it is of this kind.

    Raises:
        InputError: it is not.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"`{path.name}` is no saved report of one device",
            where=f"{path}: {place}",
            expected=f"what `edgecnn bench --save` writes, schema {SCHEMA}",
            got=first["msg"],
        ) from None


def conditions(report: SavedReport, run: SavedRun) -> dict[str, Any]:
    """What two measurements must share to be compared."""
    shapes = [(spec.get("shape"), spec.get("dtype")) for spec in run.inputs]
    return {
        "device": report.device or "this machine",
        "processor": report.machine.get("cpu"),
        "threads": report.threads,
        "governors": report.machine.get("governors"),
        "highest clocks": report.machine.get("max_clocks_mhz"),
        f"version of {run.engine.get('name')}": run.engine.get("version"),
        "input": shapes,
    }


def unlike(one: tuple[SavedReport, SavedRun], other: tuple[SavedReport, SavedRun]) -> tuple[str, ...]:
    """What differs between the conditions of two measurements, as text; two engines are no difference of version."""
    a, b = conditions(*one), conditions(*other)
    return tuple(f"{key}: {a[key]} there, {b[key]} here" for key in a if key in b and a[key] != b[key])


def compare(files: Sequence[tuple[str, SavedReport]]) -> list[Row]:
    """Every artifact of every file against the first artifact of the first."""
    _, first = files[0]
    reference = first.runs[0]
    below = reference.blocks
    found = []
    for file, report in files:
        for run in report.runs:
            itself = run is reference
            interval = stats.ratio_interval if report is first else stats.unpaired_ratio_interval
            median = stats.pooled_median(run.blocks)
            found.append(
                Row(
                    file=file,
                    run=run,
                    device=report.device or str(report.machine.get("cpu") or "this machine"),
                    median_ms=median / 1e6,
                    ratio=None if itself else median / stats.pooled_median(below),
                    ci95=None if itself else interval(run.blocks, below, seed=first.seed),
                    unlike=unlike((first, reference), (report, run)),
                )
            )
    return found
