"""Images that need no download: the handwritten digits and the two photographs inside scikit-learn, and noise.

scikit-learn's data files are read directly: importing it would take a second, and only its data are wanted.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from edgecnn.data.arrays import pixels_source
from edgecnn.data.preprocessing import Preprocessing, image_pixels, open_image, to_channels
from edgecnn.data.source import Entry, Source
from edgecnn.errors import EnvironmentFailure

PHOTO_CROPS = 64
RANDOM_IMAGES = 64


def digits_source() -> Source:
    """The 1,797 scans of handwritten digits: 8x8, gray, white on black, labelled 0-9.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    1998 (the test set, by 13 writers), as distributed in scikit-learn.
    """
    with gzip.open(_sklearn_data("data/digits.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    # The file counts dark pixels in 4x4 blocks: 0-16.
    pixels = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    entries = [Entry(f"digits[{i}]", label=int(label)) for i, label in enumerate(table[:, 64])]
    return pixels_source(pixels, entries, tuple("0123456789"))


def photos_source(preprocessing: Preprocessing, *, seed: int) -> Source:
    """64 random crops of a temple and a flower, at the size of `preprocessing.crop`, without labels.

    Each crop covers a quarter to the whole of its photograph, with an aspect ratio of 3:4 to 4:3 times the net's,
    half of them mirrored: the usual training augmentation, with a milder scale because the images are few.
    """
    from PIL import Image, ImageOps

    names = ("china.jpg", "flower.jpg")
    photos = [to_channels(open_image(_sklearn_data(f"images/{name}")), preprocessing.channels) for name in names]
    height, width = preprocessing.crop
    random = np.random.default_rng(seed)
    crops, entries = [], []
    for i in range(PHOTO_CROPS):
        photo = photos[i % len(photos)]
        aspect = width / height * np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        area = random.uniform(0.25, 1) * photo.width * photo.height
        # A box that sticks out is shrunk to fit, its aspect ratio kept.
        fit = min(1.0, photo.width / np.sqrt(area * aspect), photo.height / np.sqrt(area / aspect))
        # Rounding may still leave it a hair too large.
        box_width = min(fit * np.sqrt(area * aspect), photo.width)
        box_height = min(fit * np.sqrt(area / aspect), photo.height)
        left = random.uniform(0, photo.width - box_width)
        top = random.uniform(0, photo.height - box_height)
        box = (left, top, min(left + box_width, photo.width), min(top + box_height, photo.height))
        crop = photo.resize((width, height), Image.Resampling.BILINEAR, box=box)
        crops.append(image_pixels(ImageOps.mirror(crop) if random.random() < 0.5 else crop))
        entries.append(Entry(f"{names[i % len(names)]}[crop {i}]"))
    return pixels_source(np.stack(crops), entries, None, sized=True)


def random_source(preprocessing: Preprocessing, *, seed: int) -> Source:
    """64 images of uniform noise at the size of `preprocessing.crop`, without labels."""
    shape = (RANDOM_IMAGES, *preprocessing.crop, preprocessing.depth)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return pixels_source(pixels, [Entry(f"noise[{i}]") for i in range(RANDOM_IMAGES)], None, sized=True)


def _sklearn_data(name: str) -> Path:
    found = importlib.util.find_spec("sklearn")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder, "datasets", name)
        if path.is_file():
            return path
    raise EnvironmentFailure(
        f"scikit-learn's data file `{name}` is missing",
        expected="scikit-learn installed with its data sets",
        do="python -m pip install scikit-learn",
    )
