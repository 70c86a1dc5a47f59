"""Two processes under torchrun give what one gives: batch norm, gradients, regularisation, checkpoints, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import train_worker
from train_cases import save_digits_bundle

from edgecnn.errors import UsageError
from edgecnn.ir import bundle
from edgecnn.train.parallel import World

TESTS = Path(__file__).parent


def torchrun(*arguments: str | Path) -> str:
    """stdout of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


Weights = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("two")
    torchrun(TESTS / "train_worker.py", folder)
    return read(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    folder = tmp_path_factory.mktemp("one")
    train_worker.main(folder)
    return read(folder)


def read(folder: Path) -> Weights:
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def test_a_graph_in_float64_gets_the_same_weights(one: Weights, two: Weights) -> None:
    for name, weights in one["graph64"].items():
        # Only the order of float64 sums differs: 256 * 64 terms, so 2^14 * 2^-53 = 2^-39 of each sum, ten times over.
        # Rounded to float32 as the graph stores them, that may move a number across one boundary, by 2^-23 of it.
        np.testing.assert_allclose(two["graph64"][name], weights, rtol=2**-23, atol=1e-9, err_msg=name)


def test_layers_of_pytorch_in_float64_get_the_same_weights(one: Weights, two: Weights) -> None:
    for name, weights in one["net"].items():
        # As above, and nothing is rounded to float32.
        np.testing.assert_allclose(two["net"][name], weights, rtol=1e-9, atol=1e-9, err_msg=name)


def test_in_float32_the_difference_is_rounding(one: Weights, two: Weights) -> None:
    for name, exact in one["graph64"].items():
        # How far rounding takes one process from float64 is how far it takes two, up to luck; the two may lie on
        # opposite sides.
        noise = np.abs(one["graph32"][name] - exact).max() + np.abs(exact).max() * 2**-23
        assert np.abs(two["graph32"][name] - one["graph32"][name]).max() <= 4 * noise, name


def test_statistics_of_half_a_batch_would_be_seen(one: Weights, two: Weights) -> None:
    # The same with batch norm left to each process: the bounds above are a thousand times below what that makes.
    assert np.abs(two["apart"]["w3"] - one["graph64"]["w3"]).max() > 1e-4


def test_two_processes_go_on_exactly_each_with_its_own_dropout(two: Weights) -> None:
    for name, weights in two["dropout"].items():
        assert np.array_equal(two["resumed"][name], weights), name


def test_the_command_writes_and_speaks_once(tmp_path: Path) -> None:
    net = save_digits_bundle(tmp_path / "net.safetensors")
    out = tmp_path / "out.safetensors"
    said = torchrun("-m", "edgecnn", "tune", net, "--data", "digits", "--epochs", "1", "-o", out, "--json")
    content = json.loads(said)
    assert content["accuracy"]["n"] == 450
    assert content["accuracy"]["top1"] > content["before"]["top1"]
    assert bundle.load(out)[1]["labels"].split("\n") == [str(i) for i in range(10)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.safetensors", "out.log.jsonl", "out.safetensors"]


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    assert [World(rank, 4).shard(64) for rank in (0, 3)] == [slice(0, 16), slice(48, 64)]
    with pytest.raises(UsageError) as caught:
        World(0, 3).shard(64)
    assert str(caught.value) == (
        "UsageError: a batch of 64 cannot be shared evenly by 3 processes\n"
        "  expected a batch_size that is a multiple of 3\n"
        "  do       change batch_size, which counts the images of all processes, or torchrun's --nproc-per-node"
    )
