"""Images that lie in arrays: a user's .npz, and the building block of the built-in sets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.data.source import Entry, Source, Split
from edgecnn.errors import InputError

Array = npt.NDArray[Any]

MAX_NPZ_BYTES = 8 * 2**30

_SPLIT_KEYS: dict[str, Split] = {"x": "all", "x_train": "train", "x_val": "val", "x_test": "test"}
_KEYS_TEXT = "`x` (and `y`), or `x_train`, `y_train`, `x_test`, `y_test`; optionally `classes`"


def pixels_source(
    pixels_nhwc: npt.NDArray[np.uint8],
    entries: Sequence[Entry],
    classes: tuple[str, ...] | None,
    *,
    sized: bool = False,
) -> Source:
    """A source of images held in one array.

    Shapes:
        Takes uint8 (N, height, width, 1 or 3), one entry per image.
    """
    from PIL import Image

    def image(i: int) -> Image.Image:
        pixels = pixels_nhwc[i]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)

    return Source(tuple(entries), classes, lambda i: pixels_nhwc[i].tobytes(), image, sized)


def npz_source(path: Path) -> Source:
    """The images of an .npz: uint8 arrays (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), labels (N,).

    The keys are those of the header of this file's `_SPLIT_KEYS`: one set `x`, `y`, or `x_train`, `y_train`,
    `x_test`, `y_test` as Keras distributes them. Pickled objects are never loaded.

    Raises:
        InputError: the file is damaged, has other keys, or arrays that are no images or no labels.
    """
    arrays = _load(path)
    keys = [key for key in _SPLIT_KEYS if key in arrays]
    if not keys or ("x" in keys and len(keys) > 1):
        raise InputError(
            f"`{path.name}` does not have the arrays of an image set",
            where=str(path),
            expected=_KEYS_TEXT,
            got=", ".join(f"`{key}`" for key in arrays) or "no arrays",
            do="numpy.savez_compressed(path, x=images_uint8, y=labels)",
        )
    pixels = [_images(arrays[key], f"{path}: {key}") for key in keys]
    if len({part.shape[1:] for part in pixels}) > 1:
        raise InputError(
            "the arrays have images of different sizes",
            where=str(path),
            got=", ".join(f"{key} {part.shape[1:]}" for key, part in zip(keys, pixels, strict=True)),
        )
    labels = [_labels(arrays, key, len(part), path) for key, part in zip(keys, pixels, strict=True)]
    known = [part for part in labels if part is not None]
    if known and len(known) < len(labels):
        raise InputError("some arrays have labels and some have none", where=str(path), expected=_KEYS_TEXT)
    entries = [
        Entry(f"{key}[{i}]", _SPLIT_KEYS[key], None if label is None else int(label[i]))
        for key, part, label in zip(keys, pixels, labels, strict=True)
        for i in range(len(part))
    ]
    count = 1 + max(int(part.max()) for part in known) if known else 0
    return pixels_source(np.concatenate(pixels), entries, _class_names(arrays, count, path) if known else None)


def _load(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_NPZ_BYTES:
            raise InputError(
                f"`{path.name}` is too large",
                where=str(path),
                expected=f"at most {MAX_NPZ_BYTES >> 30} GiB of arrays",
                got=f"{size >> 30} GiB",
                do="use a folder of images",
            )
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"cannot read `{path.name}` as a set of arrays",
            where=str(path),
            expected="an .npz of plain numeric arrays (objects that need pickle are refused)",
            got=str(error),
            do="numpy.savez_compressed(path, x=images_uint8, y=labels)",
        ) from None


def _images(x: Array, where: str) -> npt.NDArray[np.uint8]:
    """`x` as (N, height, width, channels)."""
    if x.dtype == np.uint8 and x.size:
        if x.ndim == 3:
            return x[:, :, :, None]
        if x.ndim == 4 and x.shape[3] in (1, 3):
            return x
        if x.ndim == 4 and x.shape[1] in (1, 3):
            return x.transpose(0, 2, 3, 1)
    raise InputError(
        "the array is not a set of images",
        where=where,
        expected="uint8, 0-255, of shape (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), not empty",
        got=f"{x.dtype} {x.shape}",
        do="store the pixels as they are; scaling and normalisation are done by the profile",
    )


def _labels(arrays: Mapping[str, Array], key: str, count: int, path: Path) -> Array | None:
    name = key.replace("x", "y", 1)
    if name not in arrays:
        return None
    y = arrays[name]
    if y.shape == (count, 1):
        y = y[:, 0]
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer) or int(y.min()) < 0:
        raise InputError(
            "the array is not a set of labels",
            where=f"{path}: {name}",
            expected=f"{count} integers from 0, one per image",
            got=f"{y.dtype} {y.shape}" + (f", smallest {y.min()}" if y.size and y.dtype.kind in "if" else ""),
        )
    return y


def _class_names(arrays: Mapping[str, Array], count: int, path: Path) -> tuple[str, ...]:
    if "classes" not in arrays:
        return tuple(str(i) for i in range(count))
    names = tuple(str(name) for name in arrays["classes"].reshape(-1))
    if len(names) < count:
        raise InputError(
            "there are more classes than names",
            where=f"{path}: classes",
            expected=f"{count} names",
            got=str(len(names)),
        )
    return names
