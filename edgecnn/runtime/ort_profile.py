"""ONNX Runtime's own profiler: how long each node of its optimised graph took, in a session of its own."""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from .errors import EngineFailed
from .ort import create, import_engine, options

NODE = re.compile(r"^(.*?)(?:_token_\d+)?_kernel_time$", re.DOTALL)
"""The profiler's name of a node's event; optimisers add `_token_N` to the names of nodes they make."""


def profile(
    path: str, feeds: Mapping[str, Any], *, threads: int, runs: int, warm: int = 5
) -> Tuple[Dict[str, str], List[Dict[str, Any]]]:
    """Runs the model `warm` + `runs` times under the profiler.

    The profiler itself costs some time per node, so the sum is above an unprofiled inference.

    Returns:
        the engine's name and version, and for each node, in the order of execution, `name` (as the file has it),
        `kind` (what the optimised graph executes) and `median_ns` over the runs.
    """
    engine = import_engine()
    with tempfile.TemporaryDirectory(prefix="edgecnn-profile-") as folder:
        chosen = options(engine, threads=threads)
        chosen.enable_profiling = True
        chosen.profile_file_prefix = os.path.join(folder, "ort")
        session = create(engine, path, chosen)
        names = [output.name for output in session.get_outputs()]
        try:
            for _ in range(warm + runs):
                session.run(names, dict(feeds))
            file = session.end_profiling()
        except Exception as error:
            raise EngineFailed(f"ONNX Runtime failed: {str(error).strip().splitlines()[0]}", where=path) from error
        with open(file, encoding="utf-8", errors="replace") as source:
            nodes = summarize(json.load(source), runs=runs)
    return {"name": "onnxruntime", "version": str(engine.__version__)}, nodes


def summarize(events: Sequence[Mapping[str, Any]], *, runs: int) -> List[Dict[str, Any]]:
    """The nodes of the profiler's events, each with the median of its last `runs` times.

    The same name may stand for several nodes that an optimiser made of one; they are told apart by their number.
    """
    taken: Dict[Tuple[str, str, str], List[float]] = {}
    for event in events:
        arguments = event.get("args")
        match = NODE.match(str(event.get("name", "")))
        if event.get("cat") != "Node" or match is None or not isinstance(arguments, dict):
            continue
        key = (match.group(1), str(arguments.get("op_name", "")), str(arguments.get("node_index", "")))
        taken.setdefault(key, []).append(float(event.get("dur", 0)) * 1000)
    return [
        {"name": name, "kind": kind, "median_ns": statistics.median(times[-runs:])}
        for (name, kind, _), times in taken.items()
    ]
