"""A block of timed steps, with the state of the machine read beside them every 100 ms."""

from __future__ import annotations

import gc
import time
from typing import Any, Callable, Dict, List

READ_EVERY_NS = 100_000_000
"""Between two readings of clocks and temperatures; steps that take longer are followed by a reading each."""


def timed_block(
    step: Callable[[], Any],
    *,
    read: Callable[[], Dict[str, Any]],
    seconds: float,
    min_runs: int,
    max_runs: int,
) -> Dict[str, Any]:
    """Times `step` again and again for `seconds`.

    A reading is taken between two steps, never inside one, and is followed by a step that is not timed, since it has
    cooled the caches.

    Returns:
        `samples_ns`; `wall_ns` and `cpu_ns` of the whole block (the second far below the first: something else ran
        here); `states`, each with `at_ns` since the start of the block, the last one after the last step.
    """
    clock = time.perf_counter_ns
    samples: List[int] = []
    states: List[Dict[str, Any]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        cpu_started, started = time.process_time_ns(), clock()
        end, due, now = started + int(seconds * 1e9), started + READ_EVERY_NS, started
        while len(samples) < min_runs or (now < end and len(samples) < max_runs):
            before = clock()
            step()
            now = clock()
            samples.append(now - before)
            if now >= due:
                states.append({"at_ns": now - started, **read()})
                step()
                due = clock() + READ_EVERY_NS
        cpu_ns, wall_ns = time.process_time_ns() - cpu_started, clock() - started
    finally:
        if collecting:
            gc.enable()
    states.append({"at_ns": wall_ns, **read()})
    return {"samples_ns": samples, "wall_ns": wall_ns, "cpu_ns": cpu_ns, "states": states}
