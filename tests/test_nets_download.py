"""The official files: downloaded once, checked, never half-written; every failure says what to do instead."""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import threading
import urllib.error
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from edgecnn.errors import EnvironmentFailure
from edgecnn.nets import NETS, Pretrained, build_net, load_weights
from edgecnn.nets.download import fetch, open_url

CONTENT = bytes(range(256)) * 2048
PRETRAINED = Pretrained(f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth", top1=0.0, top5=0.0)


class FakeResponse(io.BytesIO):
    def __init__(self, content: bytes, *, breaks: Exception | None = None, length: int | None = None) -> None:
        super().__init__(content)
        self.headers = http.client.HTTPMessage()
        if length is not None:
            self.headers["Content-Length"] = str(length)
        self.breaks = breaks

    def read(self, amount: int | None = -1, /) -> bytes:
        chunk = super().read(amount)
        if not chunk and self.breaks is not None:
            raise self.breaks
        return chunk


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def never(url: str) -> FakeResponse:
    raise AssertionError(f"opened {url}")


def test_downloaded_once_and_progress_told(tmp_path: Path) -> None:
    opened: list[str] = []
    told: list[tuple[int, int | None]] = []

    def opener(url: str) -> FakeResponse:
        opened.append(url)
        return FakeResponse(CONTENT, length=len(CONTENT))

    path = fetch(PRETRAINED, cache_dir=tmp_path, opener=opener, progress=lambda *now: told.append(now))
    assert path.read_bytes() == CONTENT
    assert opened == [f"https://download.pytorch.org/models/{PRETRAINED.file}"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert fetch(PRETRAINED, cache_dir=tmp_path, opener=never) == path


def test_a_damaged_file_in_the_cache_is_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / PRETRAINED.file).write_bytes(CONTENT[:100])
    path = fetch(PRETRAINED, cache_dir=tmp_path, opener=lambda url: FakeResponse(CONTENT))
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        fetch(PRETRAINED, cache_dir=tmp_path, opener=lambda url: FakeResponse(b"captive portal"))
    digest = hashlib.sha256(b"captive portal").hexdigest()[:16]
    assert str(caught.value) == (
        "EnvironmentFailure: the download is not the official file\n"
        f"  at       {PRETRAINED.url}\n"
        f"  expected sha256 {PRETRAINED.sha256_prefix}...\n"
        f"  got      sha256 {digest}..., 14 bytes\n"
        "  do       try again; if it stays so, something between here and the server changes the file"
    )
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route to host"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"12"),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("midway", [False, True])
def test_offline_names_the_alternatives(failure: Exception, midway: bool, tmp_path: Path) -> None:
    def opener(url: str) -> FakeResponse:
        if midway:
            return FakeResponse(CONTENT[:1000], breaks=failure)
        raise failure

    with pytest.raises(EnvironmentFailure) as caught:
        fetch(PRETRAINED, cache_dir=tmp_path, opener=opener)
    message = str(caught.value)
    assert message.startswith(
        f"EnvironmentFailure: cannot download the official weights\n  at       {PRETRAINED.url}\n"
    )
    assert f"use --weights PATH/{PRETRAINED.file},\n" in message
    assert f"or put it into {tmp_path},\n" in message
    assert message.endswith("or use --weights random --seed N (untrained: for speed only)")
    assert left_in(tmp_path) == []


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(EnvironmentFailure) as caught:
        fetch(PRETRAINED, cache_dir=tmp_path, opener=lambda url: FakeResponse(CONTENT, breaks=full))
    assert str(caught.value) == (
        "EnvironmentFailure: cannot write the weights to the cache: No space left on device\n"
        f"  at       {tmp_path}\n"
        "  do       make room or access there, or use --weights PATH with a file from elsewhere"
    )
    assert left_in(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(
            PRETRAINED,
            cache_dir=tmp_path,
            opener=lambda url: FakeResponse(CONTENT[:100], breaks=KeyboardInterrupt()),  # type: ignore[arg-type]
        )
    assert left_in(tmp_path) == []


class _Handler(BaseHTTPRequestHandler):
    content: ClassVar[bytes]

    def do_GET(self) -> None:
        self.send_response(200 if self.path.endswith(".pth") else 404)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    listening = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=partial(listening.serve_forever, poll_interval=0.01))
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_imagenet_weights_over_a_real_connection(server: str, tmp_path: Path) -> None:
    trained = build_net("squeezenet1_1", seed=1)
    saved = tmp_path / "trained.pth"
    torch.save(trained.state_dict(), saved)
    _Handler.content = saved.read_bytes()
    digest = hashlib.sha256(_Handler.content).hexdigest()
    official = NETS["squeezenet1_1"]
    entry = type(official)(**{**vars(official), "pretrained": Pretrained(f"trained-{digest[:8]}.pth", 0.0, 0.0)})

    net = build_net("squeezenet1_1", seed=2)
    loaded = load_weights(
        net,
        "imagenet",
        entry=entry,
        cache_dir=tmp_path / "cache",
        opener=lambda url: open_url(server + "/" + url.rsplit("/", 1)[1]),
    )
    assert (loaded.kind, loaded.sha256) == ("imagenet", digest)
    assert loaded.source == f"https://download.pytorch.org/models/trained-{digest[:8]}.pth"
    assert all(torch.equal(t, trained.state_dict()[k]) for k, t in net.state_dict().items())


def test_a_file_that_the_server_does_not_have(server: str, tmp_path: Path) -> None:
    _Handler.content = b""
    with pytest.raises(EnvironmentFailure, match=r"got      HTTPError: HTTP Error 404"):
        fetch(PRETRAINED, cache_dir=tmp_path, opener=lambda url: open_url(server + "/missing"))


@pytest.mark.parametrize("name", sorted(n for n in NETS if NETS[n].pretrained))
def test_every_official_file_carries_its_hash_in_its_name(name: str) -> None:
    pretrained = NETS[name].pretrained
    assert pretrained is not None
    assert len(pretrained.sha256_prefix) >= 8
    assert int(pretrained.sha256_prefix, 16) > 0
    assert pretrained.url.startswith("https://")
