"""Official weight files: downloaded once over https, kept in the user's cache, checked against the hash in the name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import platformdirs

from edgecnn.errors import EnvironmentFailure
from edgecnn.nets.registry import Pretrained

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes done and, where the server says it, the bytes in all."""


class Response(Protocol):
    """What an opened URL must be able to do; `urllib.request.urlopen` returns one."""

    headers: http.client.HTTPMessage

    def read(self, amount: int, /) -> bytes:
        """At most `amount` bytes; empty at the end."""
        ...


Opener = Callable[[str], AbstractContextManager[Response]]


def open_url(url: str) -> AbstractContextManager[Response]:
    """The response to a GET request."""
    response: AbstractContextManager[Response] = urllib.request.urlopen(url, timeout=TIMEOUT_S)
    return response


def fetch(
    pretrained: Pretrained,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    opener: Opener = open_url,
) -> Path:
    """The path of the file in the cache, downloaded if it is not there or is damaged.

    The file appears under its name only when it is complete and its hash is right.

    Args:
        pretrained: which file.
        cache_dir: where it is kept; the user's cache by default.
        progress: told about every chunk.
        opener: opens a URL; a seam for tests.

    Raises:
        EnvironmentFailure: no network, no space, or what came is not the file.
    """
    folder = cache_dir or platformdirs.user_cache_path("edgecnn") / "weights"
    target = folder / pretrained.file
    if target.is_file() and sha256_of(target).startswith(pretrained.sha256_prefix):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=pretrained.file, suffix=".part")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                digest = _copy(pretrained.url, out.write, progress, opener)
            if not digest.startswith(pretrained.sha256_prefix):
                raise EnvironmentFailure(
                    "the download is not the official file",
                    where=pretrained.url,
                    expected=f"sha256 {pretrained.sha256_prefix}...",
                    got=f"sha256 {digest[:16]}..., {part.stat().st_size} bytes",
                    do="try again; if it stays so, something between here and the server changes the file",
                )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, http.client.HTTPException) as e:
        raise _explain(e, pretrained, folder) from e
    return target


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _copy(url: str, write: Callable[[bytes], int], progress: Progress | None, opener: Opener) -> str:
    """Copies what `url` answers to `write`; returns its sha256."""
    digest = hashlib.sha256()
    done = 0
    with opener(url) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        while chunk := response.read(CHUNK_BYTES):
            write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _explain(error: Exception, pretrained: Pretrained, folder: Path) -> EnvironmentFailure:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return EnvironmentFailure(
            f"cannot write the weights to the cache: {error.strerror}",
            where=str(folder),
            do="make room or access there, or use --weights PATH with a file from elsewhere",
        )
    return EnvironmentFailure(
        "cannot download the official weights",
        where=pretrained.url,
        got=f"{type(error).__name__}: {error}",
        do=f"fetch the file where there is a network and use --weights PATH/{pretrained.file},\n"
        f"or put it into {folder},\n"
        "or use --weights random --seed N (untrained: for speed only)",
    )
