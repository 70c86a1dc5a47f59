"""Weights into a net: a file, the official ImageNet weights, or seeded noise; a misfit is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edgecnn.errors import InputError, UsageError
from edgecnn.nets.checkpoint import read_checkpoint
from edgecnn.nets.download import Opener, Progress, fetch, open_url, sha256_of
from edgecnn.nets.random_weights import init_random
from edgecnn.nets.registry import IMAGENET_INPUT, NetEntry

__all__ = ["LoadedWeights", "init_random", "load_weights"]

SHOWN = 4

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and training frameworks put before every name."""


@dataclass(frozen=True)
class LoadedWeights:
    """Where a net's weights came from, for the manifest.

    Args:
        kind: how they were asked for.
        source: the URL, the path, or the seed in words.
        sha256: of the file; None for random weights.
    """

    kind: Literal["imagenet", "file", "random"]
    source: str
    sha256: str | None

    @property
    def untrained(self) -> bool:
        """Whether the weights are noise, so that accuracy means nothing."""
        return self.kind == "random"


def load_weights(
    module: nn.Module,
    spec: str | Path,
    *,
    entry: NetEntry | None = None,
    input_shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    opener: Opener = open_url,
) -> LoadedWeights:
    """Puts weights into `module` in place, leaves it in eval mode, and returns where they came from.

    Args:
        module: the net.
        spec: `imagenet`, `random`, or the path of a .pth, .pt or .safetensors file.
        entry: the net's entry in the zoo; needed for `imagenet`.
        input_shape: (C, H, W), for `random`; the entry's by default.
        seed: for `random`.
        cache_dir: where official files are kept; the user's cache by default.
        progress: told how a download gets on.
        opener: opens a URL; a seam for tests.

    Raises:
        UsageError: `imagenet` for a net without official weights.
        InputError: the file is missing or damaged, or its tensors are not this net's or not finite.
        EnvironmentFailure: the official file can be neither found nor downloaded.
    """
    if spec == "random":
        init_random(module, seed, input_shape or (entry.input_shape if entry else IMAGENET_INPUT))
        return LoadedWeights("random", f"random, seed {seed}", None)
    if spec == "imagenet":
        if entry is None or entry.pretrained is None:
            raise UsageError(
                f"there are no official ImageNet weights for {entry.name if entry else 'this net'}",
                do="use --weights PATH, or --weights random --seed N (untrained: for speed only)",
            )
        path = fetch(entry.pretrained, cache_dir=cache_dir, progress=progress, opener=opener)
        put_tensors(module, read_checkpoint(path), where=str(path))
        return LoadedWeights("imagenet", entry.pretrained.url, sha256_of(path))
    path = Path(spec)
    put_tensors(module, read_checkpoint(path), where=str(path))
    return LoadedWeights("file", str(path), sha256_of(path))


def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Copies `tensors` into `module` in place, if they are exactly its state and finite, and leaves it in eval mode.

    A prefix that a wrapper put before all names is removed.

    Raises:
        InputError: a name is missing, unexpected or of another shape, or a tensor holds NaN or infinity.
    """
    own = module.state_dict()
    tensors = _without_prefix(tensors, own)
    if current_name := getattr(module, "current_name", None):  # a net whose old files have other names
        tensors = {current_name(name): tensor for name, tensor in tensors.items()}
    # Files from before PyTorch 1.0 lack this counter, which only matters in training.
    missing = [k for k in own if k not in tensors and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in tensors if k not in own]
    reshaped = [k for k in own if k in tensors and tensors[k].shape != own[k].shape]
    if missing or unexpected or reshaped:
        misfits = {
            "missing": missing,
            "unexpected": unexpected,
            "of another shape": [f"{k} is {_shape(tensors[k])}, the net has {_shape(own[k])}" for k in reshaped],
        }
        raise InputError(
            "the weights are not this net's",
            where=where,
            expected=f"the {len(own)} tensors of {type(module).__name__}",
            got="\n".join(f"{len(names)} {label}: {_first(names)}" for label, names in misfits.items() if names),
            do=_advice(own, missing, unexpected, reshaped),
        )
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor.float())).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise InputError(
                f"the weights of `{name}` are not finite",
                where=where,
                expected="numbers",
                got=f"NaN or infinity in {bad} of {tensor.numel()} values",
                do="train again, or go back to a checkpoint from before it diverged",
            )
    module.load_state_dict(dict(tensors), strict=False)
    module.eval()


def _without_prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in PREFIXES:
        if tensors and all(k.startswith(prefix) for k in tensors) and not any(k.startswith(prefix) for k in own):
            return _without_prefix({k[len(prefix) :]: t for k, t in tensors.items()}, own)
    return tensors


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _first(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f", and {more} more" if more > 0 else "")


def _advice(own: Mapping[str, Tensor], missing: list[str], unexpected: list[str], reshaped: list[str]) -> str:
    last_layer = list(own)[-2:]
    if not missing and not unexpected and set(reshaped) <= set(last_layer):
        return "build the net with as many classes as the weights have: --net-option num_classes=N"
    if len(missing) > len(own) // 2:
        return "choose the net that these weights were trained for"
    return "choose the same variant of the net (its --net-option values) as in training"
