"""The networks, one file per family; every module of this folder is imported, so a new family only has to be there."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from edgecnn.nets.registry import NETS, NetEntry, Pretrained, Published, build_net

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from edgecnn.nets.user_net import load_user_net  # noqa: E402
from edgecnn.nets.weights import LoadedWeights, init_random, load_weights  # noqa: E402

__all__ = [
    "NETS",
    "LoadedWeights",
    "NetEntry",
    "Pretrained",
    "Published",
    "build_net",
    "init_random",
    "load_user_net",
    "load_weights",
]
