"""What the tests of the TFLite targets share: quantise a graph written as text, emit it, run it in the real LiteRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT
from edgecnn.targets import all_targets
from edgecnn.targets.target import EmitOptions, Emitted

TARGETS = all_targets()


def graph_of(shape: str, op: str) -> Graph:
    """A graph of one op that reads `x`, for example ("16,7,7", "hard_swish(x)")."""
    return parse(f"graph one(x: [N,{shape}]) {{\n  y = {op}\n  return y\n}}")


def images(graph: Graph, *, n: int = 2, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *graph.shape(graph.inputs[0])[1:])).astype(np.float32)


def quantised(graph: Graph) -> Graph:
    return assign(graph, measure(graph, [images(graph, n=4)]), LITERT)[0]


def emitted(graph: Graph, *, target: str = "tflite-int8", **options: object) -> Emitted:
    """The file for x86; for int8 with int8 input unless `input_type` says otherwise."""
    settled: dict[str, object] = {"input_type": "float32" if target != "tflite-int8" else "int8", **options}
    return TARGETS[target].emit(graph, EmitOptions(**settled))  # type: ignore[arg-type]


def nhwc(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def nchw(y: Array) -> Array:
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


@dataclass(frozen=True)
class Loaded:
    """An artifact in LiteRT, and which of its operators XNNPACK left to slower kernels."""

    interpreter: Interpreter
    partitions: int
    left_out: Sequence[str]

    def run(self, *inputs_nchw: Array) -> Array:
        """The first output, NCHW."""
        for detail, x in zip(self.interpreter.get_input_details(), inputs_nchw, strict=True):
            self.interpreter.set_tensor(detail["index"], nhwc(x))
        self.interpreter.invoke()
        output = self.interpreter.get_output_details()[0]
        return nchw(self.interpreter.get_tensor(output["index"]))


def load(data: bytes) -> Loaded:
    interpreter = Interpreter(model_content=data, num_threads=1)
    before = interpreter._get_ops_details()
    interpreter.allocate_tensors()
    after = interpreter._get_ops_details()
    partitions = [op for op in after if op["op_name"] == "DELEGATE"]
    maker = {int(tensor): op for op in before for tensor in op["outputs"]}
    covered = {name for part in partitions for name in _above(part, maker)}
    left_out = [op["op_name"] for op in before if op["index"] not in covered]
    return Loaded(interpreter, len(partitions), left_out)


def _above(partition: Any, maker: Mapping[int, Any]) -> set[int]:
    """The indices of the operators between a partition's inputs and its outputs."""
    found: set[int] = set()
    todo = [int(tensor) for tensor in partition["outputs"]]
    ends = {int(tensor) for tensor in partition["inputs"]}
    while todo:
        tensor = todo.pop()
        op = maker.get(tensor)
        if tensor in ends or op is None or op["index"] in found:
            continue
        found.add(op["index"])
        todo.extend(int(i) for i in op["inputs"])
    return found
