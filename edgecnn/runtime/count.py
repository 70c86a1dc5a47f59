"""Runs artifacts between marks that the emulator's plugin sees: it counts what is executed in between.

`python -m runtime.count JOBS.json`: `{"runs", "jobs": [{"artifact", "inputs", "outputs"}]}`, answered line by line on
stdout. A mark is a `prctl` with an option no kernel knows: on a real device it does nothing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from typing import Any, Dict, List, Optional

import numpy as np

from .errors import BadArtifact, RuntimeProblem
from .measure import load_arrays
from .session import Session, open_session
from .tensor import random_arrays

MARK = 0x45434E4E
START, END = 1, 2
"""The option of `prctl` and its argument, as `insncount.c` knows them."""


def main(arguments: Optional[List[str]] = None) -> int:
    """Does the jobs of a file, each with the count of invokes `runs` and then twice that; the exit code is 0 or 1."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    with open(path, encoding="utf-8") as file:
        asked = json.load(file)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever an engine prints on stdout goes to stderr, so that the answers stay readable
    for job in asked["jobs"]:
        try:
            answer = {"ok": True, **_counted(job, asked["runs"])}
        except RuntimeProblem as failure:
            answer = {"ok": False, "error": failure.to_json()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if not answer["ok"]:
            return 1
    return 0


def _counted(job: Dict[str, Any], runs: int) -> Dict[str, Any]:
    session = open_session(job["artifact"], threads=1)
    try:
        if session.facts.get("operators") and not session.facts.get("delegated"):
            raise BadArtifact(
                "XNNPACK took no operator of `{}`".format(os.path.basename(job["artifact"])),
                where=job["artifact"],
                do="check that the sysroot has sys/devices/system/cpu/possible: without it LiteRT leaves XNNPACK out",
            )
        files = job.get("inputs") or []
        session.set_inputs(load_arrays(files) if files else random_arrays(session.inputs, seed=0))
        session.invoke()
        _marked(session, runs)
        _marked(session, 2 * runs)
        for i, out in enumerate(job.get("outputs") or []):
            np.save(out, session.outputs_now()[i], allow_pickle=False)
        return {"engine": session.engine, "facts": session.facts}
    finally:
        session.close()


def _marked(session: Session, runs: int) -> None:
    """`runs` inferences between two marks; no collection of garbage falls among them."""
    prctl, invoke, rounds = ctypes.CDLL(None).prctl, session.invoke, range(runs)
    gc.collect()
    gc.disable()
    try:
        prctl(MARK, START, 0, 0, 0)
        for _ in rounds:
            invoke()
        prctl(MARK, END, 0, 0, 0)
    finally:
        gc.enable()
