#!/usr/bin/env python3
"""An adb daemon over any shell: the real `adb` client then reaches a Linux machine that has no adbd.

    scripts/arm64/adbd_mock.py 20555 -- ssh -F CONFIG arm64dev
    adb connect 127.0.0.1:20555; adb -s 127.0.0.1:20555 shell uname -m

Each command of the client runs as `PREFIX... COMMAND`. It does connect (without AUTH), shell with and without the
v2 protocol (exit codes, stdout and stderr apart), exec, push, pull and stat. It stands in for the transport, not for
Android: no toybox, no getprop, no dumpsys. It listens on loopback alone and gives whoever connects that shell.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import shlex
import socket
import struct
import subprocess
import threading


def number(name: bytes) -> int:
    """A command of the protocol as it is sent: four letters, little-endian."""
    return int(struct.unpack("<I", name)[0])


CNXN, OPEN, OKAY, WRTE, CLSE = map(number, (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))
VERSION = 0x01000001
LARGEST = 256 * 1024
PIECE = 64 * 1024
BANNER = b"device::ro.product.name=arm64dev;ro.product.model=arm64dev;ro.product.device=arm64dev;features=shell_v2,cmd"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = 0, 1, 2, 3, 3
"""Packets of the v2 shell; from the client, 3 closes stdin, to the client it carries the exit code."""


class Stream:
    """One stream of a connection, as a pair of byte pipes; a write waits until the client has taken the last one."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self.changed = threading.Condition()
        self.buffer = b""
        self.ended = False
        self.may_send = 1

    def read(self, n: int) -> bytes:
        """`n` bytes, fewer only at the end."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.buffer) >= n or self.ended)
            found, self.buffer = self.buffer[:n], self.buffer[n:]
            return found

    def write(self, data: bytes) -> None:
        """Sends `data` in pieces the client can take."""
        for at in range(0, len(data), LARGEST):
            with self.changed:
                self.changed.wait_for(lambda: self.may_send > 0 or self.ended)
                if self.ended:
                    raise ConnectionError
                self.may_send -= 1
            self.connection.send(WRTE, self.local, self.remote, data[at : at + LARGEST])

    def arrived(self, command: int, data: bytes) -> None:
        """Takes in what the client sent to this stream."""
        with self.changed:
            if command == OKAY:
                self.may_send += 1
            elif command == WRTE:
                self.buffer += data
            else:
                self.ended = True
            self.changed.notify_all()


class Connection:
    """A client: reads its messages, and serves each stream it opens in a thread."""

    def __init__(self, client: socket.socket, prefix: list[str]) -> None:
        self.client, self.prefix = client, prefix
        self.sending = threading.Lock()
        self.streams: dict[int, Stream] = {}
        self.opened = 0

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        """One message."""
        head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.sending:
            self.client.sendall(head + data)

    def receive(self, n: int) -> bytes:
        """Exactly `n` bytes."""
        data = b""
        while len(data) < n:
            piece = self.client.recv(n - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return data

    def run(self) -> None:
        """Until the client goes; its streams end with it."""
        with contextlib.suppress(ConnectionError, OSError), self.client:
            while True:
                command, first, second, length, _, _ = struct.unpack("<6I", self.receive(24))
                self.handle(command, first, second, self.receive(length))
        for stream in list(self.streams.values()):
            stream.arrived(CLSE, b"")

    def handle(self, command: int, first: int, second: int, data: bytes) -> None:
        """One message of the client."""
        if command == CNXN:
            self.send(CNXN, VERSION, LARGEST, BANNER)
        elif command == OPEN:
            self.opened += 1
            stream = self.streams[self.opened] = Stream(self, self.opened, first)
            self.send(OKAY, stream.local, first)
            threading.Thread(target=self.serve, args=(stream, data.rstrip(b"\0").decode()), daemon=True).start()
        elif stream_or_none := self.streams.get(second):
            stream_or_none.arrived(command, data)
            if command == WRTE:
                self.send(OKAY, second, stream_or_none.remote)

    def serve(self, stream: Stream, service: str) -> None:
        """What the client opened a stream for; an unknown service is closed at once."""
        kind, _, command = service.partition(":")
        with contextlib.suppress(ConnectionError, OSError):
            if kind == "sync":
                Sync(self, stream).run()
            elif kind.split(",")[0] in ("shell", "exec"):
                self.shell(stream, command or "sh", v2=kind.startswith("shell,v2"))
        with contextlib.suppress(OSError):
            self.send(CLSE, stream.local, stream.remote)
        self.streams.pop(stream.local, None)

    def start(self, command: str, *, stderr: int) -> subprocess.Popen[bytes]:
        """`command` in the target's shell."""
        return subprocess.Popen([*self.prefix, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def shell(self, stream: Stream, command: str, *, v2: bool) -> None:
        """Runs `command`; with v2, packets tell stdout from stderr and end with the exit code."""
        process = self.start(command, stderr=subprocess.PIPE if v2 else subprocess.STDOUT)
        threading.Thread(target=feed, args=(stream, process, v2), daemon=True).start()
        sources = {pipe: kind for pipe, kind in ((process.stdout, STDOUT), (process.stderr, STDERR)) if pipe}
        try:
            while sources:
                for pipe in select.select(list(sources), [], [])[0]:
                    data = pipe.read1(PIECE)
                    if not data:
                        del sources[pipe]
                    else:
                        stream.write(struct.pack("<BI", sources[pipe], len(data)) + data if v2 else data)
            code = process.wait() & 0xFF
            if v2:
                stream.write(struct.pack("<BIB", EXIT, 1, code))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def feed(stream: Stream, process: subprocess.Popen[bytes], v2: bool) -> None:
    """The client's stdin to the process; it ends the process when the client has gone."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        while True:
            if v2:
                head = stream.read(5)
                if len(head) < 5 or head[0] == CLOSE_STDIN:
                    break
                data = stream.read(struct.unpack("<I", head[1:])[0])
                if head[0] != STDIN:
                    continue
            elif not (data := stream.read(1)):
                break
            process.stdin.write(data)
            process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    if stream.ended and process.poll() is None:
        process.terminate()


class Sync:
    """The file service: STAT, SEND and RECV, by way of `stat` and `cat` in the target's shell."""

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self.connection, self.stream = connection, stream

    def run(self) -> None:
        """Until QUIT or the end."""
        serves = {b"STAT": self.stat, b"SEND": self.take, b"RECV": self.give}
        while len(head := self.stream.read(8)) == 8:
            name, length = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"QUIT":
                return
            argument = self.stream.read(length).decode()
            if name in serves:
                serves[name](argument)
            else:
                self.fail(f"{name!r} is not served".encode())

    def fail(self, why: bytes) -> None:
        """The answer that the client shows."""
        self.stream.write(b"FAIL" + struct.pack("<I", len(why)) + why)

    def stat(self, path: str) -> None:
        """Mode, size and time of a file; zeros if there is none."""
        process = self.connection.start("stat -L -c '%f %s %Y' " + shlex.quote(path), stderr=subprocess.DEVNULL)
        mode, size, time = (process.communicate()[0].split() if process.stdin else []) or (b"0", b"0", b"0")
        self.stream.write(b"STAT" + struct.pack("<3I", int(mode, 16), int(size) & 0xFFFFFFFF, int(time)))

    def take(self, argument: str) -> None:
        """A file from the client; `argument` is `PATH,MODE`."""
        path, _, mode = argument.rpartition(",")
        there = shlex.quote(path)
        command = f'mkdir -p "$(dirname {there})" && cat > {there} && chmod {int(mode) & 0o777:o} {there}'
        process = self.connection.start(command, stderr=subprocess.STDOUT)
        assert process.stdin is not None
        while True:
            head = self.stream.read(8)
            if len(head) < 8:  # the client went away in the middle of a file
                process.kill()
                process.wait()
                raise ConnectionError
            name, length = head[:4], struct.unpack("<I", head[4:])[0]
            if name == b"DONE":
                break
            data = self.stream.read(length)
            with contextlib.suppress(OSError):
                process.stdin.write(data)
        said = process.communicate()[0]
        if process.returncode:
            self.fail(said)
        else:
            self.stream.write(b"OKAY" + struct.pack("<I", 0))

    def give(self, path: str) -> None:
        """A file to the client."""
        process = self.connection.start("cat " + shlex.quote(path), stderr=subprocess.PIPE)
        assert process.stdout is not None
        while data := process.stdout.read(PIECE):
            self.stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
        said = process.communicate()[1]
        if process.returncode:
            self.fail(said)
        else:
            self.stream.write(b"DONE" + struct.pack("<I", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int, help="on 127.0.0.1; 0: any that is free")
    parser.add_argument("prefix", nargs="+", help="after --: the command that runs a shell command on the target")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", options.port)) as listening, contextlib.suppress(KeyboardInterrupt):
        print(f"listening on 127.0.0.1:{listening.getsockname()[1]}", flush=True)
        while True:
            client, _ = listening.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Connection(client, options.prefix).run, daemon=True).start()


if __name__ == "__main__":
    main()
