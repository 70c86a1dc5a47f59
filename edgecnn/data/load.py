"""From what a user writes after `--data` or `--calibration` to a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.data.archive import ARCHIVE_SUFFIXES, archive_source, is_archive
from edgecnn.data.arrays import npz_source
from edgecnn.data.builtin import digits_source, photos_source, random_source
from edgecnn.data.dataset import Dataset
from edgecnn.data.folder import folder_source
from edgecnn.data.preprocessing import Preprocessing
from edgecnn.data.profile import Profile, profile_names, read_profile
from edgecnn.data.source import Source, hold_out
from edgecnn.errors import InputError, UsageError, unknown

DEFAULT_STYLE = "imagenet"
"""The profile whose preprocessing a plain path gets when the net brings none of its own."""


def load_profile(
    spec: str | Path,
    *,
    input_shape: Sequence[int],
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    holdout: float | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """The data set that `spec` means, for a net with this input.

    `spec` is a profile (`photos`), a path to images (`my/folder`, `set.tar.xz`, `set.npz`), or both (`cifar10:DIR`:
    the images of DIR, preprocessed as the profile says). A profile is a shipped one's name or a .toml file. A bare
    path gets the preprocessing of `imagenet`.

    Args:
        spec: profile, path, or `profile:path`.
        input_shape: (channels, height, width) of the net's input.
        preprocessing: replaces the profile's; for nets whose weights came with their own.
        seed: of crops, noise and draws; it does not move images between splits.
        holdout: share of the images kept for evaluation if the source has no splits; replaces the profile's.
        skip_unreadable: leave unreadable images out instead of raising on them.

    Raises:
        UsageError: no such profile, a profile that needs a path, or a net that takes no image.
        InputError: the path is missing, damaged, hostile, or has no images.
    """
    style, path = _split_spec(str(spec))
    profile = read_profile(style)
    chosen = preprocessing or profile.preprocessing(input_shape)
    if chosen.input_shape != tuple(input_shape):
        raise UsageError(
            "the preprocessing does not fit the net's input",
            expected="x".join(map(str, input_shape)),
            got="x".join(map(str, chosen.input_shape)),
        )
    source = _builtin(profile, chosen, seed) if path is None else _from_path(path)
    share = holdout if holdout is not None else profile.holdout
    if share is not None and source.splits == ("all",):
        source = hold_out(source, share=share, seed=profile.holdout_seed)
    notes = [profile.caveat] if profile.caveat else []
    if path is not None and len(source.splits) == 1:
        notes.append(
            f"all images of {path} are one split: an accuracy measured on images that also served for calibration "
            "or training flatters the net"
        )
    return Dataset(
        name=style if path is None else str(path),
        source=source,
        preprocessing=chosen,
        seed=seed,
        skip_unreadable=skip_unreadable,
        notes=tuple(notes),
        unfit=profile.unfit,
    )


def _split_spec(spec: str) -> tuple[str, Path | None]:
    """The profile and the path in `spec`; a shipped profile's name comes before a file of the same name."""
    names = profile_names()
    style, colon, rest = spec.partition(":")
    if colon and (style in names or style.endswith(".toml")):
        return style, Path(rest).expanduser()
    if spec in names or (spec.endswith(".toml") and Path(spec).is_file()):
        if read_profile(spec).source == "images":
            raise UsageError(
                f"the profile `{spec}` needs your images", do=f"give the folder or archive too: {spec}:path/to/images"
            )
        return spec, None
    path = Path(spec).expanduser()
    looks_like_path = len(path.parts) > 1 or spec.startswith((".", "~")) or path.suffix != ""
    if path.exists() or looks_like_path:
        return DEFAULT_STYLE, path
    raise unknown("profile", spec, names)


def _builtin(profile: Profile, preprocessing: Preprocessing, seed: int) -> Source:
    if profile.source == "digits":
        return digits_source()
    if profile.source == "photos":
        return photos_source(preprocessing, seed=seed)
    return random_source(preprocessing, seed=seed)


def _from_path(path: Path) -> Source:
    if path.is_dir():
        return folder_source(path)
    if not path.exists():
        raise InputError(
            "no such file or folder",
            where=str(path),
            do="check the path, or use a built-in profile: " + ", ".join(profile_names()),
        )
    if is_archive(path):
        return archive_source(path)
    if path.suffix.lower() == ".npz":
        return npz_source(path)
    raise InputError(
        f"`{path.name}` is not a set of images",
        where=str(path),
        expected="a folder, an archive (" + ", ".join(ARCHIVE_SUFFIXES) + ") or an .npz",
    )
