"""How a program is run and a file is brought to and from a device: the seam, and what every way has in common.

A command is a list of words here. Where a shell lies between (ssh, adb), it is quoted as a whole, once, in this file.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from edgecnn.device.profile import DeviceProfile
from edgecnn.errors import DeviceFailed, EnvironmentFailure

TIMEOUT_S = 60.0
MAX_PULL_BYTES = 256 * 1024 * 1024
"""A device that sends more than this for one file is broken, or means harm."""


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit code, its output, and what it said on stderr."""

    code: int
    out: bytes
    said: str


class Transport(Protocol):
    """One way to a device; `name` is the device's, for messages."""

    name: str

    def argv(self, command: Sequence[str]) -> list[str]:
        """What to start on this machine so that `command` runs there, with its stdin, stdout and stderr."""

    def push(self, source: Path, target: str) -> None:
        """Copies the file `source` to the path `target` there.

        Raises:
            DeviceFailed: no connection, or the device refused it (disk full, read only).
        """

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """The failure if a command ended with `code` and the words `said` because of the way, not of the command."""


def run(
    transport: Transport, command: Sequence[str], *, stdin: IO[Any] | None = None, timeout_s: float = TIMEOUT_S
) -> Completed:
    """Runs `command` there to its end.

    Raises:
        DeviceFailed: no connection, or no answer within `timeout_s`.
        EnvironmentFailure: the program that makes the connection is not installed here.
    """
    argv = transport.argv(command)
    try:
        done = subprocess.run(
            argv, stdin=stdin or subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        raise missing(argv[0]) from None
    except subprocess.TimeoutExpired:
        raise DeviceFailed(
            f"`{transport.name}` did not answer within {timeout_s:.0f} s",
            where=shlex.join(command)[:200],
            do="check that the device is up and not overloaded",
        ) from None
    said = done.stderr.decode(errors="replace").strip()
    failure = transport.lost(done.returncode, said)
    if failure is not None:
        raise failure
    return Completed(done.returncode, done.stdout, said)


def pull(transport: Transport, source: str, *, limit_bytes: int = MAX_PULL_BYTES) -> bytes:
    """The content of the file `source` there.

    Raises:
        DeviceFailed: no connection, no such file, or more than `limit_bytes`.
    """
    done = run(transport, ["head", "-c", str(limit_bytes + 1), source])
    if done.code != 0 or len(done.out) > limit_bytes:
        got = done.said[-300:] or f"more than {limit_bytes} bytes"
        raise DeviceFailed(f"cannot read a file of `{transport.name}`", where=source, got=got)
    return done.out


def push_through(transport: Transport, source: Path, target: str) -> None:
    """Copies a file through the stdin of a command there: needs no file transfer service on the device.

    Raises:
        DeviceFailed: no connection, or the device refused it.
    """
    with source.open("rb") as file:
        done = run(transport, ["sh", "-c", 'cat > "$1"', "sh", target], stdin=file, timeout_s=600)
    if done.code != 0:
        raise refused(transport.name, source, target, done.said)


def refused(name: str, source: Path, target: str, said: str) -> DeviceFailed:
    """The failure of a device that does not take a file."""
    full = "No space left" in said
    return DeviceFailed(
        f"`{name}` " + ("has no space left" if full else "did not take a file"),
        where=f"{source.name} to {target}",
        got=said[-300:] or None,
        do="make room there, or set another `work_folder` in the device's file"
        if full
        else "set a `work_folder` in the device's file where this user may write",
    )


def missing(program: str) -> EnvironmentFailure:
    """The failure of a machine without ssh or adb."""
    package = {"ssh": "openssh-client", "adb": "adb"}.get(program, program)
    return EnvironmentFailure(f"`{program}` is not installed here", do=f"on Debian: apt-get install {package}")


def words(env: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """`command` with environment variables set, by `env`, which sets them without a shell."""
    return ["env", *(f"{key}={value}" for key, value in env.items()), *command] if env else list(command)


class Local:
    """This machine, by the same steps as any other."""

    def __init__(self, name: str) -> None:
        self.name = name

    def argv(self, command: Sequence[str]) -> list[str]:
        """The command itself."""
        return list(command)

    def push(self, source: Path, target: str) -> None:
        """Copies through a command too, so that errors read alike."""
        push_through(self, source, target)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """There is no way that could be lost."""
        return None


def connect(name: str, profile: DeviceProfile) -> Transport:
    """The transport of a device; nothing is sent yet."""
    if profile.transport == "ssh":
        from edgecnn.device.ssh import Ssh

        return Ssh(name, profile.host or "", config=profile.ssh_config)
    if profile.transport == "adb":
        from edgecnn.device.adb import Adb

        return Adb(name, profile.serial)
    return Local(name)


def python_of(profile: DeviceProfile) -> str:
    """The interpreter of a device; on this machine the running one, unless its file names another."""
    return sys.executable if profile.transport == "local" and profile.python == "python3" else profile.python
