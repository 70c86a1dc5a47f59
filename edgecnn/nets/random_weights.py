"""Weights for measuring speed: seeded noise, with batch norm set so that activations have sane ranges.

An untrained net with fresh statistics has activations that grow or vanish with depth, so ranges and codes would not be
those of a real net. Batch norm gets the statistics of synthetic images and slightly random gains, as a trained net has.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from edgecnn.errors import InputError
from edgecnn.nets.hetconv import HetConv2d

# Few images do: even 7x7 maps of four images are 196 samples per channel. Small nets end in maps of a few pixels.
IMAGES, LARGE_SIDE, IMAGES_IF_SMALL = 4, 64, 32


def smooth_images(count: int, input_shape: tuple[int, int, int], *, seed: int) -> Tensor:
    """[count, C, H, W] images with detail at four scales, zero mean and unit variance, clipped to 2.6.

    White noise would average out in the first pool; photographs have most of their power in large structures.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = input_shape
    total = torch.zeros(count, *input_shape)
    for fraction in (32, 8, 2, 1):
        size = (max(1, height // fraction), max(1, width // fraction))
        noise = torch.randn(count, channels, *size, generator=generator)
        total += F.interpolate(noise, size=(height, width), mode="bilinear")
    return (total / total.std()).clamp(-2.6, 2.6)


def init_random(module: nn.Module, seed: int, input_shape: tuple[int, int, int]) -> None:
    """Gives `module` seeded random weights in place, calibrates its batch norms, and leaves it in eval mode.

    Parameters of layers that are neither convolutions, linear layers nor norms stay as they are.

    Args:
        module: any net of image batches.
        seed: same seed, same weights.
        input_shape: (C, H, W).

    Raises:
        InputError: the net does not run on images of this shape.
    """
    generator = torch.Generator().manual_seed(seed)
    count = IMAGES if max(input_shape[1:]) > LARGE_SIDE else IMAGES_IF_SMALL
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    with torch.no_grad():
        for layer in module.modules():
            _randomise(layer, generator)
        _recalibrate(module, norms, smooth_images(count, input_shape, seed=seed))


def _randomise(layer: nn.Module, generator: torch.Generator) -> None:
    if isinstance(layer, HetConv2d):
        layer.reset_parameters(generator)
    elif isinstance(layer, (nn.Conv2d, nn.Linear)):
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_in), generator=generator)
        if layer.bias is not None:
            nn.init.normal_(layer.bias, 0.0, 0.1, generator=generator)
    elif isinstance(layer, _BatchNorm) and layer.affine:
        nn.init.uniform_(layer.weight, 0.6, 1.4, generator=generator)
        nn.init.normal_(layer.bias, 0.0, 0.3, generator=generator)


def _recalibrate(module: nn.Module, norms: list[_BatchNorm], images: Tensor) -> None:
    """Sets the running statistics of `norms` to those of `images`; dropout and the like stay off meanwhile."""
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None is the mean over all batches, so that one batch gives exactly its own statistics.
        norm.momentum = cast(float, None)
        norm.train()
    try:
        if norms:
            module(images)
    except Exception as e:
        shape = "x".join(map(str, images.shape[1:]))
        raise InputError(
            f"the net does not run on images of {shape}",
            where=type(module).__name__,
            got=f"{type(e).__name__}: {e}",
            do="give the shape the net is made for, such as --input 3x224x224",
        ) from e
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
