"""An artifact: a file for a runtime and, beside it, a manifest that says what it is, from what, and what was proved.

The manifest lies beside the file (`net.tflite` and `net.tflite.json`), never inside it, so that the file stays exactly
what the runtime expects. Everything is written to a temporary name and renamed, so nothing is ever half-written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import EnvironmentFailure, InputError, UsageError

MANIFEST_VERSION = 1


def sha256_of(data: bytes) -> str:
    """The sha256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """The sha256 of a file's content in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def atomic_write(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path` by way of a temporary file in the same folder; the folder is made if it is missing.

    Raises:
        EnvironmentFailure: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise EnvironmentFailure(
            f"`{path}` cannot be written: {error.strerror or error}",
            expected=f"{len(data):,} bytes of space in a folder that can be written",
            do="free some space or choose another folder with -o",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    # The only portable way to read the mask is to set it; put back at once.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_existing(*paths: Path, overwrite: bool) -> None:
    """Raises a UsageError if one of `paths` exists and may not be overwritten."""
    if overwrite:
        return
    for path in paths:
        if path.exists():
            raise UsageError(
                f"`{path}` exists already",
                do="give --overwrite to replace it, or -o DIR to write elsewhere",
            )


def canonical_json(content: Any) -> bytes:
    """`content` as readable JSON whose bytes depend on nothing but the content."""
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Artifact:
    """A file for a runtime with its manifest.

    Args:
        path: the file.
        manifest: the content of `<path>.json`; plain JSON data.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies."""
        return manifest_path(self.path)

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size

    @staticmethod
    def write(path: Path, data: bytes, manifest: dict[str, Any], *, overwrite: bool = False) -> Artifact:
        """Writes the file and its manifest (the manifest last, so that a manifest vouches for a whole file).

        Raises:
            UsageError: one of them exists and `overwrite` is off.
            EnvironmentFailure: the folder cannot be written.
        """
        refuse_existing(path, manifest_path(path), overwrite=overwrite)
        text = canonical_json(
            {
                "manifest_version": MANIFEST_VERSION,
                "file": path.name,
                "sha256": sha256_of(data),
                "size_bytes": len(data),
                **manifest,
            }
        )
        with contextlib.suppress(FileNotFoundError):
            manifest_path(path).unlink()  # an old manifest must never vouch for a new file
        atomic_write(path, data)
        atomic_write(manifest_path(path), text)
        return Artifact(path, json.loads(text))

    @staticmethod
    def open(path: str | Path) -> Artifact:
        """An artifact from disk; a file without a manifest (made by another tool) has an empty one.

        Raises:
            InputError: no such file, a damaged manifest, or a file that is not the one its manifest vouches for.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no file `{path}`", do="give the path of a .tflite or .onnx file")
        beside = manifest_path(path)
        if not beside.is_file():
            return Artifact(path, {})
        try:
            manifest = json.loads(beside.read_text(encoding="utf-8"))
            vouched, version = manifest["sha256"], manifest["manifest_version"]
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise InputError(
                f"the manifest `{beside}` is damaged: {error}",
                do="export the artifact again, or remove the manifest to use the file without it",
            ) from error
        if version != MANIFEST_VERSION:
            raise InputError(
                f"the manifest `{beside}` has another version",
                expected=str(MANIFEST_VERSION),
                got=str(version),
                do="use the edgecnn that wrote it, or export again",
            )
        actual = sha256_of_file(path)
        if actual != vouched:
            raise InputError(
                f"`{path}` is not the file that its manifest describes",
                expected=f"sha256 {vouched}",
                got=f"sha256 {actual}",
                do="export the artifact again",
            )
        return Artifact(path, manifest)


def manifest_path(path: Path) -> Path:
    """The manifest's place beside an artifact."""
    return path.with_name(path.name + ".json")
