"""LiteRT (TFLite) with XNNPACK, its default delegate for CPUs."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from .errors import BadRequest, EngineFailed, EngineMissing
from .flatbuffer import read_metadata
from .tensor import TensorSpec, check_arrays

if TYPE_CHECKING:
    from .tensor import Array

MODULES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
"""The modules that have an `Interpreter`, best first, with the distributions they come from."""


def import_engine(only: Optional[str] = None) -> Tuple[Any, Dict[str, str]]:
    """The class `Interpreter` and {"name", "version"} of the distribution it comes from.

    Args:
        only: a distribution (`tflite-runtime`) instead of the best that is installed.

    Raises:
        EngineMissing: none is installed, or what is installed does not load.
    """
    reasons: List[str] = []
    for module, distribution in MODULES:
        if only not in (None, distribution):
            continue
        try:
            interpreter = importlib.import_module(module).Interpreter
        except (ImportError, AttributeError) as error:
            # tflite-runtime under NumPy 2 fails with either, depending on its version.
            reasons.append(f"{distribution}: {error}")
            continue
        return interpreter, {"name": distribution, "version": _version(distribution)}
    raise EngineMissing("LiteRT does not load (" + "; ".join(reasons) + ")", do="pip install ai-edge-litert")


def _version(distribution: str) -> str:
    try:
        from importlib.metadata import PackageNotFoundError, version

        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the engine's greeting ("Created TensorFlow Lite XNNPACK delegate") off the terminal; errors are raised.

    It writes to the descriptor itself, so Python's redirection does not reach it.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True)
class TfliteTensor:
    """A tensor of a .tflite file: name, shape, numpy type name, and its scales ((), per tensor 1, per channel many)."""

    name: str
    shape: Tuple[int, ...]
    dtype: str
    scales: Tuple[float, ...]


@dataclass(frozen=True)
class TfliteOp:
    """An operator of a .tflite file and where it runs.

    Args:
        kind: such as `CONV_2D`.
        inputs: tensor indices; -1 is an optional input that is absent.
        outputs: tensor indices.
        partition: the number of the XNNPACK partition that runs it; None if TFLite's own kernel does.
    """

    kind: str
    inputs: Tuple[int, ...]
    outputs: Tuple[int, ...]
    partition: Optional[int]


class LitertSession:
    """A .tflite file in LiteRT; see `session.Session`. `facts` tells whether XNNPACK really took the operators."""

    def __init__(self, path: str, *, threads: int, shapes: Mapping[str, Tuple[int, ...]]) -> None:
        self.metadata: Dict[str, str] = read_metadata(path)
        interpreter, self.engine = import_engine()
        try:
            with _quiet():
                self._interpreter = interpreter(model_path=path, num_threads=threads)
                self._own_ops = len(self._interpreter._get_ops_details())
                for detail in self._interpreter.get_input_details():
                    self._choose_shape(detail, shapes.get(detail["name"]))
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(
                f"{self.engine['name']} {self.engine['version']} refuses `{os.path.basename(path)}`: {error}",
                where=path,
                do="a newer ai-edge-litert may know what this one does not",
            ) from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs: List[TensorSpec] = [_spec(d) for d in inputs]
        self.outputs: List[TensorSpec] = [_spec(d) for d in outputs]
        self.input_indices: List[int] = [int(d["index"]) for d in inputs]
        self.output_indices: List[int] = [int(d["index"]) for d in outputs]
        ops = self.ops()
        self.facts: Dict[str, Any] = {
            "operators": len(ops),
            "delegated": sum(op.partition is not None for op in ops),
            "partitions": len({op.partition for op in ops} - {None}),
        }

    def _choose_shape(self, detail: Dict[str, Any], chosen: Optional[Tuple[int, ...]]) -> None:
        if chosen is None:
            return
        declared = [int(size) for size in detail.get("shape_signature", detail["shape"])]
        if len(chosen) != len(declared) or any(d not in (-1, chosen[i]) for i, d in enumerate(declared)):
            raise BadRequest(f"input `{detail['name']}` has shape {declared}, not {list(chosen)}", where=detail["name"])
        self._interpreter.resize_tensor_input(detail["index"], list(chosen))

    def ops(self) -> List[TfliteOp]:
        """The operators of the file in order, each with the partition that runs it.

        A delegate's node takes the place of the operators between its inputs and its outputs; the interpreter does not
        say which those are, so they are found by walking back from its outputs.
        """
        details = self._interpreter._get_ops_details()
        own, added = details[: self._own_ops], details[self._own_ops :]
        maker = {tensor: i for i, op in enumerate(own) for tensor in op["outputs"]}
        partition: Dict[int, int] = {}
        for number, node in enumerate(op for op in added if "delegate" in op["op_name"].lower()):
            for index in _between(node, own, maker):
                partition.setdefault(index, number)
        return [
            TfliteOp(op["op_name"], tuple(map(int, op["inputs"])), tuple(map(int, op["outputs"])), partition.get(index))
            for index, op in enumerate(own)
        ]

    def tensor(self, index: int) -> TfliteTensor:
        """A tensor by the index that `TfliteOp` holds."""
        detail = self._interpreter._get_tensor_details(index, 0)
        return TfliteTensor(
            detail["name"],
            tuple(int(size) for size in detail["shape"]),
            np.dtype(detail["dtype"]).name,
            tuple(float(s) for s in detail["quantization_parameters"]["scales"]),
        )

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Checks the inputs and copies them into the interpreter."""
        check_arrays(self.inputs, arrays)
        for i, index in enumerate(self.input_indices):
            self._interpreter.set_tensor(index, arrays[i])

    def invoke(self) -> None:
        """One inference."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise EngineFailed(f"{self.engine['name']} failed: {error}", do="check the sizes of the inputs") from error

    def outputs_now(self) -> List[Array]:
        """Copies of the outputs of the last `invoke`."""
        return [self._interpreter.get_tensor(index) for index in self.output_indices]

    def run(self, arrays: Sequence[Array]) -> List[Array]:
        """The outputs for `arrays`."""
        self.set_inputs(arrays)
        self.invoke()
        return self.outputs_now()

    def close(self) -> None:
        """Drops the interpreter and what it holds."""
        self._interpreter = None


def _between(node: Dict[str, Any], own: List[Dict[str, Any]], maker: Dict[int, int]) -> Set[int]:
    borders, found = set(node["inputs"]), set()  # type: Set[int], Set[int]
    pending = [t for t in node["outputs"] if t not in borders]
    while pending:
        index = maker.get(pending.pop())
        if index is None or index in found:
            continue
        found.add(index)
        pending += [t for t in own[index]["inputs"] if t not in borders]
    return found


def _spec(detail: Dict[str, Any]) -> TensorSpec:
    scales = detail["quantization_parameters"]["scales"]
    zeros = detail["quantization_parameters"]["zero_points"]
    quantised = len(scales) == 1
    return TensorSpec(
        detail["name"],
        tuple(int(size) for size in detail["shape"]),
        np.dtype(detail["dtype"]).name,
        float(scales[0]) if quantised else None,
        int(zeros[0]) if quantised else None,
    )
