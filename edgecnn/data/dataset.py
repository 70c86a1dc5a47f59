"""A data set: a source seen through one preprocessing, in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgecnn.data.preprocessing import Pixels, Preprocessing, crop_pixels, image_pixels, normalize, to_channels
from edgecnn.data.source import Source, Split
from edgecnn.errors import InputError, UsageError

Array = npt.NDArray[Any]
Role = Literal["calibration", "evaluation"]
Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]

_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class ImageRecord:
    """One image as provenance: its name in the source and the sha256 of its file (or of its raw pixels)."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """Images ready for a net.

    A split may be asked for by name (`train`, `val`, `test`, `all`) or by role: `calibration` is what ranges and
    weights may be fitted to, `evaluation` what accuracies are measured on. The two are different splits wherever
    the source has more than one; where it has only one, `notes` says so.

    Attributes:
        name: the profile, or the path the images were read from.
        source: the images.
        preprocessing: how they become inputs.
        seed: fixes which images are drawn where a limit is given, and their order.
        skip_unreadable: unreadable images are left out and listed in `skipped`, instead of ending the run.
        notes: what a reader of any result must know about these images.
        unfit: the images are no stand-in for real ones.
        skipped: names of the images left out so far.
    """

    name: str
    source: Source
    preprocessing: Preprocessing
    seed: int = 0
    skip_unreadable: bool = False
    notes: tuple[str, ...] = ()
    unfit: bool = False
    skipped: list[str] = field(default_factory=list, compare=False)
    _decoded: dict[Split, tuple[Pixels, npt.NDArray[np.int64] | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.source.entries)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes by number, or None if the images have no labels."""
        return self.source.classes

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """The class number of every image, or None. Shapes: (len(self),)."""
        if self.classes is None:
            return None
        return np.array([entry.label for entry in self.source.entries], np.int64)

    def split_of(self, role: Role) -> Split:
        """The split that serves `role`: calibration the first of train, val, test; evaluation the last, test first."""
        splits = self.source.splits
        if role == "calibration":
            return splits[0]
        return next(split for split in ("test", "val", splits[0]) if split in splits)

    def indices(self, split: Split | Role = "all", *, limit: int | None = None) -> list[int]:
        """The images of `split`, in the source's order; or `limit` of them, drawn and ordered by the seed.

        A smaller limit draws a prefix of a larger one's images.

        Raises:
            UsageError: the source has no such split, or `limit` is not positive.
        """
        name = self.split_of(split) if split in ("calibration", "evaluation") else split
        chosen = [i for i, entry in enumerate(self.source.entries) if name in ("all", entry.split)]
        if not chosen:
            raise UsageError(
                f"the data have no split `{name}`",
                where=self.name,
                expected="one of " + ", ".join(self.source.splits),
            )
        if limit is None:
            return chosen
        if limit < 1:
            raise UsageError("the number of images must be positive", where=self.name, got=str(limit))
        order = np.random.default_rng(self.seed).permutation(len(chosen))[:limit]
        return [chosen[i] for i in order]

    def raw(self, i: int) -> Pixels:
        """Image i before normalisation. Shapes: uint8 (height, width, channels).

        Raises:
            InputError: it cannot be read.
        """
        image = self.source.image(i)
        if self.source.sized:
            return image_pixels(to_channels(image, self.preprocessing.channels))
        return crop_pixels(image, self.preprocessing)

    def batches(self, batch_size: int, *, split: Split | Role = "all", limit: int | None = None) -> Iterator[Batch]:
        """Inputs and labels, `batch_size` at a time; the last batch may be smaller.

        Shapes:
            float32 (N, channels, height, width) and int64 (N,), or None for the labels if there are none.

        Raises:
            InputError: an image cannot be read (all such images of the split are counted), or none can.
            UsageError: see `indices`.
        """
        for pixels_nhwc, labels in self.raw_batches(batch_size, split=split, limit=limit):
            yield normalize(pixels_nhwc, self.preprocessing), labels

    def raw_batches(
        self, batch_size: int, *, split: Split | Role = "all", limit: int | None = None
    ) -> Iterator[tuple[Pixels, npt.NDArray[np.int64] | None]]:
        """As `batches`, before normalisation. Shapes: uint8 (N, height, width, channels) and int64 (N,) or None."""
        chosen = self.indices(split, limit=limit)
        labels = self.labels
        pixels: list[Pixels] = []
        kept: list[int] = []
        seen = 0
        for position, i in enumerate(chosen):
            try:
                pixels.append(self.raw(i))
                kept.append(i)
            except InputError as error:
                self._unreadable(error, chosen[position:])
            if len(kept) == batch_size or (kept and position == len(chosen) - 1):
                yield np.stack(pixels), None if labels is None else labels[kept]
                seen += len(kept)
                pixels, kept = [], []
        if not seen:
            raise InputError("not one image can be read", where=self.name, got=f"{len(chosen)} unreadable images")

    def decoded(self, split: Split | Role = "all") -> tuple[Pixels, npt.NDArray[np.int64] | None]:
        """All images of `split` before normalisation and their labels; kept in memory for the next who asks.

        Shapes:
            uint8 (N, height, width, channels) and int64 (N,), or None if there are no labels.

        Raises:
            InputError: as `batches`.
        """
        name = self.split_of(split) if split == "calibration" or split == "evaluation" else split
        if name not in self._decoded:
            parts = list(self.raw_batches(256, split=name))
            labels = [labels for _, labels in parts if labels is not None]
            self._decoded[name] = (
                np.concatenate([pixels for pixels, _ in parts]),
                np.concatenate(labels) if labels else None,
            )
        return self._decoded[name]

    def _unreadable(self, error: InputError, rest: Sequence[int]) -> None:
        """Notes the first image of `rest` as skipped, or says how many of the rest are unreadable too."""
        if self.skip_unreadable:
            name = self.source.entries[rest[0]].name
            if name not in self.skipped:
                self.skipped.append(name)
            return
        bad = [error, *(found for i in rest[1:] if (found := self._problem(i)) is not None)]
        if len(bad) == 1 and len(self) == 1:
            raise error
        shown = "\n".join(f"{each.where}: {each.got}" for each in bad[:_NAMED_AT_MOST])
        more = f"\nand {len(bad) - _NAMED_AT_MOST} more" if len(bad) > _NAMED_AT_MOST else ""
        raise InputError(
            f"{len(bad)} of {len(self)} images cannot be read",
            where=self.name,
            got=shown + more,
            do="remove or replace them, or leave them out with --skip-unreadable",
        ) from None

    def _problem(self, i: int) -> InputError | None:
        try:
            self.source.image(i)
        except InputError as error:
            return error
        return None

    def image_list(self, split: Split | Role = "all", *, limit: int | None = None) -> tuple[ImageRecord, ...]:
        """The images that `batches` would give for the same arguments, in the same order, with their hashes."""
        skipped = set(self.skipped)
        return tuple(
            ImageRecord(self.source.entries[i].name, hashlib.sha256(self.source.content(i)).hexdigest())
            for i in self.indices(split, limit=limit)
            if self.source.entries[i].name not in skipped
        )

    def fingerprint(self, split: Split | Role = "all", *, limit: int | None = None) -> str:
        """A sha256 over the preprocessing and the contents and order of the images; names do not count."""
        digest = hashlib.sha256(self.preprocessing.model_dump_json().encode())
        for record in self.image_list(split, limit=limit):
            digest.update(bytes.fromhex(record.sha256))
        return digest.hexdigest()
