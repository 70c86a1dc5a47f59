"""One way to run an artifact, whatever its engine: `open_session`."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from .errors import BadArtifact, BadRequest
from .tensor import TensorSpec

if TYPE_CHECKING:
    from .tensor import Array

ENGINES = {".tflite": "litert", ".onnx": "ort"}
"""The engine for each suffix."""


class Session(Protocol):
    """An artifact in its engine, ready to run; arrays are in the artifact's own layout and element types.

    `engine` is {"name", "version"}; `metadata` what the file carries about itself; `facts` what the engine did with it
    (for LiteRT: operators, how many of them the delegate took, in how many partitions).
    """

    inputs: List[TensorSpec]
    outputs: List[TensorSpec]
    engine: Dict[str, str]
    metadata: Dict[str, str]
    facts: Dict[str, Any]

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Hands the inputs over, once for any number of `invoke`.

        Raises:
            BadRequest: an array does not fit its input.
        """

    def invoke(self) -> None:
        """Computes the outputs of the inputs that were set: the only thing a benchmark times."""

    def outputs_now(self) -> List[Array]:
        """Copies of the outputs of the last `invoke`."""

    def run(self, arrays: Sequence[Array]) -> List[Array]:
        """The outputs for `arrays`: `set_inputs`, `invoke`, `outputs_now`."""

    def close(self) -> None:
        """Frees the engine; the session cannot be used afterwards."""


def open_session(
    path: str,
    *,
    threads: int = 1,
    engine: Optional[str] = None,
    shapes: Optional[Mapping[str, Tuple[int, ...]]] = None,
) -> Session:
    """A session for the artifact at `path`.

    Args:
        path: a .tflite or .onnx file.
        threads: how many threads one inference may use.
        engine: `litert` or `ort`; by the suffix if not given.
        shapes: input shapes for inputs whose file leaves dimensions free; without it those are 1.

    Raises:
        BadArtifact: no such file, an unknown suffix, or a damaged file.
        BadRequest: a wrong thread count, engine or shape.
        EngineMissing: the engine is not installed.
        EngineFailed: the engine refuses the file.
    """
    path = os.fspath(path)
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise BadRequest(f"{threads!r} threads", do="give a whole number from 1 on")
    engine = engine or engine_for(path)
    check_file(path)
    if engine == "litert":
        from .litert import LitertSession

        return LitertSession(path, threads=threads, shapes=shapes or {})
    if engine == "ort":
        from .ort import OrtSession

        return OrtSession(path, threads=threads, shapes=shapes or {})
    raise BadRequest(f"unknown engine `{engine}`", do="one of " + ", ".join(sorted(ENGINES.values())))


def import_engine(name: str) -> Dict[str, str]:
    """Imports the engine `name`, and says its full name and version.

    Raises:
        EngineMissing: it is not installed, or does not load.
    """
    if name == "litert":
        from . import litert

        return litert.import_engine()[1]
    from . import ort

    return {"name": "onnxruntime", "version": str(ort.import_engine().__version__)}


def engine_for(path: str) -> str:
    """The name of the engine that runs files with the suffix of `path`.

    Raises:
        BadArtifact: no engine does.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in ENGINES:
        raise BadArtifact(
            f"no engine runs `{os.path.basename(path)}`",
            where=path,
            do="give a file that ends in " + " or ".join(sorted(ENGINES)),
        )
    return ENGINES[suffix]


def check_digest(path: str, sha256: str) -> None:
    """Checks that the file at `path` is the one that was sent.

    Raises:
        BadArtifact: its content has another digest.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    found = digest.hexdigest()
    if found != sha256:
        raise BadArtifact(
            f"`{os.path.basename(path)}` arrived damaged: its sha256 is {found[:16]}..., not {sha256[:16]}...",
            where=path,
            do="try again; if it happens twice, the device's storage or the connection is at fault",
        )


def check_file(path: str) -> None:
    """Checks that `path` is a file with something in it.

    Raises:
        BadArtifact: it is not.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise BadArtifact(f"`{os.path.basename(path) or path}` {what}", where=path, do="check the path")
    if os.path.getsize(path) == 0:
        raise BadArtifact(f"`{os.path.basename(path)}` is empty", where=path, do="write or download the file again")
