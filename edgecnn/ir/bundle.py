"""A graph as one file: safetensors, with the constants as tensors and the graph's text in the header's metadata.

No pickle and no Python class is needed to load it. Equal graphs and provenance give equal bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from edgecnn.artifact import atomic_write
from edgecnn.errors import InputError
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.text import dumps, parse

FORMAT = 1
_FORMAT_KEY, _GRAPH_KEY, _PROVENANCE_KEY = "edgecnn.format", "edgecnn.graph", "edgecnn.provenance"


def save(graph: Graph, path: str | Path, *, provenance: Mapping[str, str]) -> None:
    """Writes `graph` to `path`, whole or not at all.

    Args:
        graph: any verified graph; quantisation parameters are kept.
        path: of the file; an existing one is replaced.
        provenance: where the graph comes from (net, weights, recipe, ...), for people and manifests.

    Raises:
        EnvironmentFailure: the file cannot be written.
    """
    atomic_write(path, to_bytes(graph, provenance=provenance))


def load(path: str | Path) -> tuple[Graph, dict[str, str]]:
    """The graph and the provenance that `save` wrote to `path`.

    Raises:
        InputError: the file is missing, cut off, no bundle, or of a later format.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(metadata, path, tensors=len(file.keys()))
            constants: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"cannot read the bundle `{path}`", got=error.strerror or str(error)) from error
    except SafetensorError as error:
        raise InputError(
            f"`{path}` is no bundle",
            expected="a safetensors file written by edgecnn",
            got=f"a file that is cut off, damaged or of another type ({error})",
            do="export or save it again",
        ) from error
    graph = parse(metadata[_GRAPH_KEY], constants=constants)
    return graph, dict(json.loads(metadata[_PROVENANCE_KEY]))


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is a safetensors file with a graph in it, of whatever format version."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return _FORMAT_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def to_bytes(graph: Graph, *, provenance: Mapping[str, str]) -> bytes:
    """The content of the file that `save` writes.

    The header is written here and not by the safetensors package, whose metadata comes in a random order.
    """
    header: dict[str, object] = {
        "__metadata__": {
            _FORMAT_KEY: str(FORMAT),
            _GRAPH_KEY: dumps(graph),
            _PROVENANCE_KEY: json.dumps(dict(provenance), sort_keys=True),
        }
    }
    pieces: list[bytes] = []
    at = 0
    for name, value in sorted(graph.values.items()):
        if value.data is not None:
            raw = np.ascontiguousarray(value.data, "<f4").tobytes()
            header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
            pieces.append(raw)
            at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    return struct.pack("<Q", len(text)) + text + b"".join(pieces)


def _check_format(metadata: Mapping[str, str], path: str | Path, *, tensors: int) -> None:
    found = metadata.get(_FORMAT_KEY)
    if found is None or _GRAPH_KEY not in metadata or _PROVENANCE_KEY not in metadata:
        raise InputError(
            f"`{path}` is no bundle",
            expected="a safetensors file written by edgecnn",
            got=f"a safetensors file of {tensors} tensors without a graph",
            do="a checkpoint needs its net: give both, the net and `--weights` with this file",
        )
    if found != str(FORMAT):
        raise InputError(
            f"`{path}` is a bundle of another format",
            expected=f"format {FORMAT}",
            got=f"format {found}",
            do="read it with the version of edgecnn that wrote it",
        )
