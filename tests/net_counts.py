"""Counting a net's parameters and multiply-adds without computing anything, and what the counts must be.

`counts/<family>.toml` holds the figures: of every net with default options, and of every published variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgecnn.data.settings import read_toml
from edgecnn.nets import build_net, deform  # noqa: F401  (defines its operator)

aten = torch.ops.aten


class MacCount(TorchDispatchMode):
    """Counts multiply-adds of convolutions and linear layers as they execute."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (aten.convolution.default, torch.ops.edgecnn.deform_conv2d.default):
            self.macs += args[1].numel() * prod(out.shape[2:])
        elif func is aten.addmm.default:
            self.macs += args[2].numel()
        elif func is aten.mm.default:  # a linear layer without bias
            self.macs += args[1].numel()
        return out


UNCOUNTED = (nn.BatchNorm2d, nn.BatchNorm1d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Dropout)


def without_uncounted(net: nn.Module) -> nn.Module:
    """`net` with the layers that count nothing replaced by the identity, which saves most of the time."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, UNCOUNTED):
                setattr(module, name, nn.Identity())
    return net


@lru_cache(maxsize=4)
def on_meta(name: str, options: tuple[tuple[str, object], ...]) -> tuple[nn.Module, int]:
    """The net without memory behind its weights, and its number of parameters."""
    with torch.device("meta"):
        net = build_net(name, **dict(options))
    params = sum(p.numel() for p in net.parameters())
    return without_uncounted(net), params


def count(name: str, input_shape: tuple[int, ...], **options: object) -> tuple[int, int]:
    """Parameters and multiply-adds of a net of the zoo."""
    net, params = on_meta(name, tuple(options.items()))
    with MacCount() as counted, torch.no_grad():
        net(torch.empty(1, *input_shape, device="meta"))
    return params, counted.macs


@dataclass(frozen=True)
class Count:
    """One row of `counts/`: `options` are those that differ from the default."""

    net: str
    options: tuple[tuple[str, object], ...]
    input: tuple[int, int, int]
    params: int
    macs: int
    source: str

    def __str__(self) -> str:
        side = f"@{self.input[1]}"
        return "-".join([self.net, *(f"{k}={v}" for k, v in self.options)]) + side


def expected_counts() -> list[Count]:
    """Every row of every family."""
    return [
        Count(
            row["net"],
            tuple(row.get("options", {}).items()),
            tuple(row["input"]),
            row["params"],
            row["macs"],
            row["source"],
        )
        for path in sorted((Path(__file__).parent / "counts").glob("*.toml"))
        for row in read_toml(path)["count"]
    ]
