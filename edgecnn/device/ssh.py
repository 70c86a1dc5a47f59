"""A device by the system's OpenSSH: the user's own configuration, keys, jump hosts and ControlMaster apply.

Files go through the stdin of `cat`, not by scp or sftp: a board's small sshd often has no sftp server, and how scp
reads a remote path depends on both versions.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from edgecnn.device.transport import push_through
from edgecnn.errors import DeviceFailed

# No questions (a benchmark has nobody to ask), no unknown host key accepted whatever the configuration says, and a
# dead connection noticed after three missed answers.
OPTIONS = (
    *("-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)
LOST = 255
"""OpenSSH's exit code for its own failures."""

ADVICE = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "the device answers with another key than before: find out why first"),
    ("Host key verification failed", "run `ssh {host}` once by hand and compare the key with the device's own"),
    ("Permission denied", "run `ssh-copy-id {host}`: a key is needed, passwords are not asked for"),
    ("Could not resolve", "check `host` in the device's file, or name the address in ~/.ssh/config"),
    ("Connection refused", "start the ssh server on the device, or check the port in ~/.ssh/config"),
    ("timed out", "check that the device is on and on this network"),
    ("No route to host", "check that the device is on and on this network"),
)


class Ssh:
    """A host of the user's ssh configuration."""

    def __init__(self, name: str, host: str, *, config: str | None = None) -> None:
        self.name, self.host = name, host
        self._config = ["-F", config] if config else []

    def argv(self, command: Sequence[str]) -> list[str]:
        """`ssh` with the command as one quoted word; the login shell there takes it apart again."""
        return ["ssh", *self._config, *OPTIONS, "--", self.host, shlex.join(command)]

    def push(self, source: Path, target: str) -> None:
        """Copies a file over the connection."""
        push_through(self, source, target)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Whether ssh itself failed."""
        if code != LOST:
            return None
        advice = next((text for sign, text in ADVICE if sign in said), "try `ssh {host} true` by hand")
        return DeviceFailed(
            f"no connection to `{self.name}`",
            where=f"ssh {self.host}",
            got="\n".join(said.splitlines()[-3:]) or "the connection was lost",
            do=advice.format(host=self.host),
        )
