"""Checkpoints: a run that was killed goes on to the very same bytes, and refuses to under another recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.__main__ import main
from edgecnn.errors import CheckFailed, InputError, UsageError
from edgecnn.ir.module import GraphModule
from edgecnn.train.checkpoint import Checkpoint
from edgecnn.train.loop import train_net
from edgecnn.train.settings import TrainSettings
from edgecnn.train.trainer import StepReport
from edgecnn.train.tune import TuneResult, tune_graph

EVERYTHING = TrainSettings(
    epochs=2,
    batch_size=256,
    lr=0.02,
    warmup_epochs=0.5,
    augment="digits",
    mixup=0.3,
    cutout=0.25,
    progressive_stages=2,
    progressive_size=1.0,
    ema=0.9,
    checkpoint_seconds=0,
)
"""Five steps per epoch, with all that has a state or draws at random."""


class Stop(Exception):
    """Stands for whatever ends a process."""


def tuned(settings: TrainSettings, checkpoint: Path | None, *, stop_at: int | None = None) -> TuneResult:
    def on_step(report: StepReport) -> None:
        if report.done == stop_at:
            raise Stop

    return tune_graph(
        digits_graph(),
        digits(),
        settings=settings,
        teacher=GraphModule(digits_graph(seed=1)),
        on_step=on_step,
        checkpoint=checkpoint,
    )


def assert_same_result(one: TuneResult, other: TuneResult) -> None:
    for value in one.graph.values.values():
        if value.data is not None:
            assert np.array_equal(value.data, other.graph.const(value.name)), value.name
    assert [(r.loss, r.train_top1, r.lr) for r in one.history] == [(r.loss, r.train_top1, r.lr) for r in other.history]
    assert one.accuracy == other.accuracy


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_goes_on_exactly_from_any_step(tmp_path: Path, optimizer: str) -> None:
    settings = EVERYTHING.model_copy(update={"optimizer": optimizer})
    whole = tuned(settings, None)
    path = tmp_path / "run.safetensors"
    for stop_at in (2, 5, 6, 9):  # within and at the end of epochs, each time from where the last ended
        with pytest.raises(Stop):
            tuned(settings, path, stop_at=stop_at)
    assert_same_result(tuned(settings, path), whole)
    # A finished run has nothing left to do, and says the same again.
    assert_same_result(tuned(settings, path, stop_at=1), whole)


def test_dropout_goes_on_with_its_own_random_numbers(tmp_path: Path) -> None:
    def train(checkpoint: Path | None, stop_at: int | None = None) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))

        def on_step(report: StepReport) -> None:
            if report.done == stop_at:
                raise Stop

        settings = TrainSettings(epochs=2, batch_size=256, checkpoint_seconds=0)
        train_net(module, digits(), settings=settings, on_step=on_step, checkpoint=checkpoint)
        return module

    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        train(path, stop_at=3)
    torch.rand(7)  # the global state has no say
    pairs = zip(train(path).state_dict().values(), train(None).state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


TUNE = ["--data", "digits", "--batch-size", "32", "--augment", "digits", "--threads", "1"]
TUNE += [x for pair in ("checkpoint_seconds=0.02", "ema=0.99") for x in ("--set", pair)]


def test_an_interrupted_command_goes_on_to_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = save_digits_bundle(tmp_path / "net.safetensors")
    # So many that none is through before a busy machine lets this process interrupt it.
    command = ["tune", str(net), *TUNE, "--epochs", "24"]
    assert main([*command, "-o", str(tmp_path / "whole.safetensors")]) == 0
    cut = tmp_path / "cut.safetensors"
    checkpoint = tmp_path / "cut.checkpoint.safetensors"
    for number in (signal.SIGKILL, signal.SIGINT):
        before = step_of(checkpoint)
        process = subprocess.Popen(
            [sys.executable, "-m", "edgecnn", *command, "-o", str(cut)], stderr=subprocess.PIPE, text=True
        )
        limit = time.monotonic() + 120
        while step_of(checkpoint) <= before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.002)
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert not cut.exists()
        assert before < step_of(checkpoint) < 24 * 42
    assert "interrupted; nothing was left half-written" in told
    assert main([*command, "-o", str(cut)]) == 0
    assert cut.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    # The log has every line once, as if nothing had happened.
    logs = [(tmp_path / f"{name}.log.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    cut_log, whole_log = ([{**json.loads(line), "seconds": None} for line in log] for log in logs)
    assert cut_log == whole_log
    assert sorted(p.name for p in tmp_path.iterdir() if "log" not in p.name) == [
        "cut.safetensors",
        "net.safetensors",
        "whole.safetensors",
    ]
    capsys.readouterr()


def step_of(path: Path) -> int:
    """Steps done in a checkpoint; -1 if there is none."""
    if not path.is_file():
        return -1
    progress = Checkpoint.load(path).progress
    return int(progress["epoch"]) * 42 + int(progress["step"])


def test_another_recipe_is_refused_by_the_names_of_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        tuned(EVERYTHING, path, stop_at=2)
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        tuned(EVERYTHING.model_copy(update={"lr": 0.5, "epochs": 3}), path)
    assert str(caught.value) == (
        "UsageError: training cannot go on from the checkpoint, as the recipe has changed: epochs, lr\n"
        f"  at       {path}\n"
        "  expected epochs = 2\n"
        "           lr = 0.02\n"
        "  got      epochs = 3\n"
        "           lr = 0.5\n"
        "  do       go on with the old values, or start afresh (--restart, or remove the file)"
    )
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="as the recipe has changed: seed"):
        tune_graph(digits_graph(), digits(), settings=EVERYTHING, teacher=GraphModule(digits_graph(1)), seed=1,
                   checkpoint=path)  # fmt: skip
    with pytest.raises(UsageError, match="as the recipe has changed: net, teacher"):
        tune_graph(digits_graph(seed=2), digits(), settings=EVERYTHING, checkpoint=path)
    # How often checkpoints are written may change.
    tuned(EVERYTHING.model_copy(update={"checkpoint_seconds": 9.0}), path)


def test_data_that_changed_are_another_recipe(tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", digits()
    settings = TrainSettings(epochs=1, batch_size=256, checkpoint_seconds=0)
    tune_graph(digits_graph(), data, settings=settings, checkpoint=path)
    pixels, labels = data.decoded("calibration")
    other = digits()
    changed = pixels.copy()
    changed[100, 4, 4, 0] ^= 1
    other._decoded[other.split_of("calibration")] = (changed, labels)
    with pytest.raises(UsageError, match="as the recipe has changed: data"):
        tune_graph(digits_graph(), other, settings=settings, checkpoint=path)


@pytest.mark.parametrize("damage", ["cut", "other", "text"])
def test_a_damaged_checkpoint_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        tuned(EVERYTHING, path, stop_at=1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other":
        save_digits_bundle(path)
    else:
        path.write_text("not a checkpoint")
    with pytest.raises(InputError, match=r"`run.safetensors` is no checkpoint of training"):
        tuned(EVERYTHING, path)


def test_a_loss_that_is_no_number_stops_at_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"

    class Breaks(GraphModule):
        """Answers with NaN from its eighth batch on."""

        batches = 0

        def forward(self, *images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            self.batches += self.training
            y = super().forward(*images)
            return y * float("nan") if self.batches >= 8 and isinstance(y, torch.Tensor) else y

    with pytest.raises(CheckFailed) as caught:
        tune_graph(digits_graph(), digits(), settings=EVERYTHING, make_module=Breaks, checkpoint=path)
    rate = EVERYTHING.lr * 0.5 * (1 + np.cos(np.pi * (8 - 2.5) / (10 - 2.5 + 1)))
    assert str(caught.value) == (
        "CheckFailed: the loss is nan\n"
        "  at       epoch 2, step 3\n"
        f"  got      learning rate {rate:.3g}\n"
        f"           the last good checkpoint, {path}, is of epoch 2 after step 2\n"
        "  do       lower lr, raise warmup_epochs, or check the data for damaged images; "
        "then start afresh with --restart"
    )
    # It is good: with the fault mended, the run goes on from there.
    assert_same_result(tune_graph(digits_graph(), digits(), settings=EVERYTHING, checkpoint=path),
                       tune_graph(digits_graph(), digits(), settings=EVERYTHING))  # fmt: skip


def test_weights_with_nan_are_never_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    settings = TrainSettings(epochs=1, batch_size=64, lr=1e30, warmup_epochs=0, max_grad_norm=1e9, checkpoint_seconds=0)
    with pytest.raises(CheckFailed, match="the loss is"):
        tune_graph(digits_graph(), digits(), settings=settings, checkpoint=path)
    if path.exists():
        assert all(bool(torch.isfinite(t).all()) for t in Checkpoint.load(path).part("net").values())
