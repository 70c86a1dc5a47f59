"""What an agent may answer: on a device that is broken or means harm, anything may come instead.

An answer is one line of JSON. Numbers are checked to be such, and control characters are taken out of every text, since
a terminal obeys them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict  # pydantic needs this one before Python 3.12

from edgecnn.device.printable import printable

Nanoseconds = Annotated[int, Field(ge=0, lt=2**62)]
Bytes = Annotated[int, Field(ge=0, lt=2**62)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class State(TypedDict):
    """`runtime.telemetry.Telemetry.read`."""

    at_ns: NotRequired[Nanoseconds]
    clocks_mhz: NotRequired[dict[str, Finite]]
    temps_c: NotRequired[dict[str, Finite]]
    throttled: NotRequired[list[str]]


class EngineAnswer(TypedDict):
    """An engine's name and version."""

    name: str
    version: str


class Battery(TypedDict):
    """A battery's charge and what it is doing."""

    percent: int | None
    status: str | None


class MachineFacts(TypedDict):
    """`runtime.machine.machine_facts`; more keys may come and are kept."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]  # noqa: RUF012

    cpu: str
    architecture: str
    cores: Annotated[int, Field(ge=1)]
    features: list[str]
    system: str
    python: str
    numpy: str
    load: Finite | None
    board: str | None
    governors: list[str]
    max_clocks_mhz: dict[str, Finite]
    clusters: list[list[int]]
    battery: Battery | None
    memory_bytes: Bytes | None
    power_sensors: NotRequired[list[str]]
    unavailable: dict[str, str]


class LoadAnswer(TypedDict):
    """To `load`."""

    engine: EngineAnswer
    facts: dict[str, Any]
    metadata: dict[str, str]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    import_ns: Nanoseconds
    load_ns: Nanoseconds
    machine: MachineFacts


class BlockAnswer(TypedDict):
    """To `block`."""

    samples_ns: Annotated[list[Nanoseconds], Field(min_length=1)]
    wall_ns: Annotated[int, Field(gt=0, lt=2**62)]
    cpu_ns: Nanoseconds
    states: Annotated[list[State], Field(min_length=1)]


class FirstAnswer(TypedDict):
    """To `first`."""

    first_ns: Nanoseconds


class MemoryAnswer(TypedDict):
    """To `memory`."""

    peak_rss_bytes: Bytes
    before_rss_bytes: Bytes


class ColdAnswer(TypedDict):
    """To `cold`."""

    cold_ns: Annotated[list[Nanoseconds], Field(min_length=1)]


class EnergyFound(TypedDict):
    """To `energy`, where a sensor tells."""

    sensor: str
    covers: str
    idle_watts: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    busy_watts: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    runs: Annotated[int, Field(ge=1)]
    readings: Annotated[int, Field(ge=1)]
    joules_per_run: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    above_idle_joules_per_run: Finite


class EnergyAbsent(TypedDict):
    """To `energy`, where none does, and why."""

    unavailable: str


class NodeTime(TypedDict):
    """One node of a profile."""

    name: str
    kind: str
    median_ns: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ProfileAnswer(TypedDict):
    """To `profile`."""

    engine: EngineAnswer
    nodes: Annotated[list[NodeTime], Field(min_length=1)]


class MachineAnswer(TypedDict):
    """To `machine`; an engine that does not load has `missing`, the reason, and `do` instead of a version."""

    machine: MachineFacts
    engines: dict[str, dict[str, str | None]]
    state: State


class TurnsAnswer(TypedDict):
    """To `turns`."""

    median_ns: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class NothingAnswer(TypedDict):
    """To what is only done."""


class ProblemAnswer(TypedDict):
    """A failure of the device side."""

    kind: str
    what: str
    where: str | None
    do: str | None


KINDS: dict[str, Any] = {
    "load": LoadAnswer,
    "block": BlockAnswer,
    "first": FirstAnswer,
    "memory": MemoryAnswer,
    "machine": MachineAnswer,
    "turns": TurnsAnswer,
    "cold": ColdAnswer,
    "energy": EnergyFound | EnergyAbsent,
    "profile": ProfileAnswer,
    "feed": NothingAnswer,
    "warm": NothingAnswer,
    "run": NothingAnswer,
}
ANSWERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in KINDS.items()}
PROBLEM = TypeAdapter(ProblemAnswer)


def parse_answer(request: str, line: str) -> dict[str, Any]:
    """The answer to `request` in a line, with its `ok`.

    Raises:
        ValueError: the line is no JSON, or lacks what such an answer has; the text says what.
    """
    try:
        answer = printable(json.loads(line))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise ValueError('no object with "ok"')
    if answer["ok"]:
        rest = {key: value for key, value in answer.items() if key != "ok"}
        return {"ok": True, **(_checked(ANSWERS[request], rest) if request in ANSWERS else rest)}
    return {"ok": False, "error": _checked(PROBLEM, answer.get("error"))}


def _checked(kind: TypeAdapter[Any], value: Any) -> dict[str, Any]:
    try:
        checked: dict[str, Any] = kind.validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(".".join(str(part) for part in first["loc"]) + ": " + first["msg"]) from None
    return checked
