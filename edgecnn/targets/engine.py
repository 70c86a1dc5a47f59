"""Opens artifacts on this machine with the errors of the host: the door between `edgecnn.runtime` and the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from edgecnn.errors import EdgecnnError, EnvironmentFailure, InputError, UsageError
from edgecnn.runtime import errors as runtime_errors
from edgecnn.runtime import session as runtime_session
from edgecnn.runtime.session import Session

EXPLAINED: dict[type[runtime_errors.RuntimeProblem], type[EdgecnnError]] = {
    runtime_errors.EngineMissing: EnvironmentFailure,
    runtime_errors.BadArtifact: InputError,
    runtime_errors.BadRequest: UsageError,
    runtime_errors.EngineFailed: InputError,
}


def explain(failure: runtime_errors.RuntimeProblem) -> EdgecnnError:
    """The error with an exit code that stands for a failure of the device side."""
    kind = EXPLAINED.get(type(failure), EdgecnnError)
    return kind(failure.what, where=failure.where, do=failure.do)


@contextmanager
def explained() -> Iterator[None]:
    """Turns failures of the device side inside the block into the host's errors.

    Raises:
        EdgecnnError: of the class `EXPLAINED` names.
    """
    try:
        yield
    except runtime_errors.RuntimeProblem as failure:
        raise explain(failure) from failure


def open_session(
    path: str | os.PathLike[str],
    *,
    threads: int = 1,
    engine: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Session:
    """A session for the artifact at `path`; see `edgecnn.runtime.session.open_session`.

    Raises:
        InputError: no such file, an unknown suffix, a damaged file, or one the engine refuses.
        UsageError: a wrong thread count or shape.
        EnvironmentFailure: the engine is not installed.
    """
    with explained():
        return runtime_session.open_session(os.fspath(path), threads=threads, engine=engine, shapes=shapes)


def check_artifact(path: str | os.PathLike[str]) -> str:
    """The name of the engine that runs the artifact at `path`, which is there and not empty.

    Raises:
        InputError: no such file, an empty one, or an unknown suffix.
    """
    with explained():
        engine = runtime_session.engine_for(os.fspath(path))
        runtime_session.check_file(os.fspath(path))
        return engine
