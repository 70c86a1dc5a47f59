"""Reading a file of weights: tensors by name, nothing executed.

`.safetensors` holds tensors and nothing else. `.pth` and `.pt` are pickles; they are read with `weights_only=True`,
which knows tensors and containers and refuses everything that would run code.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgecnn.errors import InputError

PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".tar"})
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")

MAGIC = (b"PK\x03\x04", b"\x80")
"""How a file of `torch.save` begins: a zip archive, or since long ago a bare pickle."""

NEEDS_CODE = re.compile(r"(?:nsupported (?:global: )?GLOBAL|allowlisted .*? but got(?: <class)?) '?([\w.]+)")
"""What torch's restricted unpickler says when it meets code, and the name of it."""

CONVERT = """\
if you trust the file, convert it where the code it needs can be imported:
  import torch; from safetensors.torch import save_file
  saved = torch.load("{name}", map_location="cpu", weights_only=False)
  state = saved.state_dict() if hasattr(saved, "state_dict") else saved.get("state_dict", saved)
  save_file({{k: v.contiguous().clone() for k, v in state.items()}}, "{stem}.safetensors")
then pass --weights {stem}.safetensors"""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, as they are or inside what a training loop saved.

    Accepts `{"state_dict": ...}`, `{"model": ...}` and the like.

    Raises:
        InputError: the file is missing, empty, damaged, of another format, needs code to load, or holds no tensors.
    """
    if not path.is_file():
        raise InputError(
            f"there is no weight file `{path}`" if not path.exists() else f"`{path}` is not a file",
            expected="imagenet, random, or a .pth, .pt or .safetensors file",
        )
    if path.stat().st_size == 0:
        raise InputError("the weight file is empty", where=str(path), got="0 bytes", do="copy or download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _unwrap(_read_pickle(path), path)
    raise InputError(
        f"`{path.suffix}` is not a format of weights that can be read",
        where=str(path),
        expected=".safetensors, .pth or .pt",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise _damaged(path, _one_line(e)) from e


def _read_pickle(path: Path) -> object:
    with path.open("rb") as f:
        start = f.read(16)
    if not start.startswith(MAGIC):
        raise _damaged(path, f"it begins with {start!r}")
    try:
        with warnings.catch_warnings():
            # Torch suggests other loaders here; what is refused is explained below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged pickle may fail in any way
        refused = NEEDS_CODE.search(str(e))
        if refused:
            raise _needs_code(path, f"`{refused[1]}`") from None
        if "TorchScript" in str(e):
            raise _needs_code(path, "a TorchScript archive") from None
        raise _damaged(path, _one_line(e)) from e


def _needs_code(path: Path, what: str) -> InputError:
    return InputError(
        "the weight file needs code to load, which could do anything, so it was not loaded",
        where=str(path),
        expected="a file of tensors only: torch.save(net.state_dict(), ...) or .safetensors",
        got=what,
        do=CONVERT.format(name=path.name, stem=path.stem),
    )


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        "the weight file is damaged or not what its name says",
        where=str(path),
        expected=f"a complete {path.suffix} file",
        got=f"{path.stat().st_size} bytes; {why}",
        do="copy or download it again",
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside what a training loop saved."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _unwrap(content[key], path)
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    keys = f" with the keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
    raise InputError(
        "the weight file holds no state_dict",
        where=str(path),
        expected="names and tensors, at top level or under one of " + ", ".join(WRAPPERS),
        got=f"a {type(content).__name__}{keys}",
    )
