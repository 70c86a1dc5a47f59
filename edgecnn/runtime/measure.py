"""One artifact under measurement in this process: load, first inference, warm-up, blocks of timed inferences."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .cold import cold_starts, described
from .errors import BadRequest
from .machine import machine_facts, peak_rss_bytes
from .power import energy
from .prepare import preparation
from .session import ENGINES, Session, check_digest, check_file, engine_for, import_engine, open_session
from .telemetry import Telemetry
from .tensor import random_arrays
from .timed import timed_block

if TYPE_CHECKING:
    from .tensor import Array


class Measurement:
    """Opens an artifact and times it; all times are nanoseconds of `time.perf_counter_ns`.

    Args:
        path: the artifact.
        threads: of one inference.
        engine: by the suffix if not given.
        shapes: of inputs whose file leaves dimensions free.
        sha256: what the file's digest must be.
        cores: the cores this process is bound to; set before the engine starts its threads, which inherit it.
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int = 1,
        engine: Optional[str] = None,
        shapes: Optional[Mapping[str, Tuple[int, ...]]] = None,
        sha256: Optional[str] = None,
        cores: Optional[Sequence[int]] = None,
    ) -> None:
        engine = engine or engine_for(path)
        if sha256 is not None:
            check_file(path)
            check_digest(path, sha256)
        if cores is not None:
            bind(cores)
        import_ns = _import_engine(engine)
        self._before = peak_rss_bytes()
        started = time.perf_counter_ns()
        self.session: Session = open_session(path, threads=threads, engine=engine, shapes=shapes)
        self._load_ns = time.perf_counter_ns() - started
        self._import_ns = import_ns
        self._fed = False
        self._seed = 0
        self._telemetry = Telemetry()
        self._described = described(
            os.path.abspath(path),
            threads=threads,
            engine=engine,
            shapes={name: list(shape) for name, shape in (shapes or {}).items()},
        )

    def about(self) -> Dict[str, Any]:
        """What was loaded, where, and how long that took."""
        session = self.session
        return {
            "engine": session.engine,
            "facts": session.facts,
            "metadata": session.metadata,
            "inputs": [spec.to_json() for spec in session.inputs],
            "outputs": [spec.to_json() for spec in session.outputs],
            "import_ns": self._import_ns,
            "load_ns": self._load_ns,
            "machine": machine_facts(),
        }

    def feed(self, *, seed: int = 0, files: Sequence[str] = ()) -> None:
        """Sets the inputs: the arrays in .npy `files`, or seeded random ones."""
        self._arrays = load_arrays(files) if files else random_arrays(self.session.inputs, seed=seed)
        self.session.set_inputs(self._arrays)
        self._fed, self._seed = True, seed

    def first(self) -> Dict[str, Any]:
        """Times one inference; called before any other, it is the slow first one."""
        self._need_inputs()
        started = time.perf_counter_ns()
        self.session.invoke()
        return {"first_ns": time.perf_counter_ns() - started}

    def warm(self, *, runs: int) -> None:
        """Runs without timing."""
        self._need_inputs()
        for _ in range(runs):
            self.session.invoke()

    def block(
        self, *, seconds: float, min_runs: int = 3, max_runs: int = 1000, warm: int = 1, of: str = "kernel"
    ) -> Dict[str, Any]:
        """Times inferences one by one for `seconds`, after `warm` untimed ones that refill the caches.

        Args:
            seconds: how long.
            min_runs: fewer are never timed.
            max_runs: nor more.
            warm: untimed ones before.
            of: `kernel`, only the inference; `copies`, handing inputs over and fetching outputs too; `whole`, making
                the input out of a picture's pixels and finding the highest score as well.

        Returns:
            as `timed.timed_block`.
        """
        self._need_inputs()
        step = self._step(of)
        for _ in range(warm):
            step()
        read = self._telemetry.read
        return timed_block(step, read=read, seconds=seconds, min_runs=min_runs, max_runs=max_runs)

    def _step(self, of: str) -> Callable[[], Any]:
        session = self.session
        if of == "kernel":
            return session.invoke
        if of == "copies":
            return lambda: session.run(self._arrays)
        if of == "whole":
            prepare = preparation(session.inputs, session.metadata, seed=self._seed)
            return lambda: int(np.argmax(session.run(prepare())[0]))
        raise BadRequest(f"unknown figure `{of}`", do="kernel, copies or whole")

    def cold(self, *, starts: int) -> Dict[str, Any]:
        """How long fresh processes take from their start to their first result; see `cold.cold_starts`."""
        return cold_starts(self._described, starts=starts)

    def energy(self, *, seconds: float, idle_seconds: float, sensor: Optional[str] = None) -> Dict[str, Any]:
        """What an inference spends; see `power.energy`."""
        self._need_inputs()
        return energy(self.session.invoke, seconds=seconds, idle_seconds=idle_seconds, wanted=sensor)

    def profile(self, *, runs: int) -> Dict[str, Any]:
        """The time of each node by the engine's own profiler, in a session of its own.

        Raises:
            BadRequest: this engine's Python package has no profiler.
        """
        if self._described["engine"] != "ort":
            raise BadRequest("LiteRT's Python package has no profiler", do="its operators can be timed one by one")
        from .ort_profile import profile

        self._need_inputs()
        feeds = {spec.name: self._arrays[i] for i, spec in enumerate(self.session.inputs)}
        engine, nodes = profile(self._described["path"], feeds, threads=self._described["threads"], runs=runs)
        return {"engine": engine, "nodes": nodes}

    def run(self, *, files: Sequence[str], out: Sequence[str]) -> Dict[str, Any]:
        """Runs the arrays in .npy `files` and writes the outputs to the .npy files `out`: for parity checks."""
        results = self.session.run(load_arrays(files))
        if len(out) != len(results):
            raise BadRequest(f"{len(out)} files for {len(results)} outputs")
        for i, path in enumerate(out):
            np.save(path, results[i], allow_pickle=False)
        return {}

    def memory(self) -> Dict[str, Any]:
        """Peak memory of this process in bytes, and what it was before the artifact was opened."""
        return {"peak_rss_bytes": peak_rss_bytes(), "before_rss_bytes": self._before}

    def close(self) -> None:
        """Frees the engine."""
        self.session.close()

    def _need_inputs(self) -> None:
        if not self._fed:
            self.feed()


def _import_engine(name: str) -> int:
    started = time.perf_counter_ns()
    if name in ENGINES.values():  # `open_session` refuses others, with the known names.
        import_engine(name)
    return time.perf_counter_ns() - started


def bind(cores: Sequence[int]) -> None:
    """Binds this process, and the threads it will start, to `cores`.

    Raises:
        BadRequest: the system cannot, or there are no such cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise BadRequest("this system binds no process to cores", do="leave `cores` out of the device's file")
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"cannot bind to the cores {list(cores)}: {error}",
            do=f"there are {sorted(os.sched_getaffinity(0))}; correct `cores` in the device's file",
        ) from error


def load_arrays(files: Sequence[str]) -> List[Array]:
    """The arrays of .npy files, never unpickled.

    Raises:
        BadRequest: a file is missing or is no .npy file of numbers.
    """
    arrays: List[Array] = []
    for path in files:
        try:
            arrays.append(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise BadRequest(f"`{path}` cannot be read as .npy: {error}", where=path) from error
    return arrays
