"""The cold start: from the start of a process to its first result, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any, Dict, List

from .errors import EngineFailed
from .session import open_session
from .tensor import random_arrays

DONE = b"first result\n"
TIMEOUT_S = 120.0


def main() -> int:
    """Opens the artifact that `sys.argv[1]` describes, computes once, and says so on stdout."""
    asked = json.loads(sys.argv[1])
    says = os.dup(1)
    os.dup2(2, 1)  # whatever an engine prints on stdout goes to stderr
    shapes = {name: tuple(shape) for name, shape in asked["shapes"].items()}
    session = open_session(asked["path"], threads=asked["threads"], engine=asked["engine"], shapes=shapes)
    session.set_inputs(random_arrays(session.inputs, seed=0))
    session.invoke()
    session.outputs_now()
    os.write(says, DONE)
    return 0


def cold_starts(asked: Dict[str, Any], *, starts: int) -> Dict[str, Any]:
    """`cold_ns`: how long each of `starts` fresh processes took from its start to its first result.

    The interpreter's own start and the imports of numpy and the engine are part of it, as they are for a program in
    Python. The file is in the system's cache: only a rebooted device reads it from storage.
    """
    taken = [_once(asked) for _ in range(starts)]
    return {"cold_ns": taken}


def _once(asked: Dict[str, Any]) -> int:
    started = time.perf_counter_ns()
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", _program(), json.dumps(asked)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        taken = time.perf_counter_ns() - started
        process.wait(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if said != DONE:
        raise EngineFailed(f"a process that opens the artifact ended with {process.returncode} and no result")
    return taken


def _program() -> str:
    """What the new interpreter runs: this package, from the folder or zipapp that this process has it from."""
    package = __package__ or "runtime"
    root = os.path.abspath(__file__)
    for _ in range(package.count(".") + 2):
        root = os.path.dirname(root)
    return f"import sys; sys.path[0] = {root!r}; from {package}.cold import main; sys.exit(main())"


def described(path: str, *, threads: int, engine: str, shapes: Dict[str, List[int]]) -> Dict[str, Any]:
    """An artifact as `main` reads it."""
    return {"path": path, "threads": threads, "engine": engine, "shapes": shapes}
