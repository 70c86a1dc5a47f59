"""Profiles: where images come from and how they are preprocessed, as one small TOML file each under `calibration/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgecnn.data.preprocessing import Interpolation, Preprocessing
from edgecnn.data.settings import Settings, parse_settings, read_toml
from edgecnn.data.shipped import shipped
from edgecnn.errors import UsageError, unknown

Share = Annotated[float, Field(gt=0, lt=1)]


class Profile(Settings):
    """What a profile's file says.

    Attributes:
        about: one line for `edgecnn list profiles`.
        source: a built-in set, or `images` for the user's own folder, archive or .npz.
        crop_fraction: the crop's share of the scaled image's sides (224 of 256 is 0.875).
        interpolation: filter of the scaling.
        mean: subtracted from the 0-1 pixels: one value, or one per colour.
        std: divided by, likewise.
        holdout: the share of images kept for evaluation where the source has no splits of its own; None: no split.
        holdout_seed: fixes that split; it belongs to the profile, so that no run's seed moves a test image.
        caveat: said in every report that rests on this profile.
        unfit: the images are no stand-in for real ones, so that ranges measured on them must be marked.
    """

    about: str
    source: Literal["digits", "photos", "random", "images"]
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    holdout: Share | None = None
    holdout_seed: int = 0
    caveat: str | None = None
    unfit: bool = False

    def preprocessing(self, input_shape: Sequence[int]) -> Preprocessing:
        """The preprocessing for a net whose input is (channels, height, width).

        A gray net gets the average of three colours' mean and std; one given value serves all colours.

        Raises:
            UsageError: the net does not take an RGB or gray image.
        """
        if len(input_shape) != 3 or input_shape[0] not in (1, 3) or min(input_shape) < 1:
            raise UsageError(
                "image profiles feed nets that take one RGB or gray image",
                expected="an input of 3xHxW or 1xHxW",
                got="x".join(str(size) for size in input_shape),
                do="use --calibration with an .npz whose images have the net's channels"
                if len(input_shape) == 3
                else None,
            )
        depth, height, width = input_shape
        return Preprocessing(
            channels="rgb" if depth == 3 else "gray",
            resize=(int(height / self.crop_fraction), int(width / self.crop_fraction)),
            crop=(height, width),
            interpolation=self.interpolation,
            mean=_per_channel(self.mean, depth),
            std=_per_channel(self.std, depth),
        )


def _per_channel(values: tuple[float, ...], depth: int) -> tuple[float, ...]:
    if len(values) == depth:
        return values
    return (sum(values) / len(values),) * depth


def read_profile(name_or_file: str | Path) -> Profile:
    """The shipped profile of this name, or the one in a .toml file of the user's.

    Raises:
        UsageError: there is no such profile, or it has mistakes.
        InputError: the file cannot be read.
    """
    if str(name_or_file).endswith(".toml"):
        path = Path(name_or_file)
    else:
        path = shipped("calibration") / f"{name_or_file}.toml"
        if name_or_file not in profile_names():
            raise unknown("profile", str(name_or_file), profile_names())
    return parse_settings(Profile, read_toml(path), where=str(path))


def profile_names() -> list[str]:
    """The names of the shipped profiles, sorted."""
    return sorted(path.stem for path in shipped("calibration").glob("*.toml"))
