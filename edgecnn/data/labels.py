"""The names of ImageNet's classes."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 class names, in the order in which torchvision's nets score them.

    Source: torchvision/models/_meta.py (BSD-3-Clause).
    """
    text = files("edgecnn.data").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))
