"""TOML files read into strict models: all mistakes of a file in one error, unknown keys with the nearest known."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgecnn.errors import InputError, UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings(BaseModel):
    """Options as data: frozen, no value converted to another type in silence, no key that is not known."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the TOML file at `path`.

    Raises:
        InputError: the file is missing, is not UTF-8 or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read `{path.name}`", where=str(path), got=error.strerror or str(error)) from None
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError are both ValueErrors.
        raise InputError(f"`{path.name}` is not TOML", where=str(path), got=str(error)) from None


def parse_settings(model: type[S], table: Mapping[str, Any], *, where: str) -> S:
    """`table` as a `model`; `where` names its origin in the error.

    TOML has arrays where the models have tuples, so arrays are turned into tuples before the strict check.

    Raises:
        UsageError: one or more keys are unknown or missing, or have values that are not legal; all are listed.
    """
    try:
        return model.model_validate(_tuples(table))
    except ValidationError as error:
        problems = [_problem(model, dict(problem)) for problem in error.errors(include_url=False)]
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise UsageError(f"{count} in the settings", where=where, got="\n".join(problems)) from None


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return value


def _problem(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(model, problem["loc"])
        close = nearest(str(problem["loc"][-1]), known)
        hint = f"did you mean `{close[0]}`?" if close else "known: " + ", ".join(sorted(known))
        return f"{place}: no such key; {hint}"
    if problem["type"] == "missing":
        return f"{place}: missing"
    return f"{place or '(whole)'}: {problem['msg'].removeprefix('Value error, ')}"


def _keys_beside(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that the table holding `location` may have."""
    fields = model.model_fields
    for part in location[:-1]:
        field = fields.get(str(part))
        if field is None:
            continue  # an index into an array of tables
        inner = _model_in(field.annotation)
        if inner is None:
            return []
        fields = inner.model_fields
    return list(fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model found in a field's type, such as `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
