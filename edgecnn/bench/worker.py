"""The host's end of the pipe to a measuring process, here or on a device: one artifact, one fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgecnn.bench.answers import parse_answer
from edgecnn.device.place import Here, Place
from edgecnn.errors import DeviceFailed, EdgecnnError, EnvironmentFailure, InputError
from edgecnn.runtime.errors import from_json
from edgecnn.targets.engine import explain

MAX_LINE = 64 * 1024 * 1024
"""Characters of one answer; the longest real ones, raw samples of a block, have some ten thousand."""


A = TypeVar("A", bound="Agent")


class Agent:
    """A fresh process at `place` that answers the requests of `edgecnn.runtime.worker`; a context manager.

    Args:
        place: this machine, or a folder on a device.
        subject: what the process is about, for messages.

    Raises:
        EnvironmentFailure: it cannot be started.
        DeviceFailed: on the way to the device.
    """

    def __init__(self, place: Place, *, subject: str) -> None:
        self._place, self._subject = place, subject
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in close()
        try:
            self._process = place.start(self._said)
        except OSError as error:
            self._said.close()
            raise EnvironmentFailure(f"cannot start a measuring process: {error}", where=subject) from error
        except EdgecnnError:
            self._said.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            EdgecnnError: the process told of a failure.
            InputError: it died; the last lines it printed are given.
            DeviceFailed: the connection to the device was lost, or it does not speak as agreed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": request, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(MAX_LINE)
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._died(request)
        answer = self._parse(line, request)
        if answer.pop("ok"):
            return answer
        raise explain(from_json(answer["error"]))

    def _parse(self, line: str, request: str) -> dict[str, Any]:
        """The answer in a line; from a device anything may come."""
        try:
            return parse_answer(request, line)
        except ValueError as error:
            problem = str(error)
        raise DeviceFailed(
            f"the answer to `{request}` is not one of the agent",
            where=self._subject,
            expected='one line of JSON with "ok" and what was asked for',
            got=f"{line[:200]!r}\n{problem}",
            do="check what the device's login shell prints, and that its Python is 3.8 or later",
        )

    def _died(self, request: str) -> EdgecnnError:
        code = self._process.wait()
        self._said.seek(0)
        last = "\n".join(self._said.read().strip().splitlines()[-3:])
        if (failure := self._place.lost(code, last)) is not None:
            return failure
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return InputError(
            f"the process that measures `{Path(self._subject).name}` died on `{request}` ({how})",
            where=self._subject,
            got=last or None,
            do="the artifact may be damaged, or this machine may lack the memory or the instructions for it",
        )

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self: A) -> A:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Worker(Agent):
    """A process with one artifact loaded; `about` is what it said of it."""

    def __init__(
        self, path: str, *, threads: int, shapes: dict[str, tuple[int, ...]] | None = None, place: Place | None = None
    ) -> None:
        self.path = path
        place = place or Here()
        file = place.put(path)
        super().__init__(place, subject=path)
        try:
            self.about = self.ask("load", **file, threads=threads, shapes=shapes or {})
        except BaseException:
            self.close()
            raise
