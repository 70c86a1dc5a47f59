"""Training: it learns, it repeats, it says when it diverges; augmentation and batch norm do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgecnn.data import Dataset, load_profile
from edgecnn.errors import CheckFailed, InputError, UsageError
from edgecnn.registry import Registry
from edgecnn.train.augment import AUGMENTATIONS
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate
from edgecnn.train.loop import EpochReport, TrainResult, train_net
from edgecnn.train.settings import TrainSettings

QUICK = TrainSettings(epochs=3, batch_size=64, lr=0.1, warmup_epochs=0.5, augment="digits")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_profile("digits", input_shape=(1, 8, 8))


def tiny_net(seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch norm and dropout: everything that has randomness or state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(32 * 16, 10),
        )


def trained(digits: Dataset, *, seed: int = 0, settings: TrainSettings = QUICK) -> tuple[nn.Module, TrainResult]:
    module = tiny_net()
    return module, train_net(module, digits, settings=settings, seed=seed)


def test_a_tiny_net_learns_the_digits_in_three_epochs(digits: Dataset) -> None:
    seen: list[EpochReport] = []
    module = tiny_net()
    before = evaluate(module, digits)
    result = train_net(module, digits, settings=QUICK, progress=seen.append)
    assert tuple(seen) == result.history
    assert [report.epoch for report in seen] == [1, 2, 3]
    assert seen[-1].loss < seen[0].loss
    # Chance is 10 %; a linear classifier reaches about 95 % on this set.
    assert before.top1 < 30
    assert result.accuracy.top1 > 90
    assert result.accuracy.n == len(digits.indices("test"))
    assert not module.training
    assert evaluate(module, digits) == result.accuracy


def test_the_same_seed_gives_the_same_net_and_another_seed_another(digits: Dataset) -> None:
    settings = QUICK.model_copy(update={"epochs": 1})
    torch.manual_seed(1)
    first, _ = trained(digits, settings=settings)
    torch.manual_seed(2)  # the global state has no say
    again, _ = trained(digits, settings=settings)
    other, _ = trained(digits, settings=settings, seed=1)
    same = [torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)]
    assert all(same)
    assert not torch.equal(first[0].weight, other[0].weight)  # type: ignore[index]


def test_training_leaves_the_global_random_state_alone(digits: Dataset) -> None:
    before = torch.random.get_rng_state()
    trained(digits, settings=QUICK.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_test_scans_do_not_influence_training(digits: Dataset, tmp_path: Path) -> None:
    pixels = np.stack([digits.raw(i)[:, :, 0] for i in range(len(digits))])
    assert digits.labels is not None
    train, test = digits.indices("train"), digits.indices("test")
    path = tmp_path / "other_test.npz"
    np.savez(
        path,
        x_train=pixels[train],
        y_train=digits.labels[train],
        x_test=255 - pixels[test],
        y_test=digits.labels[test],
    )
    other = load_profile(path, input_shape=(1, 8, 8), preprocessing=digits.preprocessing)
    settings = QUICK.model_copy(update={"epochs": 1})
    first, second = trained(digits, settings=settings)[0], trained(other, settings=settings)[0]
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        # Batch norm's statistics are measured on the same images in another order, so sums round differently:
        # 1,347 float32 terms, each rounded once, are within 1347 * 2^-24 < 1e-4 of each other.
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_adamw_learns_too(digits: Dataset) -> None:
    settings = TrainSettings(epochs=3, batch_size=64, optimizer="adamw", lr=0.005, weight_decay=0.01)
    assert trained(digits, settings=settings)[1].accuracy.top1 > 90


def test_the_rate_rises_linearly_and_falls_to_almost_nothing(digits: Dataset) -> None:
    settings = TrainSettings(epochs=4, batch_size=64, lr=0.08, warmup_epochs=2)
    rates = [report.lr for report in trained(digits, settings=settings)[1].history]
    assert rates[0] == pytest.approx(0.04)
    assert rates[1] == pytest.approx(0.08)
    assert 0.03 < rates[2] < 0.05  # half way down the cosine
    assert 0 < rates[3] < 0.001


def test_a_step_is_no_longer_than_the_gradient_may_be(digits: Dataset) -> None:
    # One step of plain descent from rest: Nesterov's first step is 1.9 times the rate times the gradient.
    settings = TrainSettings(
        epochs=1, batch_size=1024, lr=1.0, warmup_epochs=0, weight_decay=0, max_grad_norm=0.001, label_smoothing=0
    )
    module, before = tiny_net(), tiny_net()
    rate = train_net(module, digits, settings=settings).history[0].lr
    pairs = zip(module.parameters(), before.parameters(), strict=True)
    moved = torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm()
    # Weights below 0.5 hold a move to 2^-26 and there are 10,000 of them: 100 * 2^-26 < 2e-6.
    assert float(moved) == pytest.approx(1.9 * rate * 0.001, abs=2e-6)


def test_a_diverging_loss_names_its_step(digits: Dataset) -> None:
    settings = TrainSettings(epochs=2, batch_size=64, lr=1e30, warmup_epochs=0, max_grad_norm=1e9)
    with pytest.raises(CheckFailed) as caught:
        trained(digits, settings=settings)
    lines = str(caught.value).splitlines()
    assert lines[0] in ("CheckFailed: the loss is nan", "CheckFailed: the loss is inf")
    assert lines[1].startswith("  at       epoch 1, step ")
    assert lines[2].startswith("  got      learning rate ")
    assert lines[3:] == ["  do       lower lr, raise warmup_epochs, or check the data for damaged images"]


def test_data_that_cannot_be_trained_on(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training needs labels"):
        train_net(tiny_net(), load_profile("photos", input_shape=(1, 8, 8)), settings=QUICK)
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (8, 8)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(InputError, match="the data have no images apart from those to train on"):
        train_net(tiny_net(), load_profile(tmp_path, input_shape=(1, 8, 8)), settings=QUICK)
    with pytest.raises(InputError, match="6 training images do not fill one batch"):
        train_net(tiny_net(), load_profile(tmp_path, input_shape=(1, 8, 8), holdout=0.25), settings=QUICK)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_augmentation_keeps_shape_range_and_even_images(name: str) -> None:
    augment = AUGMENTATIONS[name]
    x = torch.rand(16, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    first, again = (augment(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert (first is x) == (name == "none")
    # Interpolation only averages, and borders only repeat; weights of four neighbours sum to 1 within 4 roundings.
    assert x.min() - 1e-6 <= first.min() <= first.max() <= x.max() + 1e-6
    even = torch.full((4, 3, 32, 24), 0.25)
    torch.testing.assert_close(augment(even, torch.Generator().manual_seed(2)), even, rtol=1e-6, atol=0)


def test_digits_augmentation_moves_by_a_few_pixels_only() -> None:
    x = torch.zeros(200, 1, 33, 33)
    x[:, :, 16, 16] = 1
    moved = AUGMENTATIONS["digits"](x, torch.Generator().manual_seed(0))
    rows = moved.sum((1, 3)).argmax(1) - 16
    # The centre is moved by the shift alone: 1/16 of 33 pixels, and half a pixel of rounding.
    assert rows.abs().max() <= 33 / 16 + 0.5
    assert len(rows.unique()) >= 3


def test_cifar_augmentation_gives_crops_of_the_image_or_its_mirror() -> None:
    x = torch.arange(16 * 16.0).reshape(1, 1, 16, 16).expand(64, 1, 16, 16)
    moved = AUGMENTATIONS["cifar"](x, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x[:1], (2, 2, 2, 2), mode="reflect")[0, 0]
    crops = {
        tuple(image[top : top + 16, left : left + 16].flatten().tolist())
        for image in (padded, padded.flip(1))
        for top in range(5)
        for left in range(5)
    }
    assert all(tuple(image.flatten().tolist()) in crops for image in moved)


def test_settings_and_registry_name_the_same_augmentations() -> None:
    assert isinstance(AUGMENTATIONS, Registry)
    for name in AUGMENTATIONS:
        assert TrainSettings.model_validate({"augment": name}).augment == name
    with pytest.raises(UsageError, match="unknown augmentation `digit`"):
        AUGMENTATIONS["digit"]


def test_settings_do_not_import_torch() -> None:
    code = "import sys, edgecnn.train.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_recalibrated_batch_norm_has_the_statistics_of_its_inputs() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.01)).train()
    random = np.random.default_rng(0)
    batches = [random.normal(5, 3, (8, 3, 4, 4)).astype(np.float32) for _ in range(5)]
    recalibrate_batch_norm(module, iter(batches))
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    mean = np.mean([x.mean((0, 2, 3)) for x in batches], axis=0)
    var = np.mean([x.var((0, 2, 3), ddof=1) for x in batches], axis=0)
    # Five running averages in float32 of values below 16: 5 * 16 * 2^-24 < 5e-6.
    np.testing.assert_allclose(norm.running_mean, mean, rtol=0, atol=5e-6)
    np.testing.assert_allclose(norm.running_var, var, rtol=0, atol=5e-6)
    assert norm.momentum == 0.01
    assert module.training
    assert norm.training


def test_recalibration_makes_inference_mode_agree_with_training_mode_on_its_batch() -> None:
    module = tiny_net().eval()
    x = np.random.default_rng(0).normal(2, 3, (64, 1, 8, 8)).astype(np.float32)
    recalibrate_batch_norm(module, [x])
    assert not module.training
    with torch.no_grad():
        inference = module(torch.from_numpy(x))
        for layer in module:
            layer.train(isinstance(layer, nn.BatchNorm2d))
        batch_statistics: Tensor = module(torch.from_numpy(x))
    # Running variance is unbiased, batch variance is not: a factor of at most n/(n-1), n = 64 * 16 in the second
    # layer, so 0.05 % per layer in scale, on logits of a few units.
    torch.testing.assert_close(inference, batch_statistics, rtol=2e-3, atol=5e-3)


def test_recalibration_without_batches_is_refused() -> None:
    with pytest.raises(InputError, match="no images to measure batch norm's statistics on"):
        recalibrate_batch_norm(tiny_net(), [])


def test_evaluate_restores_the_mode(digits: Dataset) -> None:
    module = tiny_net().train()
    evaluate(module, digits, limit=10)
    assert module.training


def test_a_net_with_nan_is_not_given_an_accuracy(digits: Dataset) -> None:
    module = tiny_net()
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(CheckFailed, match="the net's answer is not finite"):
        evaluate(module, digits)
