"""Reading a file of weights: tensors by name, nothing executed.

`.safetensors` holds tensors and nothing else. `.pth` and `.pt` are pickles; they are read with `weights_only=True`,
which knows tensors and containers and refuses everything that would run code.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgecnn.errors import InputError

PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".tar"})
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.")

CONVERT = """\
if you trust the file, convert it where the code it needs can be imported:
  import torch; from safetensors.torch import save_file
  net = torch.load("{name}", map_location="cpu", weights_only=False)
  save_file({{k: v.contiguous().clone() for k, v in net.state_dict().items()}}, "{stem}.safetensors")
then pass --weights {stem}.safetensors"""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, wrappers and prefixes of training loops removed.

    Accepts `{"state_dict": ...}`, `{"model": ...}` and the like, and names that all begin with `module.`.

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
        return _strip_prefixes(_read_safetensors(path))
    if path.suffix in PICKLES:
        return _strip_prefixes(_unwrap(_read_pickle(path), path))
    raise InputError(
        f"`{path.suffix}` is not a format of weights that can be read",
        where=str(path),
        expected=".safetensors, .pth or .pt",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise _damaged(path, e) from e


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if "Unsupported" in str(e):
            raise _needs_code(path, _named_global(str(e))) from None
        raise _damaged(path, e) from e
    except RuntimeError as e:
        if "TorchScript" in str(e):
            raise _needs_code(path, "a TorchScript archive") from None
        raise _damaged(path, e) from e
    except (EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as e:
        # A damaged pickle may fail anywhere in the unpickler.
        raise _damaged(path, e) from e


def _named_global(message: str) -> str:
    """The class or function that the unpickler refused, from its message."""
    refused = [line for line in message.splitlines() if "Unsupported" in line]
    return refused[0].strip() if refused else "code"


def _needs_code(path: Path, what: str) -> InputError:
    return InputError(
        "the weight file needs code to load, which could do anything, so it was not loaded",
        where=str(path),
        expected="a file of tensors only: torch.save(net.state_dict(), ...) or .safetensors",
        got=what,
        do=CONVERT.format(name=path.name, stem=path.stem),
    )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        "the weight file is damaged or not what its name says",
        where=str(path),
        expected=f"a complete {path.suffix} file",
        got=f"{path.stat().st_size} bytes; {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        if str(error).strip()
        else f"{path.stat().st_size} bytes; {type(error).__name__}",
        do="copy or download it again",
    )


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside what a training loop saved."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _unwrap(content[key], path)
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    got = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
    raise InputError(
        "the weight file holds no state_dict",
        where=str(path),
        expected="names and tensors, at top level or under one of " + ", ".join(WRAPPERS),
        got=f"{type(content).__name__} with the keys {got}" if isinstance(content, Mapping) else got,
    )


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers (DataParallel, torch.compile, training frameworks) put before all of them."""
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _strip_prefixes({name[len(prefix) :]: t for name, t in tensors.items()})
    return tensors
