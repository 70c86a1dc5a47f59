"""What there is to choose from, as plain rows: nets, targets, recipes, calibration profiles."""

from __future__ import annotations

from typing import Any

from edgecnn.data import profile_names, read_profile, shipped
from edgecnn.nets import NETS
from edgecnn.nets.transform import TRANSFORM_OPTIONS
from edgecnn.targets import all_targets

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "nets": (
        ("net", "aliases", "input", "parameters>", "multiply-adds>", "ImageNet top-1 %>", "what it is"),
        ("name", "aliases", "input", "params", "macs", "top1", "summary"),
    ),
    "targets": (
        ("target", "runtime", "file", "input types", "scheme"),
        ("name", "runtime", "suffix", "input_types", "scheme"),
    ),
    "recipes": (("recipe", "what it does"), ("path", "title")),
    "profiles": (("profile", "source", "what it is"), ("name", "source", "about")),
}
"""Headings (a trailing `>` marks numbers) and the keys of the rows, for tables."""


def nets() -> list[dict[str, Any]]:
    """Every net of the zoo; `top1` is the published accuracy of the official weights, where there are any."""
    return [
        {
            "name": name,
            "family": entry.family,
            "aliases": list(entry.aliases),
            "input": "x".join(map(str, entry.input_shape)),
            "params": entry.params,
            "macs": entry.macs,
            "top1": entry.pretrained.top1 if entry.pretrained else None,
            "weights": entry.pretrained.url if entry.pretrained else None,
            "published": [vars(figure) for figure in entry.published],
            "summary": entry.summary,
            "source": entry.source,
            "options": {o.name: f"default {o.default}" for o in entry.options},
            "takes_other_convolutions": bool(entry.transform_options),
        }
        for name, entry in NETS.items()
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
