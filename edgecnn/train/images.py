"""The training images: decoded once, held as bytes, drawn in an order that the seed fixes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocessing import Pixels, Preprocessing, normalize
from edgecnn.errors import InputError


@dataclass(frozen=True)
class TrainingImages:
    """The training split in memory.

    Shapes:
        pixels_nhwc: uint8 (N, height, width, channels).
        labels: int64 (N,).
    """

    pixels_nhwc: Pixels
    labels: Tensor
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, chosen: Tensor) -> Tensor:
        """The images `chosen`, normalised. Shapes: int64 (B,) to float32 (B, channels, height, width)."""
        return torch.from_numpy(normalize(self.pixels_nhwc[chosen.numpy()], self.preprocessing))

    def fingerprint(self) -> str:
        """A sha256 over all that training sees of the images."""
        digest = hashlib.sha256(self.preprocessing.model_dump_json().encode())
        digest.update(repr((self.pixels_nhwc.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.pixels_nhwc).data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


def training_images(dataset: Dataset, *, batch_size: int) -> TrainingImages:
    """The calibration split of `dataset`, decoded.

    Raises:
        InputError: the data have no labels, no split to evaluate on, or too few images for one batch.
    """
    train, test = dataset.split_of("calibration"), dataset.split_of("evaluation")
    if dataset.classes is None:
        raise InputError("training needs labels", where=dataset.name, do="use a folder with one subfolder per class")
    if train == test:
        raise InputError(
            "the data have no images apart from those to train on",
            where=dataset.name,
            do="give folders `train` and `test`, or a profile of your own with `holdout`",
        )
    pixels, labels = dataset.decoded("calibration")
    assert labels is not None  # there are classes
    if len(labels) < batch_size:
        raise InputError(
            f"{len(labels)} training images do not fill one batch",
            where=dataset.name,
            expected=f"at least batch_size = {batch_size}",
            do="lower batch_size, or give more images",
        )
    return TrainingImages(pixels, torch.from_numpy(labels), dataset.preprocessing, dataset.classes)


def whole_batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """`order` in pieces of `batch_size`; what is left over at the end is left out."""
    for start in range(0, len(order) - batch_size + 1, batch_size):
        yield order[start : start + batch_size]
