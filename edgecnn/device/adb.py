"""A device by the `adb` client: Android phones, and boards that run adbd."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgecnn.device.transport import missing, refused
from edgecnn.errors import DeviceFailed

# The client's own words, on stderr, with exit code 1: "error: device 'x' not found", "adb: device offline".
LOST = re.compile(
    r"^(?:error|adb(?:\.exe)?): .*?"
    r"(device.*not found|no devices|more than one device|offline|unauthorized|closed|protocol fault|connect)",
    re.MULTILINE,
)
ADVICE = (
    ("unauthorized", "unlock the phone and allow USB debugging for this machine"),
    ("more than one", "set `serial` in the device's file to one that `adb devices` prints"),
    ("offline", "unplug and plug it in again, or `adb reconnect`"),
)


class Adb:
    """An attached device; `serial` as `adb devices` prints it, or None for the only one."""

    def __init__(self, name: str, serial: str | None) -> None:
        self.name = name
        self._client = ["adb", *(["-s", serial] if serial else [])]

    def argv(self, command: Sequence[str]) -> list[str]:
        """`adb shell` with the command as one quoted word: the client itself would join words unquoted.

        -T: no terminal, so that bytes pass as they are.
        """
        return [*self._client, "shell", "-T", shlex.join(command)]

    def push(self, source: Path, target: str) -> None:
        """Copies a file by adb's own protocol, which takes the path as it is."""
        argv = [*self._client, "push", str(source.resolve()), target]
        try:
            done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False)
        except FileNotFoundError:
            raise missing("adb") from None
        except subprocess.TimeoutExpired:
            raise DeviceFailed(f"`{self.name}` did not take a file within 600 s", where=source.name) from None
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if done.returncode != 0:
            raise self.lost(done.returncode, said) or refused(self.name, source, target, said)

    def lost(self, code: int, said: str) -> DeviceFailed | None:
        """Whether the client has no device to talk to; 255 is what a cut shell ends with."""
        found = LOST.search(said)
        if code == 0 or (found is None and code != 255):
            return None
        advice = next((text for sign, text in ADVICE if sign in said), "see whether `adb devices` lists it")
        got = "\n".join(said.splitlines()[-3:]) or "the connection was lost"
        return DeviceFailed(f"no connection to `{self.name}`", where="adb", got=got, do=advice)
