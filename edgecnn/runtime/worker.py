"""The two ways to drive a measurement from outside: a job file, and JSON lines on a pipe.

A pipe lets the host interleave several artifacts, each in a fresh process of its own, block by block. Each request is
one line `{"do": NAME, ...arguments}`; each answer is one line `{"ok": true, ...}` or `{"ok": false, "error": {...}}`.
Requests: `load`, then `feed`, `first`, `warm`, `block`, `run`, `memory`, `cold`, `energy` and `profile` (see
`measure.Measurement`); `machine` (what this machine is, before anything is loaded), `turns` (see `turns.turns`; nothing
needs to be loaded) and `quit`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any, Dict, List, Optional

from .errors import BadRequest, RuntimeProblem
from .job import read_job
from .machine import engines_found, machine_facts
from .measure import Measurement
from .telemetry import Telemetry
from .turns import turns

REQUESTS = ("feed", "first", "warm", "block", "run", "memory", "cold", "energy", "profile")


def main(arguments: Optional[List[str]] = None) -> int:
    """`JOB.json [RUN.json]` or `--worker`; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--worker"]:
        serve()
        return 0
    if len(arguments) not in (1, 2) or arguments[0].startswith("-"):
        print("usage: runtime JOB.json [RUN.json]   or   runtime --worker", file=sys.stderr)
        return 2
    job = arguments[0]
    run = arguments[1] if len(arguments) == 2 else os.path.join(os.path.dirname(job), "run.json")
    record = run_job(job)
    partial = run + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(partial, run)
    if "error" in record:
        print(record["error"]["what"], file=sys.stderr)
        return 1
    return 0


def run_job(path: str) -> Dict[str, Any]:
    """Does what the job file at `path` asks for; a failure is told under `error`."""
    try:
        job = read_job(path)
        return {"job": job, **_measure(job, os.path.dirname(path))}
    except RuntimeProblem as failure:
        return {"error": failure.to_json()}


def _measure(job: Dict[str, Any], folder: str) -> Dict[str, Any]:
    measurement = Measurement(
        os.path.join(folder, job["artifact"]),
        threads=job["threads"],
        engine=job["engine"],
        shapes={name: tuple(shape) for name, shape in job["shapes"].items()},
    )
    measurement.feed(seed=job["seed"], files=[os.path.join(folder, name) for name in job["inputs"]])
    record = {**measurement.about(), **measurement.first()}
    measurement.warm(runs=job["warm_runs"])
    record["blocks"] = [
        measurement.block(seconds=job["block_seconds"], min_runs=job["min_runs"], max_runs=job["max_runs"])
        for _ in range(job["blocks"])
    ]
    record.update(measurement.memory())
    measurement.close()
    return record


def serve() -> None:
    """Answers requests on stdin until `quit` or the end of the input.

    Whatever the engine itself prints on stdout goes to stderr, so that the answers stay readable.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    measurement: Optional[Measurement] = None
    for line in sys.stdin:
        try:
            request = _parse(line)
            name = request.pop("do")
            if name == "quit":
                break
            if name == "load":
                measurement = _load(request)
                answer: Any = measurement.about()
            elif name == "machine":
                answer = {"machine": machine_facts(), "engines": engines_found(), "state": Telemetry().read()}
            elif name == "turns":
                answer = turns(**request)
            elif measurement is None:
                raise BadRequest(f"`{name}` before `load`")
            else:
                answer = getattr(measurement, name)(**request)
            _answer(answers, {"ok": True, **(answer or {})})
        except RuntimeProblem as failure:
            _answer(answers, {"ok": False, "error": failure.to_json()})
        except (TypeError, KeyError) as error:
            _answer(answers, {"ok": False, "error": BadRequest(f"wrong arguments: {error}").to_json()})
    if measurement is not None:
        measurement.close()


def _parse(line: str) -> Dict[str, Any]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise BadRequest(f"a request is no JSON: {error}") from error
    name = request.get("do") if isinstance(request, dict) else None
    if name not in (*REQUESTS, "load", "machine", "turns", "quit"):
        raise BadRequest(f"unknown request {name!r}", do="one of load, machine, turns, quit, " + ", ".join(REQUESTS))
    return dict(request)


def _load(request: Dict[str, Any]) -> Measurement:
    shapes = {name: tuple(shape) for name, shape in request.pop("shapes", {}).items()}
    return Measurement(request.pop("path"), shapes=shapes, **request)


def _answer(answers: IO[str], record: Dict[str, Any]) -> None:
    answers.write(json.dumps(record) + "\n")
    answers.flush()
