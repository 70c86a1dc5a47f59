"""The job file of the agent: what to measure, checked key by key before anything is opened."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, Tuple

from .errors import BadRequest


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _shapes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(shape, list) and all(_whole(1)(size) for size in shape) for shape in value.values()
    )


def _seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


KEYS: Dict[str, Tuple[Any, str, Callable[[Any], bool]]] = {
    "threads": (1, "a whole number from 1 on", _whole(1)),
    "engine": (
        None,
        "a text, or null for the one by the suffix",
        lambda value: value is None or isinstance(value, str),
    ),
    "shapes": ({}, "an object of lists of whole numbers", _shapes),
    "inputs": ([], "a list of .npy files", _texts),
    "seed": (0, "a whole number from 0 on", _whole(0)),
    "warm_runs": (5, "a whole number from 0 on", _whole(0)),
    "blocks": (20, "a whole number from 1 on", _whole(1)),
    "block_seconds": (0.1, "a number above 0", _seconds),
    "min_runs": (3, "a whole number from 1 on", _whole(1)),
    "max_runs": (1000, "a whole number from 1 on", _whole(1)),
}
"""By key beside `artifact`: what it is if left out, what it may be, and the check. Paths are relative to the job."""


def read_job(path: str) -> Dict[str, Any]:
    """The job in the file at `path`, every key filled in.

    Raises:
        BadRequest: it cannot be read, has unknown keys, or a value that cannot be.
    """
    try:
        with open(path, encoding="utf-8") as file:
            asked = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"the job `{path}` cannot be read: {error}", where=path) from error
    if not isinstance(asked, dict) or not isinstance(asked.get("artifact"), str):
        raise BadRequest("a job is an object with at least `artifact`, a path", where=path)
    stray = sorted(set(asked) - set(KEYS) - {"artifact"})
    if stray:
        raise BadRequest(f"unknown keys {stray} in the job", where=path, do="known: " + ", ".join(sorted(KEYS)))
    job: Dict[str, Any] = {"artifact": asked["artifact"]}
    for key, (default, meaning, right) in KEYS.items():
        job[key] = asked.get(key, default)
        if not right(job[key]):
            raise BadRequest(f"`{key}` of the job is {job[key]!r}", where=path, do=f"give {meaning}")
    return job
