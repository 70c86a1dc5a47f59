"""ONNX Runtime on its CPU provider, set up as it is fastest (`facts/runtimes.md` section 3, rule 12)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Tuple

from .errors import BadArtifact, BadRequest, EngineFailed, EngineMissing
from .tensor import TensorSpec, check_arrays

if TYPE_CHECKING:
    from .tensor import Array

DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's names of element types, as numpy's."""

FREE_SIZES = "free input sizes are taken as 1; if the model needs more, fix them when you export it"


def import_engine() -> Any:
    """The module `onnxruntime`.

    Raises:
        EngineMissing: it is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissing(f"ONNX Runtime does not load: {error}", do="pip install onnxruntime") from error
    return onnxruntime


def options(engine: Any, *, threads: int) -> Any:
    """Session options: all optimisations, one inference at a time on `threads` threads that wait by spinning."""
    chosen = engine.SessionOptions()
    chosen.graph_optimization_level = engine.GraphOptimizationLevel.ORT_ENABLE_ALL
    chosen.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.enable_cpu_mem_arena = True
    chosen.log_severity_level = 4  # Errors come as exceptions; the log would say them twice.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    chosen.add_session_config_entry("session.disable_prepacking", "0")
    return chosen


def create(engine: Any, path: str, chosen: Any) -> Any:
    """An `InferenceSession` of `path` on the CPU.

    Raises:
        BadArtifact: the file does not parse.
        EngineFailed: the engine refuses it.
    """
    try:
        return engine.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
    except Exception as error:
        name, said = os.path.basename(path), _first_line(error)
        if type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoModel", "NoSuchFile"):
            raise BadArtifact(
                f"`{name}` is damaged or no ONNX model: {said}", where=path, do="write or download the file again"
            ) from error
        raise EngineFailed(
            f"ONNX Runtime {engine.__version__} refuses `{name}`: {said}",
            where=path,
            do="a newer onnxruntime may know what this one does not",
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    # "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from ..." says its class thrice.
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.splitlines()[0]) if text else type(error).__name__


class OrtSession:
    """A .onnx file in ONNX Runtime; see `session.Session`."""

    def __init__(self, path: str, *, threads: int, shapes: Mapping[str, Tuple[int, ...]]) -> None:
        engine = import_engine()
        self._session = create(engine, path, options(engine, threads=threads))
        self.engine: Dict[str, str] = {"name": "onnxruntime", "version": engine.__version__}
        meta = self._session.get_modelmeta()
        self.metadata: Dict[str, str] = dict(meta.custom_metadata_map)
        self.facts: Dict[str, Any] = {"producer": meta.producer_name}
        self.inputs: List[TensorSpec] = [_spec(i, shapes.get(i.name)) for i in self._session.get_inputs()]
        self.outputs: List[TensorSpec] = [_spec(o, None) for o in self._session.get_outputs()]
        self._names = [o.name for o in self.outputs]
        self._feed: Dict[str, Array] = {}
        self._results: List[Array] = []

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Checks and keeps the inputs; the engine reads them where they are."""
        check_arrays(self.inputs, arrays)
        self._feed = {spec.name: arrays[i] for i, spec in enumerate(self.inputs)}

    def invoke(self) -> None:
        """One inference."""
        try:
            self._results = self._session.run(self._names, self._feed)
        except Exception as error:
            raise EngineFailed(
                f"ONNX Runtime failed: {_first_line(error)}",
                do=FREE_SIZES,
            ) from error

    def outputs_now(self) -> List[Array]:
        """The outputs of the last `invoke`; the engine makes new arrays for each."""
        return list(self._results)

    def run(self, arrays: Sequence[Array]) -> List[Array]:
        """The outputs for `arrays`."""
        self.set_inputs(arrays)
        self.invoke()
        return self.outputs_now()

    def close(self) -> None:
        """Drops the session and what it holds."""
        self._session = None
        self._feed, self._results = {}, []


def _spec(arg: Any, chosen: Any) -> TensorSpec:
    if arg.type not in DTYPES:
        raise EngineFailed(f"`{arg.name}` is of type {arg.type}, which cannot be fed here", do="give tensors only")
    declared = list(arg.shape)
    free = tuple(i for i, size in enumerate(declared) if not isinstance(size, int) or size < 1)
    shape = tuple(1 if i in free else int(size) for i, size in enumerate(declared))
    spec = TensorSpec(arg.name, shape, DTYPES[arg.type], free=free)
    if chosen is None:
        return spec
    if not spec.accepts(chosen):
        raise BadRequest(f"input `{arg.name}` has shape {declared}, not {list(chosen)}", where=arg.name)
    return TensorSpec(arg.name, tuple(chosen), spec.dtype, free=free)


def optimize(path: str, out: str) -> None:
    """Writes the graph that ONNX Runtime really executes here (fused, with its layouts) to `out`."""
    engine = import_engine()
    chosen = options(engine, threads=1)
    chosen.optimized_model_filepath = out
    create(engine, path, chosen)


def run_as_written(path: str, arrays: Mapping[str, "Array"]) -> Dict[str, "Array"]:
    """All outputs, by name, of the model at `path` executed as it is written, without a single rewrite."""
    engine = import_engine()
    chosen = options(engine, threads=1)
    chosen.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create(engine, path, chosen)
    names = [output.name for output in session.get_outputs()]
    try:
        results = session.run(names, dict(arrays))
    except Exception as error:
        raise EngineFailed(f"ONNX Runtime failed: {_first_line(error)}", where=path, do=FREE_SIZES) from error
    return {name: results[i] for i, name in enumerate(names)}
