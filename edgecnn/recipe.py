"""A recipe: a TOML file that says what to train, compress, export and measure. Strict, and all its errors at once.

A recipe is data. The resolved recipe, with every default filled in, is written beside the results, so that running it
again repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field

from edgecnn.data.settings import Settings, parse_settings, read_toml
from edgecnn.errors import UsageError, nearest
from edgecnn.train.settings import TrainSettings

Positive = Annotated[int, Field(ge=1)]
OptionValue = bool | int | float | str


class DataTable(Settings):
    """`[data]`: where images come from."""

    profile: str
    input: tuple[Positive, Positive, Positive]
    calibration_images: Positive = 256


class ExportTable(Settings):
    """`[export]`: the artifacts of each net."""

    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    cpu: str | None = None
    estimator: str = "mse"
    max_drop: Annotated[float, Field(ge=0)] = 1.0


class BenchTable(Settings):
    """`[bench]`: how the artifacts are timed."""

    threads: Positive = 1
    min_seconds: Annotated[float, Field(gt=0)] = 1.0


class NetTable(Settings):
    """One `[[nets]]` entry: a net of the zoo with its options."""

    net: str
    options: dict[str, OptionValue] = Field(default_factory=dict)
    label: str | None = None


class Recipe(Settings):
    """A whole recipe, with defaults filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str = ""
    seed: int = 0
    data: DataTable
    train: TrainSettings = TrainSettings()
    export: ExportTable
    bench: BenchTable = BenchTable()
    nets: Annotated[tuple[NetTable, ...], Field(min_length=1)]

    def to_toml(self) -> bytes:
        """The resolved recipe as TOML; `load` of it gives an equal recipe."""
        content = self.model_dump(mode="json", exclude_none=True)
        return tomli_w.dumps(content).encode()


def load(path: str | Path, *, names: Mapping[str, list[str]] | None = None) -> Recipe:
    """The recipe in a TOML file.

    Args:
        path: the file.
        names: known names by place (`nets.net`, `export.targets`, `export.estimator`, `export.cpu`, `data.profile`),
            so that unknown ones are reported together with every other error of the file.

    Raises:
        InputError: no such file, or not TOML.
        UsageError: keys or values that are wrong, all of them listed, with the nearest right names.
    """
    content = read_toml(Path(path))
    problems: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = parse_settings(Recipe, content, where=str(path))
    except UsageError as error:
        problems += (error.got or "").split("\n")
    problems += _unknown_names(content, names or {})
    if problems or recipe is None:
        count = f"{len(problems)} mistake{'s' if len(problems) > 1 else ''}"
        raise UsageError(f"{count} in the recipe", where=str(path), got="\n".join(problems))
    return recipe


OR_A_PATH = "data.profile"
"""The place whose value may also be a path or `profile:path`, which is no name."""


def _unknown_names(content: dict[str, Any], names: Mapping[str, list[str]]) -> list[str]:
    found = []
    for place, known in names.items():
        table, key = place.split(".")
        entries = content.get(table, {})
        for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            value = entry.get(key) if isinstance(entry, dict) else None
            label = f"{table}.{i}.{key}" if isinstance(entries, list) else place
            for name in value if isinstance(value, list) else [value]:
                is_path = place == OR_A_PATH and isinstance(name, str) and any(c in name for c in "/.:")
                if isinstance(name, str) and name not in known and not is_path:
                    close = nearest(name, known)
                    hint = f"did you mean `{close[0]}`?" if close else "known: " + ", ".join(known)
                    found.append(f"{label}: unknown name `{name}`; {hint}")
    return found
