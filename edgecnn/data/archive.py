"""Images in a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip, read where they are: nothing is unpacked to disk.

An archive is a stranger's file. A member whose name would lead outside is refused (the archive is hostile or broken,
so nothing of it is used), links and devices are passed over, and sizes are bounded before anything is read.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from edgecnn.data.folder import no_images
from edgecnn.data.source import Source, files_source, is_image_path
from edgecnn.errors import InputError

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz", ".zip")

MAX_MEMBER_BYTES = 256 * 2**20
MAX_MEMORY_BYTES = 4 * 2**30
"""A compressed tar has no random access, so its images are held in memory, still as JPEG or PNG."""

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
"""First bytes of gzip, bzip2 and xz."""

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, NotImplementedError)


def is_archive(path: Path) -> bool:
    """Whether `path` is named like an archive that `archive_source` reads."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def archive_source(path: Path) -> Source:
    """The images in the archive at `path`.

    Raises:
        InputError: the archive is damaged, hostile, too large, or has no images.
    """
    reader = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    try:
        members = reader(path)
    except _DAMAGE as error:
        raise _damaged(path, error) from None
    if not members:
        raise no_images(str(path), "the archive")
    paths = sorted(members)

    def content(i: int) -> bytes:
        try:
            return members[paths[i]]()
        except _DAMAGE as error:
            raise _damaged(path, error) from None

    return files_source(paths, content, full_name=lambda i: f"{path}!{paths[i]}")


Members = dict[PurePosixPath, Callable[[], bytes]]


def _zip_members(path: Path) -> Members:
    archive = zipfile.ZipFile(path)
    members: Members = {}
    for info in archive.infolist():
        name = _safe_name(info.filename, path)
        if info.is_dir() or not is_image_path(name):
            continue
        if info.flag_bits & 1:
            raise InputError("the archive is encrypted", where=f"{path}!{name}", do="unpack it and give the folder")
        _check_size(info.file_size, name, path)
        members[name] = lambda info=info: archive.read(info)  # type: ignore[misc]
    return members


def _tar_members(path: Path) -> Members:
    with path.open("rb") as file:
        compressed = file.read(6).startswith(_COMPRESSED)
    return _compressed_tar(path) if compressed else _plain_tar(path)


def _plain_tar(path: Path) -> Members:
    """Members by their place in the file, so that any of them can be read without the others."""
    members: Members = {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        # tarfile takes a file cut off between two members for a whole one; a whole one ends in zeros.
        if file.read().strip(b"\0"):
            raise tarfile.ReadError("unexpected end of data")
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            name = _safe_name(member.name, path)
            if not member.isreg() or not is_image_path(name):
                continue
            _check_size(member.size, name, path)

            def read(offset: int = member.offset_data, count: int = member.size) -> bytes:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read(count)

            members[name] = read
    return members


def _compressed_tar(path: Path) -> Members:
    members: Members = {}
    total = 0
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = _safe_name(member.name, path)
            total += member.size  # of every member, since each must be decompressed to reach the next
            if total > MAX_MEMORY_BYTES:
                raise InputError(
                    "the archive is too large to read without unpacking",
                    where=str(path),
                    expected=f"at most {MAX_MEMORY_BYTES >> 30} GiB in a compressed tar",
                    do="unpack it and give the folder",
                )
            if not member.isreg() or not is_image_path(name):
                continue
            _check_size(member.size, name, path)
            file = archive.extractfile(member)
            content = b"" if file is None else file.read()
            members[name] = lambda content=content: content  # type: ignore[misc]
    return members


def _safe_name(name: str, path: Path) -> PurePosixPath:
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or ":" in (member.parts or ("",))[0]:
        raise InputError(
            "the archive has a member that leads outside of it",
            where=f"{path}!{name}",
            expected="relative names without `..`",
            do="do not trust this archive; if you must, unpack it with care and give the folder",
        )
    return member


def _check_size(size: int, name: PurePosixPath, path: Path) -> None:
    if size > MAX_MEMBER_BYTES:
        raise InputError(
            "the archive has an image that is too large",
            where=f"{path}!{name}",
            expected=f"at most {MAX_MEMBER_BYTES >> 20} MiB",
            got=f"{size >> 20} MiB",
        )


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"the archive `{path.name}` is damaged or incomplete",
        where=str(path),
        got=str(error) or type(error).__name__,
        do="fetch it again, and compare its checksum",
    )
