"""Random changes of training images that leave their class as it is.

Each works on a normalised batch and draws from the generator it is given, so that training repeats exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecnn.registry import Registry

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


@AUGMENTATIONS.register("none")
def unchanged(x_nchw: Tensor, generator: torch.Generator) -> Tensor:
    """The images as they are."""
    return x_nchw


@AUGMENTATIONS.register("digits")
def jitter(x_nchw: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 10 degrees, scaled by 0.9-1.1 and shifted by up to 1/16 of its size.

    No mirroring: a mirrored digit is another sign. What comes in from outside repeats the border.
    """
    n = x_nchw.shape[0]

    def uniform(bound: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * bound

    angle, zoom = uniform(math.radians(10)), 1 + uniform(0.1)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # affine_grid counts a size as 2, from -1 to 1.
    rows = [torch.stack([cos, -sin, uniform(1 / 8)], dim=1), torch.stack([sin, cos, uniform(1 / 8)], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x_nchw.shape), align_corners=False)
    return F.grid_sample(x_nchw, grid, padding_mode="border", align_corners=False)


@AUGMENTATIONS.register("cifar")
def flip_and_shift(x_nchw: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored, each shifted by up to an eighth of its size; the border is reflected.

    Source: the usual augmentation for CIFAR-10 (pad 4, crop 32, mirror), He et al. 2016, section 4.2, with
    reflection in place of zeros.
    """
    n, _, height, width = x_nchw.shape
    pad = max(1, min(height, width) // 8)
    padded = F.pad(x_nchw, (pad, pad, pad, pad), mode="reflect")
    mirrored = torch.rand(n, generator=generator) < 0.5
    padded = torch.where(mirrored[:, None, None, None], padded.flip(3), padded)
    top = torch.randint(2 * pad + 1, (n, 1), generator=generator) + torch.arange(height)
    left = torch.randint(2 * pad + 1, (n, 1), generator=generator) + torch.arange(width)
    image = torch.arange(n)[:, None, None]
    # Indexing around the channel slice puts the channels last.
    return padded[image, :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2).contiguous()
