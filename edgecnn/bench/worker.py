"""The host's end of the pipe to a measuring process: one artifact, one fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecnn.errors import EnvironmentFailure, InputError
from edgecnn.runtime.errors import from_json
from edgecnn.targets.engine import explain

# Not `-m`: that would put the current folder first on the path, where a file of the user may shadow a module.
PROGRAM = "import sys; sys.path[0] = {root!r}; from edgecnn.runtime.worker import main; sys.exit(main(['--worker']))"


class Worker:
    """A process that answers the requests of `edgecnn.runtime.worker`; a context manager that ends it."""

    def __init__(self, path: str, *, threads: int, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
        self.path = path
        root = str(Path(__file__).resolve().parents[2])
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(root=root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the host, which then ends the process itself.
            )
        except OSError as error:
            self._said.close()
            raise EnvironmentFailure(f"cannot start a measuring process: {error}", where=sys.executable) from error
        try:
            self.about = self.ask("load", path=path, threads=threads, shapes=shapes or {})
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            EdgecnnError: the process told of a failure.
            InputError: it died; the last lines it printed are given.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": request, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._died(request)
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise explain(from_json(answer["error"]))
        return answer

    def _died(self, request: str) -> InputError:
        code = self._process.wait()
        self._said.seek(0)
        last = "\n".join(self._said.read().strip().splitlines()[-3:])
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return InputError(
            f"the process that measures `{Path(self.path).name}` died on `{request}` ({how})",
            where=self.path,
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

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
