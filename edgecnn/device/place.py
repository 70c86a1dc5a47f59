"""A folder of ours on a device while something is measured there, with the agent and the artifacts in it.

What is pushed is named by its sha256 and never by the user's file name, and the agent checks that digest before it
opens anything. At the end the folder is removed, whatever happened.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from edgecnn.device.profile import DeviceProfile
from edgecnn.device.transport import Transport, connect, missing, pull, python_of, run, words
from edgecnn.device.zipapp import write_zipapp
from edgecnn.errors import DeviceFailed, EdgecnnError

# Not `-m`: that would put the current folder first on the path, where a file of the user may shadow a module.
PROGRAM = "import sys; sys.path[0] = {root!r}; from edgecnn.runtime.worker import main; sys.exit(main(['--worker']))"
FOLDER = re.compile(rb"(/[^\x00-\x1f\x7f]*/edgecnn\.[A-Za-z0-9]{6,})")
"""What `mktemp -d` must answer: nothing else is ever removed."""


class Place(Protocol):
    """Where measuring processes run."""

    def put(self, path: str) -> dict[str, Any]:
        """The arguments of the agent's `load` that name the artifact at `path`, after bringing it there."""

    def start(self, said: IO[Any]) -> subprocess.Popen[str]:
        """A fresh agent process that reads requests and writes answers; its stderr goes to the file `said`."""

    def lost(self, code: int, said: str) -> EdgecnnError | None:
        """The failure if an agent process ended because the way to the device did."""


class Here:
    """This machine, without copying anything: the agent is the installed package."""

    def put(self, path: str) -> dict[str, Any]:
        """The path itself."""
        return {"path": path}

    def start(self, said: IO[Any]) -> subprocess.Popen[str]:
        """A new interpreter with nothing of this process in it."""
        root = str(Path(__file__).resolve().parents[2])
        return _pipe([sys.executable, "-c", PROGRAM.format(root=root)], said)

    def lost(self, code: int, said: str) -> EdgecnnError | None:
        """There is no way that could be lost."""
        return None


class Remote:
    """A folder on a device; a context manager that makes it and removes it.

    Args:
        name: of the device, for messages.
        profile: how to reach it.
        keep: leave the folder there at the end.

    Raises:
        DeviceFailed: on entering: no connection, or no folder can be made there.
    """

    def __init__(self, name: str, profile: DeviceProfile, *, keep: bool = False) -> None:
        self.name, self.profile, self.keep = name, profile, keep
        self.transport: Transport = connect(name, profile)
        self.folder = ""
        self._there: dict[str, str] = {}

    def __enter__(self) -> Remote:
        done = run(self.transport, ["mktemp", "-d", f"{self.profile.work_folder}/edgecnn.XXXXXXXX"])
        # The last line: a login shell may greet before it.
        made = FOLDER.fullmatch(done.out.rstrip(b"\r\n").rpartition(b"\n")[2])
        if done.code != 0 or made is None:
            raise DeviceFailed(
                f"cannot make a folder on `{self.name}`",
                where=self.profile.work_folder,
                got=(done.said or done.out.decode(errors="replace"))[-300:],
                do="set a `work_folder` in the device's file where this user may write",
            )
        self.folder = made[1].decode(errors="strict")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.keep or not self.folder:
            return
        try:
            run(self.transport, ["rm", "-rf", "--", self.folder])
        except EdgecnnError as failure:
            if kind is None:
                raise DeviceFailed(
                    f"`{self.name}` was lost before its folder could be removed",
                    where=self.folder,
                    got=failure.got,
                    do=f"remove {self.folder} there",
                ) from failure

    def send(self, source: Path, *, suffix: str) -> tuple[str, str]:
        """Brings a file there once; returns its path there and its sha256.

        Raises:
            DeviceFailed: no connection, or the device did not take it.
        """
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        target = f"{self.folder}/{digest[:16]}{suffix}"
        if target not in self._there:
            self.transport.push(source, target)
            self._there[target] = digest
        return target, digest

    def put(self, path: str) -> dict[str, Any]:
        """Brings an artifact there."""
        there, digest = self.send(Path(path), suffix=Path(path).suffix.lower())
        return {"path": there, "sha256": digest, "cores": self.profile.cores}

    def fetch(self, name: str) -> bytes:
        """The content of a file of our folder there.

        Raises:
            DeviceFailed: no connection, or no such file.
        """
        return pull(self.transport, f"{self.folder}/{name}")

    def agent(self) -> str:
        """The path of the agent there, brought there first if need be."""
        with tempfile.TemporaryDirectory(prefix="edgecnn-agent-") as folder:
            packed = Path(folder) / "agent.pyz"
            write_zipapp(packed)
            return self.send(packed, suffix=".pyz")[0]

    def start(self, said: IO[Any]) -> subprocess.Popen[str]:
        """A fresh agent process there; it ends when its stdin does, so a cut connection leaves none behind.

        -B: no compiled files are left beside what it imports.
        """
        command = words(self.profile.env, [python_of(self.profile), "-B", self.agent(), "--worker"])
        argv = self.transport.argv(command)
        try:
            return _pipe(argv, said)
        except FileNotFoundError:
            raise missing(argv[0]) from None

    def lost(self, code: int, said: str) -> EdgecnnError | None:
        """A cut connection, or a device without the interpreter that its file names."""
        failure = self.transport.lost(code, said)
        if failure is None and code in (126, 127):
            return DeviceFailed(
                f"`{self.name}` has no `{self.profile.python}`",
                got=said[-300:] or None,
                do="set `python` in the device's file to an interpreter with numpy and an engine",
            )
        return failure


def _pipe(argv: list[str], said: IO[Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the host, which then ends the process itself.
    )
