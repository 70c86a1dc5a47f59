"""Profiles and data sets: what is read, how it is preprocessed, and that fitting and judging never share an image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data import (
    Preprocessing,
    load_profile,
    normalize,
    preprocess_image,
    profile_names,
    raw_image,
    read_profile,
    score,
    shipped,
)
from edgecnn.errors import CheckFailed, EnvironmentFailure, InputError, UsageError

IMAGENET = read_profile("imagenet").preprocessing((3, 224, 224))


def images_folder(folder: Path, *, count: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """`count` random PNGs per class below `folder`."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_importing_data_imports_neither_torch_nor_sklearn() -> None:
    code = "import sys, edgecnn.data; print([m for m in ('torch', 'sklearn', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_is_legal_and_names_its_command(name: str) -> None:
    profile = read_profile(name)
    first = (shipped("calibration") / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# edgecnn ")
    assert name in first
    for shape in ((3, 224, 224), (1, 28, 36)):
        assert profile.preprocessing(shape).input_shape == shape


def test_shipped_recipes_start_with_the_command_that_runs_them() -> None:
    for path in shipped("recipes").glob("*.toml"):
        command = path.read_text(encoding="utf-8").splitlines()[0]
        assert command.split(" --data ")[0] == f"# edgecnn run recipes/{path.name}"


@pytest.mark.parametrize("installed", [False, True])
def test_shipped_files_are_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    package = tmp_path / "edgecnn"
    # `edgecnn.data.shipped` is the function; its module of the same name is found by name only.
    monkeypatch.setattr(sys.modules["edgecnn.data.shipped"], "_PACKAGE", package)
    folder = (package / "_shipped" if installed else tmp_path) / "recipes"
    folder.mkdir(parents=True)
    assert shipped("recipes") == folder
    with pytest.raises(EnvironmentFailure) as caught:
        shipped("calibration")
    assert str(caught.value) == (
        "EnvironmentFailure: this installation of edgecnn has no `calibration` folder\n"
        f"  expected {package / '_shipped' / 'calibration'} or {tmp_path / 'calibration'}\n"
        "  do       install edgecnn again: python -m pip install --force-reinstall edgecnn"
    )


def test_built_in_images_need_scikit_learns_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match=r"scikit-learn's data file `data/digits\.csv\.gz` is missing"):
        load_profile("digits", input_shape=(3, 32, 32))


def test_photos_are_64_crops_that_depend_only_on_the_seed() -> None:
    photos = load_profile("photos", input_shape=(3, 96, 64))
    again = load_profile("photos", input_shape=(3, 96, 64))
    other = load_profile("photos", input_shape=(3, 96, 64), seed=1)
    assert len(photos) == 64
    assert photos.classes is None
    assert photos.labels is None
    assert photos.notes == ("64 crops of 2 photographs: small; a folder of your own images is better",)
    assert photos.fingerprint() == again.fingerprint() != other.fingerprint()
    x, y = next(photos.batches(64))
    assert (x.shape, x.dtype, y) == ((64, 3, 96, 64), np.float32, None)


def test_the_manifest_of_photos_has_the_preprocessing_of_imagenet() -> None:
    assert load_profile("photos", input_shape=(3, 224, 224)).preprocessing == IMAGENET
    assert (IMAGENET.resize, IMAGENET.crop) == ((256, 256), (224, 224))


def test_digits_have_the_classes_of_the_whole_in_both_splits() -> None:
    digits = load_profile("digits", input_shape=(3, 32, 32))
    assert (len(digits), digits.classes) == (1797, tuple("0123456789"))
    train, test = digits.indices("calibration"), digits.indices("evaluation")
    assert sorted([*train, *test]) == list(range(1797))
    assert digits.labels is not None
    per_class = np.bincount(digits.labels)
    # Each class gives its rounded quarter.
    assert np.bincount(digits.labels[test]).tolist() == [round(n / 4) for n in per_class]


def test_no_seed_moves_an_image_between_splits() -> None:
    first, second = (load_profile("digits", input_shape=(1, 8, 8), seed=seed) for seed in (0, 1))
    assert first.indices("evaluation") == second.indices("evaluation")
    assert first.indices("calibration", limit=50) != second.indices("calibration", limit=50)


def test_digits_at_their_own_size_are_the_scans() -> None:
    digits = load_profile("digits", input_shape=(1, 8, 8))
    # The first scan, as the data set's file has it: a zero, counted 0-16.
    top_row = [0, 0, 5, 13, 9, 1, 0, 0]
    assert digits.raw(0)[0, :, 0].tolist() == [round(v * 255 / 16) for v in top_row]
    assert digits.labels is not None
    assert digits.labels[0] == 0


def test_a_smaller_limit_draws_a_prefix_of_a_larger_one() -> None:
    digits = load_profile("digits", input_shape=(1, 8, 8))
    assert digits.indices("train", limit=64)[:16] == digits.indices("train", limit=16)


def test_random_is_marked_unfit() -> None:
    noise = load_profile("random", input_shape=(1, 8, 8))
    assert noise.unfit
    assert noise.notes == ("calibrated on noise: unfit for use, its ranges say nothing about real images",)
    assert not load_profile("photos", input_shape=(1, 8, 8)).unfit


def test_batches_are_the_images_one_by_one_whatever_the_batch_size(tmp_path: Path) -> None:
    data = load_profile(f"cifar10:{images_folder(tmp_path)}", input_shape=(3, 32, 32))
    whole_x, whole_y = next(data.batches(8))
    parts = list(data.batches(3))
    assert [len(x) for x, _ in parts] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), whole_x)
    assert whole_y is not None
    assert whole_y.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for i in range(len(data)):
        np.testing.assert_array_equal(normalize(data.raw(i)[None], data.preprocessing)[0], whole_x[i])


def test_image_list_is_the_provenance_of_the_same_batches(tmp_path: Path) -> None:
    folder = images_folder(tmp_path)
    data = load_profile(folder, input_shape=(3, 32, 32))
    assert [record.name for record in data.image_list()] == [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(4)]
    drawn = data.image_list("calibration", limit=3)
    assert [r.name for r in drawn] == [data.source.entries[i].name for i in data.indices("calibration", limit=3)]
    before = data.fingerprint()
    Image.new("RGB", (40, 48)).save(folder / "cat" / "0.png")
    assert load_profile(folder, input_shape=(3, 32, 32)).fingerprint() != before


def test_split_folders_are_recognised_and_serve_their_roles(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        images_folder(tmp_path / split, count=2)
    data = load_profile(tmp_path, input_shape=(3, 32, 32))
    assert (data.split_of("calibration"), data.split_of("evaluation")) == ("train", "test")
    assert data.classes == ("cat", "dog")
    assert data.notes == ()
    names = {data.source.entries[i].name for i in data.indices("evaluation")}
    assert names == {f"test/{c}/{i}.png" for c in ("cat", "dog") for i in range(2)}


def test_one_split_for_both_roles_is_said(tmp_path: Path) -> None:
    folder = images_folder(tmp_path)
    (note,) = load_profile(folder, input_shape=(3, 32, 32)).notes
    assert note.startswith(f"all images of {folder} are one split: an accuracy measured on images that also served")
    held = load_profile(folder, input_shape=(3, 32, 32), holdout=0.25)
    assert (len(held.indices("calibration")), len(held.indices("evaluation")), held.notes) == (6, 2, ())


def test_preprocessing_is_scale_then_centre_crop_then_normalisation() -> None:
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (300, 451, 3), dtype=np.uint8))
    # By hand, as torchvision's Resize(256) and CenterCrop(224) have it: the longer side is cut, not rounded.
    by_hand = image.resize((451 * 256 // 300, 256), Image.Resampling.BILINEAR)
    left = round((by_hand.width - 224) / 2)
    cropped = np.asarray(by_hand.crop((left, 16, left + 224, 240)))
    np.testing.assert_array_equal(raw_image(image, IMAGENET), cropped)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    exact = ((cropped / 255 - mean) / std).transpose(2, 0, 1)
    # Three float32 roundings of values below 3, the first divided by a std above 0.2: 3 * 2^-23 / 0.2 < 2e-6.
    np.testing.assert_allclose(preprocess_image(image, IMAGENET), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(64, 64), (31, 200), (200, 31)])
def test_an_even_image_stays_even(size: tuple[int, int]) -> None:
    grey = Image.new("RGB", size, (10, 20, 30))
    for shape in ((3, 32, 32), (3, 24, 48)):
        pixels = raw_image(grey, read_profile("imagenet").preprocessing(shape))
        assert pixels.shape == (shape[1], shape[2], 3)
        assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16", "LA"])
def test_every_colour_mode_becomes_8_bit_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((32, 32), 200 * 257, np.uint16)).save(path)
    else:
        Image.new("RGB", (32, 32), (255, 255, 255)).convert("L" if mode == "LA" else "RGB").convert(mode).save(path)
    pixels = raw_image(path, read_profile("cifar10").preprocessing((3, 32, 32)))
    assert pixels.shape == (32, 32, 3)
    assert set(pixels.reshape(-1).tolist()) == {200 if mode == "I;16" else 255}


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (255, 0, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "p.png", transparency=b"\x80\x40")
    pixels = raw_image(tmp_path / "p.png", read_profile("cifar10").preprocessing((3, 32, 32)))
    assert pixels[0, 0].tolist() == [255, 0, 0]


def test_a_phone_photo_is_turned_upright(tmp_path: Path) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored a quarter turn to the left of upright
    Image.fromarray(np.rot90(upright)).save(tmp_path / "phone.png", exif=exif)
    pixels = raw_image(tmp_path / "phone.png", read_profile("cifar10").preprocessing((3, 32, 32)))
    np.testing.assert_array_equal(pixels, upright)


def test_a_gray_net_gets_the_average_statistics_of_the_colours() -> None:
    gray = read_profile("cifar10").preprocessing((1, 32, 32))
    assert (gray.channels, gray.mean) == ("gray", ((0.4914 + 0.4822 + 0.4465) / 3,))


def test_a_profile_of_the_users_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('about = "mine"\nsource = "images"\nmean = [0.0]\nstd = [1.0]\nholdout = 0.5\n', encoding="utf-8")
    data = load_profile(f"{mine}:{images_folder(tmp_path / 'images')}", input_shape=(3, 16, 16))
    assert data.source.splits == ("train", "test")
    x, _ = next(data.batches(8))
    assert 0 <= x.min() < x.max() <= 1


def test_the_mistakes_of_a_profile_are_named_all_at_once(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('about = 3\nsource = "images"\nmeen = [0.5]\nstd = [0.5]\nholdout = 1.5\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_profile(str(mine))
    assert str(caught.value) == (
        "UsageError: 4 mistakes in the settings\n"
        f"  at       {mine}\n"
        "  got      about: Input should be a valid string\n"
        "           mean: missing\n"
        "           holdout: Input should be less than 1\n"
        "           meen: no such key; did you mean `mean`?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("mean = [", "`mine.toml` is not TOML"), (None, "cannot read `mine.toml`")],
)
def test_a_profile_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    mine = tmp_path / "mine.toml"
    if text is not None:
        mine.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_profile(str(mine))


def test_an_unknown_profile_offers_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("fotos", input_shape=(3, 32, 32))
    assert str(caught.value) == (
        "UsageError: unknown profile `fotos`\n"
        "  expected one of cifar10, digits, imagenet, photos, random\n"
        "  do       did you mean `photos`?"
    )


def test_a_style_without_images_asks_for_them() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("imagenet", input_shape=(3, 32, 32))
    assert str(caught.value) == (
        "UsageError: the profile `imagenet` needs your images\n"
        "  do       give the folder or archive too: imagenet:path/to/images"
    )


def test_a_net_that_takes_no_image_is_refused() -> None:
    with pytest.raises(UsageError, match="image profiles feed nets that take one RGB or gray image"):
        load_profile("photos", input_shape=(4, 32, 32))


def test_a_preprocessing_for_another_input_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("photos", input_shape=(3, 32, 32), preprocessing=IMAGENET)
    assert str(caught.value) == (
        "UsageError: the preprocessing does not fit the net's input\n  expected 3x32x32\n  got      3x224x224"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": (200, 200)}, r"resize \(200, 200\) does not cover crop \(224, 224\)"),
        ({"channels": "gray"}, "gray needs 1 values in mean and in std, not 3 and 3"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
        ({"crop": (0, 1)}, "greater than or equal to 1"),
    ],
)
def test_an_inconsistent_preprocessing_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.model_validate(IMAGENET.model_dump() | changes)


def test_the_preprocessing_survives_the_manifest() -> None:
    assert Preprocessing.model_validate_json(IMAGENET.model_dump_json()) == IMAGENET


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(UsageError) as caught:
        load_profile("digits", input_shape=(1, 8, 8)).indices("val")
    assert str(caught.value) == (
        "UsageError: the data have no split `val`\n  at       digits\n  expected one of train, test"
    )


def test_score_counts_first_and_fifth_places() -> None:
    logits = np.array([[5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0], [-128, 127, 0, 0, 0, 0]], np.int8)
    result = score([(logits[:2], np.array([0, 4])), (logits[2:], np.array([0]))])
    assert (result.top1, result.top5, result.n) == (100 / 3, 200 / 3, 3)


def test_score_ranks_equal_logits_by_class_number() -> None:
    tied = np.zeros((2, 3), np.int8)
    assert score([(tied, np.array([0, 1]))]).top1 == 50


def test_score_refuses_what_cannot_be_counted() -> None:
    logits = np.array([[0.0, np.nan]], np.float32)
    with pytest.raises(CheckFailed, match="1 NaN or infinite logits"):
        score([(logits, np.array([0]))])
    with pytest.raises(InputError, match="accuracy needs labels"):
        score([(logits, None)])
    with pytest.raises(InputError, match="no images to evaluate"):
        score([])
    with pytest.raises(InputError, match="the data have more classes than the net"):
        score([(np.zeros((1, 2)), np.array([2]))])
