"""Which operators of an .onnx file ONNX Runtime computes on 8-bit codes here, after its own fusions.

The engine writes the graph it made (`runtime.ort.optimize`); that graph is run once with every value as an output,
which tells each value's type and shape without knowing the shape rules of the engine's internal operators.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from edgecnn.runtime import ort
from edgecnn.runtime.cpu import cpu_facts, kind_of
from edgecnn.runtime.session import check_file
from edgecnn.runtime.tensor import random_arrays
from edgecnn.targets.engine import explained
from edgecnn.targets.executed import ExecutedOp, Execution, Place, Precision

CODE_TYPES = frozenset({"int8", "uint8"})
FLOAT_TYPES = frozenset({"float32", "float16", "float64"})
MOVES = frozenset(
    {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "ReorderInput", "ReorderOutput"}
)
"""Kinds that only rearrange; ReorderInput and ReorderOutput are the engine's own, around its blocked float layout."""

# The input that holds the weight of each kind that multiplies.
WEIGHT_AT = {
    "Conv": 1,
    "FusedConv": 1,
    "DeformConv": 1,
    "ConvInteger": 1,
    "Gemm": 1,
    "FusedGemm": 1,
    "MatMul": 1,
    "FusedMatMul": 1,
    "MatMulInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "QGemm": 3,
}
CONVOLUTIONS = frozenset({"Conv", "FusedConv", "DeformConv", "ConvInteger", "QLinearConv"})
QUANTISED = re.compile(r"QLinear\w+|QGemm|QuantizeLinear|DequantizeLinear|\w*Integer|DynamicQuantizeMatMul")


@dataclass(frozen=True)
class _Shape:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Model:
    """The engine's graph: its nodes, the type and shape of every value, and what lies at its ends."""

    nodes: list[onnx.NodeProto]
    values: dict[str, _Shape]
    constants: frozenset[str]
    before: frozenset[str]
    after: frozenset[str]
    makers: dict[str, onnx.NodeProto]

    def activations(self, node: onnx.NodeProto) -> list[_Shape]:
        return [self.values[i] for i in node.input if i and i not in self.constants]

    def ends(self, node: onnx.NodeProto) -> set[str]:
        """The element types of its activation inputs and its outputs."""
        return {v.dtype for v in self.activations(node)} | {self.values[o].dtype for o in node.output if o}


def executed_ops(path: str | os.PathLike[str]) -> Execution:
    """The operators of the .onnx file at `path` as ONNX Runtime runs them on this machine.

    Raises:
        InputError: the file is missing or damaged, or ONNX Runtime refuses it.
        EnvironmentFailure: ONNX Runtime is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgecnn-") as folder, explained():
        check_file(os.fspath(path))
        optimized = Path(folder, "optimized.onnx")
        ort.optimize(os.fspath(path), str(optimized))
        model = _read(optimized, Path(folder, "watched.onnx"))
        version = ort.import_engine().__version__
    precision: Precision = "int8" if any(QUANTISED.fullmatch(n.op_type) for n in model.nodes) else "float"
    ops = tuple(_judge(model, node, precision) for node in model.nodes)
    return Execution(f"onnxruntime {version}", precision, ops, None, tuple(_remarks(model)))


def _read(optimized: Path, watched: Path) -> _Model:
    proto = onnx.load(str(optimized))
    graph = proto.graph
    constants = {i.name: _Shape(_type_name(i.data_type), tuple(i.dims)) for i in graph.initializer}
    outputs = {o.name for o in graph.output}
    made = [name for node in graph.node for name in node.output if name]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    onnx.save(proto, str(watched))
    session = ort.OrtSession(str(optimized), threads=1, shapes={})
    arrays = dict(zip([s.name for s in session.inputs], random_arrays(session.inputs, seed=0), strict=True))
    session.close()
    seen = ort.run_as_written(str(watched), arrays) | arrays
    values = {name: _Shape(a.dtype.name, a.shape) for name, a in seen.items()}
    return _Model(
        list(graph.node),
        values | constants,
        frozenset(constants),
        _reached(graph.node, arrays, forward=True),
        _reached(reversed(graph.node), outputs, forward=False),
        {name: node for node in graph.node for name in node.output},
    )


def _type_name(data_type: int) -> str:
    return onnx.helper.tensor_dtype_to_np_dtype(data_type).name


def _reached(nodes: Iterable[onnx.NodeProto], ends: Iterable[str], *, forward: bool) -> frozenset[str]:
    """The values between the `ends` of the graph and the first operator that does more than move them."""
    found = set(ends)
    for node in nodes:
        near, far = (node.input, node.output) if forward else (node.output, node.input)
        if node.op_type in MOVES and near[0] in found:
            found.add(far[0])
    return frozenset(found)


def _judge(model: _Model, node: onnx.NodeProto, precision: Precision) -> ExecutedOp:
    ends = model.ends(node)
    codes = bool(ends & CODE_TYPES) and not ends & FLOAT_TYPES
    place, reason = _place(model, node, precision, codes)
    return ExecutedOp(_name(model, node), node.op_type, _macs(model, node), codes, place, reason)


def _place(model: _Model, node: onnx.NodeProto, precision: Precision, codes: bool) -> tuple[Place, str]:
    if not model.activations(node):
        return "border", "computed from constants alone"
    at_edge = node.input[0] in model.before or node.output[0] in model.after
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and at_edge:
        return "border", "converts an input or output"
    if node.op_type in MOVES and at_edge and not codes:
        return "border", "rearranges an input or output"
    if not model.ends(node) & (CODE_TYPES | FLOAT_TYPES):
        return "border", "computes shapes or indices"
    if precision == "float" or codes:
        return "fast", ""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "outside", "converts between codes and float32 in the middle of the net"
    if node.op_type == "DeformConv":
        return "outside", "computed in float32: the engine has no integer kernel for it"
    if node.op_type in WEIGHT_AT:
        return "outside", "computed in float32: it has no Q/DQ on some input or output, or the engine did not fuse them"
    return "outside", "computed in float32"


def _name(model: _Model, node: onnx.NodeProto) -> str:
    # The engine numbers the nodes and values it makes, and marks those of its blocked layout.
    name = re.sub(r"(_token_\d+|_nchwc)+$", "", node.name or node.output[0])
    if name:
        return name
    maker = model.makers.get(node.input[0])
    return f"after {_name(model, maker).removeprefix('after ')}" if maker is not None else str(node.output[0])


def _macs(model: _Model, node: onnx.NodeProto) -> int:
    """Multiply-adds for one image; the same in every layout, as only the number of outputs enters."""
    if node.op_type not in WEIGHT_AT:
        return 0
    weight = model.values[node.input[WEIGHT_AT[node.op_type]]].shape
    out = model.values[node.output[0]].shape
    if node.op_type in CONVOLUTIONS:
        return prod(out[1:]) * prod(weight[1:])
    return prod(out[1:]) * (prod(weight) // out[-1] if len(weight) == 2 else weight[-2])


def _remarks(model: _Model) -> list[str]:
    """Shapes that are computed on codes but miss the engine's best kernel (`facts/runtimes.md` section 3, rule 6)."""
    if not kind_of(cpu_facts()).startswith("x86"):
        return []
    remarks = []
    for node in model.nodes:
        if node.op_type != "QLinearConv":
            continue
        channels, per_group = model.values[node.input[3]].shape[:2]
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if per_group == 1 and groups == channels and channels % 16:
            remarks.append(
                f"`{_name(model, node)}`: a depthwise convolution of {channels} channels misses the fast kernel, "
                "which takes multiples of 16"
            )
    return remarks
