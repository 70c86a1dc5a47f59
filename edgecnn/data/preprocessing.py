"""How an image becomes a net's input: scale, centre crop, colour, then (x / 255 - mean) / std.

The pixels after the crop are uint8; the normalisation is a separate, affine step. An artifact that embeds the
normalisation takes those pixels as they are, so both kinds of artifact see the same crop.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from edgecnn.data.settings import Settings
from edgecnn.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Side = Annotated[int, Field(ge=1, le=8192)]


class Preprocessing(Settings):
    """From an image of any size to the input of one net; everything a device needs to do the same.

    Attributes:
        channels: colour order of the pixels.
        resize: (height, width) that the scaled image just covers, its aspect ratio kept. With equal sides this is
            the usual "shorter side".
        crop: (height, width) cut from the centre afterwards: the net's input size.
        interpolation: filter of the scaling; bilinear and bicubic are antialiased, as Pillow does it.
        mean: subtracted per channel, on the 0-1 scale.
        std: divided by per channel, on the 0-1 scale.
    """

    channels: Literal["rgb", "gray"] = "rgb"
    resize: tuple[Side, Side]
    crop: tuple[Side, Side]
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Preprocessing:
        if self.resize[0] < self.crop[0] or self.resize[1] < self.crop[1]:
            raise ValueError(f"resize {self.resize} does not cover crop {self.crop}")
        if not len(self.mean) == len(self.std) == self.depth:
            raise ValueError(
                f"{self.channels} needs {self.depth} values in mean and in std, "
                f"not {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def depth(self) -> int:
        """The number of channels."""
        return 3 if self.channels == "rgb" else 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the net's input."""
        return (self.depth, *self.crop)


def decode_image(content: bytes, *, name: str) -> Image.Image:
    """The image in the file `content`, upright (EXIF orientation applied), fully decoded.

    Raises:
        InputError: the bytes are not a whole image of a kind that Pillow reads.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    # Pillow's plugins report damaged files through all of these; its text may end in the object's address.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"cannot read the image `{Path(name).name}`",
            where=name,
            got="an empty file" if not content else str(error).split(" <")[0],
            do="replace the file, or delete it",
        ) from None


def open_image(path: Path) -> Image.Image:
    """The image file at `path`, decoded; see `decode_image`.

    Raises:
        InputError: the file is missing or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the image `{path.name}`", where=str(path), got=error.strerror or str(error)
        ) from None
    return decode_image(content, name=str(path))


def crop_pixels(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """`image` scaled, cropped and in the right colours.

    Sizes round as torchvision's `Resize` and `CenterCrop` do, so that published accuracies hold.

    Shapes:
        Returns uint8 (height, width, channels).
    """
    from PIL import Image

    colours = to_channels(image, preprocessing.channels)
    width, height = colours.size
    cover_height, cover_width = preprocessing.resize
    if cover_width * height >= cover_height * width:
        scaled = (cover_width, cover_width * height // width)
    else:
        scaled = (cover_height * width // height, cover_height)
    if scaled != (width, height):
        filters = {
            "nearest": Image.Resampling.NEAREST,
            "bilinear": Image.Resampling.BILINEAR,
            "bicubic": Image.Resampling.BICUBIC,
        }
        colours = colours.resize(scaled, filters[preprocessing.interpolation])
    crop_height, crop_width = preprocessing.crop
    left = round((scaled[0] - crop_width) / 2)
    top = round((scaled[1] - crop_height) / 2)
    return image_pixels(colours.crop((left, top, left + crop_width, top + crop_height)))


def to_channels(image: Image.Image, channels: Literal["rgb", "gray"]) -> Image.Image:
    """`image` with 8 bits per channel in the colours asked for; transparency is dropped."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow would clip 16-bit samples at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB" if channels == "rgb" else "L")


def image_pixels(image: Image.Image) -> Pixels:
    """The pixels of an 8-bit image as uint8 (height, width, channels)."""
    pixels = np.asarray(image, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def normalize(pixels_nhwc: Pixels, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """(pixels / 255 - mean) / std in float32.

    Shapes:
        Takes uint8 (N, height, width, channels); returns float32 (N, channels, height, width).
    """
    x_nchw = np.ascontiguousarray(pixels_nhwc.transpose(0, 3, 1, 2)).astype(np.float32)
    x_nchw /= np.float32(255)
    x_nchw -= np.asarray(preprocessing.mean, np.float32).reshape(-1, 1, 1)
    x_nchw /= np.asarray(preprocessing.std, np.float32).reshape(-1, 1, 1)
    return x_nchw


def raw_image(image: Path | Image.Image, preprocessing: Preprocessing) -> Pixels:
    """The cropped pixels of `image` before normalisation, for artifacts that embed it.

    Shapes:
        Returns uint8 (height, width, channels), 0-255.

    Raises:
        InputError: the file is missing or is no image.
    """
    return crop_pixels(open_image(image) if isinstance(image, Path) else image, preprocessing)


def preprocess_image(image: Path | Image.Image, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """The net's input for one image.

    Shapes:
        Returns float32 (channels, height, width).

    Raises:
        InputError: the file is missing or is no image.
    """
    x_chw: npt.NDArray[np.float32] = normalize(raw_image(image, preprocessing)[None], preprocessing)[0]
    return x_chw
