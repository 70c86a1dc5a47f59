"""What there is to choose from, as plain rows: nets, building blocks, targets, recipes, calibration profiles."""

from __future__ import annotations

import re
from typing import Any

from edgecnn.data import profile_names, read_profile, shipped
from edgecnn.nets import NETS, NetEntry
from edgecnn.nets.block_registry import BLOCKS
from edgecnn.nets.options import NetOption
from edgecnn.nets.transform import TRANSFORM_OPTIONS
from edgecnn.targets import all_targets

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "blocks": (("block", "parameters", "multiply-adds", "what it is"), ("name", "params", "macs", "summary")),
    "targets": (
        ("target", "runtime", "file", "input types", "scheme"),
        ("name", "runtime", "suffix", "input_types", "scheme"),
    ),
    "recipes": (("recipe", "what it does"), ("path", "title")),
    "profiles": (("profile", "source", "what it is"), ("name", "source", "about")),
}
"""Headings (a trailing `>` marks numbers) and the keys of the rows, for tables; nets have a layout of their own."""


def nets() -> list[dict[str, Any]]:
    """Every net of the zoo, by family; of the published accuracies the paper's first is `accuracy`.

    Where none is published, `accuracy` is that of the official weights; None where there are no weights either.
    """
    ordered = sorted(NETS.items(), key=lambda item: (item[1].family, _natural(item[0])))
    return [
        {
            "name": name,
            "family": entry.family,
            "aliases": list(entry.aliases),
            "input": "x".join(map(str, entry.input_shape)),
            "params": entry.params,
            "macs": entry.macs,
            "accuracy": _accuracy(entry),
            "weights": _weights(entry),
            "published": [vars(figure) for figure in entry.published],
            "summary": entry.summary,
            "source": entry.source,
            "options": _options(entry.options),
            "takes_other_convolutions": bool(entry.transform_options),
        }
        for name, entry in ordered
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by size: resnet50 before resnet101."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _weights(entry: NetEntry) -> dict[str, Any] | None:
    official = entry.pretrained
    if official is None:
        return None
    return {"from": "torchvision", "url": official.url, "top1": official.top1, "top5": official.top5}


def _accuracy(entry: NetEntry) -> dict[str, Any] | None:
    if entry.published:
        return dict(vars(entry.published[0]))
    official = entry.pretrained
    if official is None:
        return None
    return {"top1": official.top1, "top5": official.top5, "source": "torchvision's weights", "note": ""}


def _options(options: tuple[NetOption, ...]) -> dict[str, str]:
    return {o.name: f"default {o.default}" + (f"; {o.doc}" if o.doc else "") for o in options}


def blocks() -> list[dict[str, Any]]:
    """Every building block with its costs as formulas."""
    return [
        {
            "name": name,
            "params": entry.params,
            "norm_params": entry.norm_params,
            "macs": entry.macs,
            "computes": list(entry.computes),
            "summary": entry.summary,
            "source": entry.source,
            "options": _options(entry.options),
        }
        for name, entry in BLOCKS.items()
    ]


def convolution_options() -> list[str]:
    """What every net takes beside its own options to replace its convolutions, a line each."""
    return [f"{o.name}: {o.doc} ({o.legal}; default {o.default})" for o in TRANSFORM_OPTIONS]


def targets() -> list[dict[str, Any]]:
    """Every target with its settings."""
    return [
        {
            "name": name,
            "runtime": {"litert": "LiteRT / tflite-runtime", "ort": "ONNX Runtime"}[target.runtime],
            "suffix": target.suffix,
            "input_types": list(target.input_types),
            "scheme": target.scheme("x86").name if target.scheme else "float",
            "options": dict(target.settings),
        }
        for name, target in sorted(all_targets().items())
    ]


def recipes() -> list[dict[str, Any]]:
    """The recipes that ship with edgecnn."""
    from edgecnn import recipe

    folder = shipped("recipes")
    return [{"path": f"recipes/{p.name}", "title": recipe.load(p).title} for p in sorted(folder.glob("*.toml"))]


def profiles() -> list[dict[str, Any]]:
    """The calibration and evaluation profiles that ship with edgecnn."""
    found = []
    for name in profile_names():
        profile = read_profile(name)
        source = "your images (" + name + ":DIR)" if profile.source == "images" else profile.source
        found.append({"name": name, "source": source, "about": profile.about})
    return found
