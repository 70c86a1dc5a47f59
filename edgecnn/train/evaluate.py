"""The accuracy of a torch module on a data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from edgecnn.data.accuracy import Accuracy, score
from edgecnn.data.dataset import Dataset, Role
from edgecnn.data.source import Split


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are."""
    return next((tensor.device for tensor in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def evaluate(
    module: nn.Module,
    dataset: Dataset,
    *,
    split: Split | Role = "evaluation",
    batch_size: int = 256,
    limit: int | None = None,
) -> Accuracy:
    """The accuracy of `module` in inference mode on a split of `dataset`; the module's mode is restored.

    Raises:
        CheckFailed: an answer is not finite.
        InputError: the data have no labels, or an image cannot be read.
    """

    device = device_of(module)

    def answers() -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]:
        for x, y in dataset.batches(batch_size, split=split, limit=limit):
            yield module(torch.from_numpy(x).to(device)).float().cpu().numpy(), y

    mode = module.training
    module.eval()
    try:
        with torch.inference_mode():
            return score(answers())
    finally:
        module.train(mode)
