"""A run of training as one file, from which it goes on as if it had never stopped: safetensors with JSON in its header.

Nothing in it is code. It is written to a temporary name and renamed, so a kill at any moment leaves a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from edgecnn.artifact import atomic_write
from edgecnn.errors import InputError, UsageError

FORMAT = "1"
_FORMAT_KEY, _CONTENT_KEY = "edgecnn.checkpoint", "edgecnn.content"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes:
        recipe: what the result depends on, flat: settings, seed, data, net. A run goes on only under the same.
        progress: where it stands; plain JSON.
        tensors: weights, the optimizer's state, averages, random states.
    """

    recipe: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all.

        Raises:
            EnvironmentFailure: the file cannot be written; one that was there before is untouched.
        """
        content = json.dumps({"recipe": self.recipe, "progress": self.progress})
        # The format knows no strides; who loads copies into tensors that have theirs.
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        atomic_write(path, to_safetensors(tensors, {_FORMAT_KEY: FORMAT, _CONTENT_KEY: content}))

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """The checkpoint in a file.

        Raises:
            InputError: the file is damaged or no checkpoint.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get(_FORMAT_KEY) != FORMAT:
                    raise _no_checkpoint(path, "a safetensors file of something else")
                content = json.loads(metadata[_CONTENT_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return Checkpoint(content["recipe"], content["progress"], tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise _no_checkpoint(path, str(error)) from None

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, by the rest of their names."""
        start = f"{prefix}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}

    def check_recipe(self, recipe: Mapping[str, Any], path: Path) -> None:
        """Refuses to go on under another recipe.

        Raises:
            UsageError: something that the result depends on has changed; every such key is named.
        """
        changed = [key for key in sorted({*self.recipe, *recipe}) if self.recipe.get(key) != recipe.get(key)]
        if changed:
            raise UsageError(
                "training cannot go on from the checkpoint, as the recipe has changed: " + ", ".join(changed),
                where=str(path),
                expected="\n".join(f"{key} = {_short(self.recipe.get(key))}" for key in changed),
                got="\n".join(f"{key} = {_short(recipe.get(key))}" for key in changed),
                do="go on with the old values, or start afresh (--restart, or remove the file)",
            )


def _short(value: Any) -> str:
    """A hash by its first digits, as two that differ do so there."""
    text = json.dumps(value)
    return f"{text[1:13]}..." if len(text) == 66 else text


def _no_checkpoint(path: Path, got: str) -> InputError:
    return InputError(
        f"`{path.name}` is no checkpoint of training",
        where=str(path),
        got=got,
        do="remove it, or start afresh with --restart",
    )


def weights_hash(module: nn.Module) -> str:
    """A sha256 over names, types and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `index/name`, the index counting its parameters over all groups."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, kept in state.items() for name, value in kept.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives a new optimizer of the same parameters what `optimizer_tensors` took out of another."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split("/")
        like = parameters[int(index)]
        # In its weight's memory format, or every later step would be slower.
        kept = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape and tensor.ndim else tensor
        state.setdefault(int(index), {})[name] = kept
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
