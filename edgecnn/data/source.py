"""A source: a list of images with their names, splits and labels, and a way to open one.

Where the images lie (folder, archive, array, built-in) is hidden behind two functions, `content` and `image`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgecnn.data.preprocessing import decode_image
from edgecnn.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

Split = Literal["train", "val", "test", "all"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Entry:
    """One image: its name within the source, the split it belongs to, its class if known."""

    name: str
    split: Split = "all"
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """Images and how to open them.

    Attributes:
        entries: one per image, in a fixed order.
        classes: the names of the classes, or None if the images have no labels.
        content: the bytes that identify image i (its file, or its raw pixels), for hashes.
        image: image i, decoded.
        sized: the images already have the net's input size, so scaling and cropping do not apply.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...] | None
    content: Callable[[int], bytes]
    image: Callable[[int], Image.Image]
    sized: bool = False

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that occur, in the order train, val, test, all."""
        present = {entry.split for entry in self.entries}
        order: tuple[Split, ...] = ("train", "val", "test", "all")
        return tuple(split for split in order if split in present)


def files_source(
    paths: Sequence[PurePosixPath], content: Callable[[int], bytes], *, full_name: Callable[[int], str]
) -> Source:
    """A source of image files at `paths` (relative, sorted), laid out as `arrange` reads them.

    Args:
        paths: where the images lie within the folder or archive.
        content: the bytes of file i.
        full_name: what to call file i in an error.
    """
    entries, classes = arrange(paths)
    return Source(entries, classes, content, lambda i: decode_image(content(i), name=full_name(i)))


def is_image_path(path: PurePosixPath) -> bool:
    """Whether `path` looks like an image; hidden files and the Mac's resource forks do not count."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def arrange(paths: Sequence[PurePosixPath]) -> tuple[tuple[Entry, ...], tuple[str, ...] | None]:
    """Splits and classes from folder names: `[split/]class/.../image`, or images side by side without labels.

    A single folder around everything, as archives often have it, is looked through. Images of which some lie in
    class folders and some beside them have no labels, since the strays belong to no class. Classes are numbered in
    the sorted order of their names over all splits, which is also ImageNet's.
    """
    parts = [path.parts for path in paths]
    while parts and _is_wrapper(parts):
        parts = [part[1:] for part in parts]
    splits: list[Split] = ["all"] * len(parts)
    if parts and all(len(part) > 1 and part[0].lower() in _SPLIT_FOLDERS for part in parts):
        splits = [_SPLIT_FOLDERS[part[0].lower()] for part in parts]
        parts = [part[1:] for part in parts]
    labelled = bool(parts) and all(len(part) > 1 for part in parts)
    classes = tuple(sorted({part[0] for part in parts})) if labelled else None
    number = {name: i for i, name in enumerate(classes or ())}
    entries = tuple(
        Entry(str(path), split, number.get(part[0]) if labelled else None)
        for path, split, part in zip(paths, splits, parts, strict=True)
    )
    return entries, classes


def _is_wrapper(parts: Iterable[tuple[str, ...]]) -> bool:
    """Whether all paths share a first folder that is neither a split nor the only class."""
    first = {part[0] for part in parts}
    return len(first) == 1 and min(map(len, parts)) > 2 and next(iter(first)).lower() not in _SPLIT_FOLDERS


def hold_out(source: Source, *, share: float, seed: int) -> Source:
    """`source` with a fixed random `share` of every class moved to the split `test`, the rest to `train`.

    Each class gives its rounded share (without labels, all images count as one class), so the test set has the
    class frequencies of the whole. The choice depends only on the entries' order, `share` and `seed`.

    Raises:
        UsageError: a split would be empty.
    """
    labels = np.array([-1 if entry.label is None else entry.label for entry in source.entries])
    random = np.random.default_rng(seed)
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        test[random.permutation(members)[: round(share * len(members))]] = True
    if not 0 < test.sum() < len(test):
        raise UsageError(
            f"{len(test)} images cannot be split with {share:g} of them for evaluation",
            do="give more images, or folders `train` and `test`",
        )
    entries = tuple(
        replace(entry, split="test" if held else "train") for entry, held in zip(source.entries, test, strict=True)
    )
    return replace(source, entries=entries)
