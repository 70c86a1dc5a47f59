"""An ssh server of our own on loopback, as a device to test against: the user's own sshd with throw-away keys."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")


def missing() -> str | None:
    """Why there can be none here, or None."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if SSHD else "sshd is not installed (Debian: openssh-server)"


class Loopback:
    """A running server; `config` is an ssh configuration in which it is the host `board`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        host = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {' '.join(host)}\n")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        )
        self.config = folder / "ssh_config"
        self.write_config()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def write_config(self, known: str = "known") -> None:
        """The configuration; `known` is the file of host keys that are trusted."""
        self.config.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {self.folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {self.folder}/{known}\n"
            # A careless configuration: ours must check host keys all the same.
            "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n"
        )

    def device(self, **more: str) -> Path:
        """A device file for this server, with further lines of TOML as given."""
        lines = {"transport": '"ssh"', "host": '"board"', "ssh_config": f'"{self.config}"', **more}
        # This interpreter: the system's own may lack numpy and the engines.
        lines.setdefault("python", f'"{sys.executable}"')
        path = self.folder / "board.toml"
        path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        return path

    def start(self) -> None:
        """Starts the server and waits until it listens."""
        assert SSHD is not None
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("sshd did not start")

    def sessions(self) -> list[int]:
        """The processes that serve a connection."""
        done = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def cut(self) -> None:
        """Ends every connection at once, as a pulled plug would."""
        for pid in self.sessions():
            subprocess.run(["pkill", "-KILL", "-P", str(pid)], check=False)
            os.kill(pid, 9)

    def stop(self) -> None:
        """Ends the server."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
