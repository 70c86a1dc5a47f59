"""Regularisation by changing images: mixup, cutout, and both growing with the images over the stages of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.errors import UsageError
from edgecnn.nets.layers import StochasticDepth
from edgecnn.train.settings import TrainSettings

Dropping = nn.Dropout | nn.Dropout2d | StochasticDepth


def mixup(
    x_nchw: Tensor, labels: Tensor, classes: int, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each image blended with another of the batch, and their labels in the same shares.

    Shapes:
        Labels int64 (N,); returns float32 (N, channels, height, width) and (N, classes).

    Source: Zhang et al. 2018, arXiv:1710.09412, equation 2: one share per batch, partners by a permutation of it.
    """
    # torch draws no Beta from a generator of its own.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    share = float(draw.beta(alpha, alpha))
    partner = torch.randperm(len(labels), generator=generator)
    one_hot = F.one_hot(labels, classes).to(x_nchw.dtype)
    return share * x_nchw + (1 - share) * x_nchw[partner], share * one_hot + (1 - share) * one_hot[partner]


def cutout(x_nchw: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """Each image with a square set to zero, which is the mean colour after normalisation.

    The square's centre may be any pixel, so squares stick out of the image as in the paper; its side is `share` of the
    image's shorter side.

    Source: DeVries and Taylor 2017, arXiv:1708.04552, section 3.2.
    """
    n, _, height, width = x_nchw.shape
    side = round(share * min(height, width))

    def outside(length: int) -> Tensor:
        start = torch.randint(length, (n, 1), generator=generator) - side // 2
        at = torch.arange(length)
        return (at < start) | (at >= start + side)

    rows, columns = outside(height), outside(width)
    return x_nchw * (rows[:, None, :, None] | columns[:, None, None, :])


@dataclass(frozen=True)
class Stage:
    """Size of the images and strength of regularisation in one stage of training."""

    size: tuple[int, int]
    strength: float


def stage_of(epoch: int, settings: TrainSettings, full: tuple[int, int]) -> Stage:
    """The stage that `epoch` (from 0) belongs to; `full` is the (height, width) of the last.

    Source: Tan and Le 2021, arXiv:2104.00298, section 4.2, algorithm 1: both grow linearly from stage to stage.
    """
    stages = settings.progressive_stages
    at = 1.0 if stages == 1 else (epoch * stages // settings.epochs) / (stages - 1)
    scale = settings.progressive_size + (1 - settings.progressive_size) * at
    strength = settings.progressive_strength + (1 - settings.progressive_strength) * at
    return Stage((max(1, round(full[0] * scale)), max(1, round(full[1] * scale))), strength)


def resized(x_nchw: Tensor, size: tuple[int, int]) -> Tensor:
    """The images at `size`, scaled as Pillow would."""
    if tuple(x_nchw.shape[2:]) == size:
        return x_nchw
    return F.interpolate(x_nchw, size=size, mode="bilinear", antialias=True)


class Drops:
    """The probabilities of dropout and stochastic depth in a net, which grow with the stages."""

    def __init__(self, module: nn.Module) -> None:
        self._full = [(part, _probability(part)) for part in module.modules() if isinstance(part, Dropping)]

    def scale(self, strength: float) -> None:
        """Sets every probability to `strength` times that which the net was built with."""
        for part, probability in self._full:
            setattr(part, "drop" if isinstance(part, StochasticDepth) else "p", strength * probability)


def _probability(part: Dropping) -> float:
    return part.drop if isinstance(part, StochasticDepth) else part.p


def check_sizes(module: nn.Module, settings: TrainSettings, input_shape: tuple[int, int, int]) -> None:
    """Refuses progressive sizes that `module` cannot take, before hours of training would find out.

    Raises:
        UsageError: it takes images of one size only.
    """
    channels, *full = input_shape
    smallest = stage_of(0, settings, (full[0], full[1])).size
    if smallest == tuple(full):
        return
    mode = module.training
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, channels, *smallest))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            "the net takes images of one size only",
            where=f"progressive_stages = {settings.progressive_stages}",
            expected="a net that ends in global pooling",
            got=f"{smallest[0]}x{smallest[1]}: {str(error).splitlines()[0]}",
            do="set progressive_size = 1.0 to grow the regularisation alone, or leave out progressive_stages",
        ) from None
    finally:
        module.train(mode)
