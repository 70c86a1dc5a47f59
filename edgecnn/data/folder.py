"""Images in a folder on disk."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from edgecnn.data.source import IMAGE_SUFFIXES, Source, files_source, is_image_path
from edgecnn.errors import InputError


def folder_source(folder: Path) -> Source:
    """The images below `folder`, at any depth; links to folders are not followed.

    Raises:
        InputError: there are none.
    """
    paths = sorted(
        relative
        for place, _, names in os.walk(folder)
        for name in names
        if is_image_path(relative := PurePosixPath(Path(place, name).relative_to(folder).as_posix()))
    )
    if not paths:
        raise no_images(str(folder), "the folder")

    def content(i: int) -> bytes:
        path = folder / paths[i]
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the image `{path.name}`", where=str(path), got=error.strerror or str(error)
            ) from None

    return files_source(paths, content, full_name=lambda i: str(folder / paths[i]))


def no_images(where: str, what: str) -> InputError:
    """The error for a folder or archive without images."""
    return InputError(
        f"{what} has no images",
        where=where,
        expected="files ending in " + ", ".join(sorted(IMAGE_SUFFIXES)),
        do="give a folder of images, with one subfolder per class if they have labels",
    )
