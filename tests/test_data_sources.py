"""Folders, archives and arrays: the same images however they are packed, and one clear error for each bad input."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data import Dataset, load_profile
from edgecnn.data import archive as archive_module
from edgecnn.errors import InputError, UsageError

SHAPE = (3, 8, 8)


def png(value: int) -> bytes:
    """An 8x8 image of one gray."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    "train/cat/a.png": png(1),
    "train/cat/b.PNG": png(2),
    "train/dog/deep/er/c.png": png(3),
    "test/cat/d.png": png(4),
    "test/dog/e.png": png(5),
    "test/dog/.hidden.png": b"not an image",
    "__MACOSX/train/cat/._a.png": b"not an image",
    "README.txt": b"about",
}


def write_folder(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes] = FILES, *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def load(path: Path) -> Dataset:
    return load_profile(f"cifar10:{path}", input_shape=SHAPE)


ARCHIVES: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "set.tar": lambda path, files: write_tar(path, files, mode="w"),
    "set.tar.gz": lambda path, files: write_tar(path, files, mode="w:gz"),
    "set.tar.xz": lambda path, files: write_tar(path, files, mode="w:xz"),
    "set.tar.bz2": lambda path, files: write_tar(path, files, mode="w:bz2"),
    "set.zip": write_zip,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_the_folder_it_was_made_of(tmp_path: Path, name: str) -> None:
    folder = load(write_folder(tmp_path / "folder"))
    packed = load(ARCHIVES[name](tmp_path / name, FILES))
    assert packed.source.entries == folder.source.entries
    assert packed.classes == folder.classes == ("cat", "dog")
    assert packed.fingerprint() == folder.fingerprint()
    x, y = next(packed.batches(9, split="test"))
    np.testing.assert_array_equal(x, next(folder.batches(9, split="test"))[0])
    assert y is not None
    assert y.tolist() == [0, 1]


def test_a_folder_around_everything_is_looked_through(tmp_path: Path) -> None:
    wrapped = load(write_tar(tmp_path / "set.tar", {f"my-set/v1/{name}": content for name, content in FILES.items()}))
    assert wrapped.source.splits == ("train", "test")
    assert wrapped.classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("a.png", "cat/b.png")])
def test_images_outside_of_class_folders_have_no_labels(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = load(write_folder(tmp_path, {name: png(i) for i, name in enumerate(names)}))
    assert data.classes is None
    assert next(data.batches(2))[1] is None


def test_a_single_class_keeps_its_name(tmp_path: Path) -> None:
    assert load(write_folder(tmp_path, {"cat/a.png": png(0)})).classes == ("cat",)


NPZ_X = np.arange(4 * 8 * 8 * 3, dtype=np.uint32).reshape(4, 8, 8, 3).astype(np.uint8)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_npz_pixels_arrive_unchanged(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, x=NPZ_X if layout == "nhwc" else NPZ_X.transpose(0, 3, 1, 2), y=np.array([2, 0, 1, 1]))
    data = load(path)
    assert data.classes == ("0", "1", "2")
    np.testing.assert_array_equal(np.stack([data.raw(i) for i in range(4)]), NPZ_X)


def test_npz_with_splits_and_gray_images_as_keras_has_them(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    gray = NPZ_X[:, :, :, 0]
    y = np.array([[0], [1], [0], [1]])
    np.savez(path, x_train=gray, y_train=y, x_test=gray[:2], y_test=y[:2], classes=np.array(["no", "yes"]))
    data = load(path)
    assert (data.source.splits, data.classes, len(data.indices("train"))) == (("train", "test"), ("no", "yes"), 4)
    np.testing.assert_array_equal(data.raw(0), np.repeat(gray[0, :, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": NPZ_X}, "`set.npz` does not have the arrays of an image set"),
        ({"x": NPZ_X, "x_test": NPZ_X}, "does not have the arrays of an image set"),
        ({"x": NPZ_X.astype(np.float32)}, "the array is not a set of images"),
        ({"x": NPZ_X[:0]}, "the array is not a set of images"),
        ({"x": NPZ_X, "y": np.zeros(3, int)}, "the array is not a set of labels"),
        ({"x": NPZ_X, "y": np.array([0, 1, 2, -1])}, "the array is not a set of labels"),
        ({"x": NPZ_X, "y": np.zeros(4)}, "the array is not a set of labels"),
        ({"x": NPZ_X, "y": np.arange(4), "classes": np.array(["a"])}, "there are more classes than names"),
        ({"x_train": NPZ_X, "x_test": NPZ_X[:, :4]}, "the arrays have images of different sizes"),
        ({"x_train": NPZ_X, "y_train": np.arange(4), "x_test": NPZ_X}, "some arrays have labels and some have none"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "cannot read `set.npz` as a set of arrays"),
    ],
)
def test_an_npz_that_is_no_image_set(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        load(tmp_path / "set.npz")


def test_npz_with_wrong_keys_says_which_it_needs_and_has(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=NPZ_X, labels=np.arange(4))
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value) == (
        "InputError: `set.npz` does not have the arrays of an image set\n"
        f"  at       {path}\n"
        "  expected `x` (and `y`), or `x_train`, `y_train`, `x_test`, `y_test`; optionally `classes`\n"
        "  got      `images`, `labels`\n"
        "  do       numpy.savez_compressed(path, x=images_uint8, y=labels)"
    )


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_profile(tmp_path / "nowhere", input_shape=SHAPE)
    assert str(caught.value) == (
        "InputError: no such file or folder\n"
        f"  at       {tmp_path / 'nowhere'}\n"
        "  do       check the path, or use a built-in profile: cifar10, digits, imagenet, photos, random"
    )


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("nothing here", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "InputError: the folder has no images\n"
        f"  at       {tmp_path}\n"
        "  expected files ending in .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp\n"
        "  do       give a folder of images, with one subfolder per class if they have labels"
    )


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    with pytest.raises(InputError, match=r"`set\.rar` is not a set of images"):
        load(tmp_path / "set.rar")


def with_bad_images(folder: Path) -> Path:
    whole = {f"{i:02}.png": png(i) for i in range(10)}
    return write_folder(folder, whole | {"03.png": b"", "05.png": b"text", "07.png": png(7)[:50]})


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    data = load(with_bad_images(tmp_path))
    with pytest.raises(InputError) as caught:
        list(data.batches(2))
    assert str(caught.value) == (
        "InputError: 3 of 10 images cannot be read\n"
        f"  at       {tmp_path}\n"
        f"  got      {tmp_path / '03.png'}: an empty file\n"
        f"           {tmp_path / '05.png'}: cannot identify image file\n"
        f"           {tmp_path / '07.png'}: image file is truncated\n"
        "  do       remove or replace them, or leave them out with --skip-unreadable"
    )


def test_unreadable_images_are_skipped_only_if_asked(tmp_path: Path) -> None:
    folder = with_bad_images(tmp_path)
    data = load_profile(folder, input_shape=SHAPE, skip_unreadable=True)
    assert sum(len(x) for x, _ in data.batches(4)) == 7
    assert data.skipped == ["03.png", "05.png", "07.png"]
    assert [record.name for record in data.image_list()] == [f"{i:02}.png" for i in range(10) if i not in (3, 5, 7)]


def test_nothing_but_unreadable_images(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": b"", "b.png": b"no"})
    data = load_profile(tmp_path, input_shape=SHAPE, skip_unreadable=True)
    with pytest.raises(InputError, match="not one image can be read"):
        list(data.batches(2))


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_cut_short(tmp_path: Path, name: str) -> None:
    # Noise does not compress, so that the cut falls into an image whatever the packing.
    noise = {f"{i}.png": np.random.default_rng(i).bytes(4000) for i in range(5)}
    path = ARCHIVES[name](tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value).splitlines()[:2] == [
        f"InputError: the archive `{name}` is damaged or incomplete",
        f"  at       {path}",
    ]


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_empty_file_is_no_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"the archive `{name}` is damaged or incomplete"):
        load(tmp_path / name)


@pytest.mark.parametrize("member", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:/evil.png"])
@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.zip"])
def test_a_member_that_leads_outside_is_refused(tmp_path: Path, name: str, member: str) -> None:
    path = ARCHIVES[name](tmp_path / name, {"good.png": png(0), member: png(1)})
    with pytest.raises(InputError, match="the archive has a member that leads outside of it"):
        load(path)


def test_links_in_an_archive_are_passed_over(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", {"a.png": png(0)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [entry.name for entry in load(path).source.entries] == ["a.png"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_image_too_large_is_refused_before_it_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_MEMBER_BYTES", 2**20)
    path = ARCHIVES[name](tmp_path / name, {"bomb.png": bytes(2 * 2**20)})
    with pytest.raises(InputError, match="the archive has an image that is too large"):
        load(path)


def test_a_compressed_tar_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_MEMORY_BYTES", 2**20)
    path = write_tar(tmp_path / "set.tar.gz", {f"{i}.png": bytes(2**19) for i in range(3)}, mode="w:gz")
    with pytest.raises(InputError, match="the archive is too large to read without unpacking"):
        load(path)


def test_too_few_images_to_hold_some_out(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": png(0)})
    with pytest.raises(UsageError, match=r"1 images cannot be split with 0\.2 of them for evaluation"):
        load_profile(tmp_path, input_shape=SHAPE, holdout=0.2)
