"""Several small artifacts in one process, timed in turn: what single pieces of a net take."""

from __future__ import annotations

import math
import statistics
import time
from contextlib import ExitStack, closing
from typing import Any, Dict, List, Optional, Sequence

from .errors import BadRequest
from .measure import bind
from .session import Session, check_digest, check_file, open_session
from .tensor import random_arrays

ROUND_SECONDS = 0.002
"""How long one artifact is timed before the next one's turn; one that takes longer runs once."""
MOST_RUNS = 100


def turns(
    *, files: Sequence[Dict[str, Any]], rounds: int, threads: int = 1, cores: Optional[Sequence[int]] = None
) -> Dict[str, Any]:
    """`median_ns` of each artifact over `rounds`, with random inputs.

    Args:
        files: of each its `path`, and its `sha256` if it was sent.
        rounds: how often each has its turn.
        threads: of one inference.
        cores: that this process is bound to.
    """
    if not files or rounds < 1:
        raise BadRequest("nothing to time in turn")
    if cores is not None:
        bind(cores)
    with ExitStack() as stack:
        sessions = []
        for file in files:
            if file.get("sha256") is not None:
                check_file(file["path"])
                check_digest(file["path"], file["sha256"])
            session = stack.enter_context(closing(open_session(file["path"], threads=threads)))
            session.set_inputs(random_arrays(session.inputs, seed=0))
            sessions.append(session)
        return {"median_ns": in_turn(sessions, rounds)}


def in_turn(sessions: Sequence[Session], rounds: int) -> List[float]:
    """The median time of each session in nanoseconds; they take turns, so that a slow moment hits all."""
    clock = time.perf_counter_ns
    runs: List[int] = []
    for session in sessions:
        session.invoke()
        before = clock()
        session.invoke()
        runs.append(min(MOST_RUNS, max(1, math.ceil(ROUND_SECONDS * 1e9 / max(1, clock() - before)))))
    samples: List[List[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for i, session in enumerate(sessions):
            session.invoke()  # fills the caches again
            turn = []
            for _ in range(runs[i]):
                before = clock()
                session.invoke()
                turn.append(clock() - before)
            samples[i].append(statistics.median(turn))
    return [float(statistics.median(found)) for found in samples]
