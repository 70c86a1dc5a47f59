"""Single operators cut out of a .tflite file of any origin, each as a file of its own: to time them one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers

from edgecnn.errors import EnvironmentFailure, InputError

UNPACKED = ("DEQUANTIZE", "DENSIFY")
"""Operators that only unpack a constant: they belong to the operator that reads it."""
UNARY = ("HARD_SWISH", "LOGISTIC", "TANH", "GELU", "ELU", "LEAKY_RELU", "EXP", "ABS", "NEG", "SQUARE", "SQRT", "RSQRT")
"""Between DEQUANTIZE and QUANTIZE, XNNPACK makes one table of such a chain: alone its parts would cost far more."""


@dataclass(frozen=True)
class Single:
    """One operator alone.

    Args:
        name: of the tensor it computes.
        kind: such as `CONV_2D`.
        data: the file.
    """

    name: str
    kind: str
    data: bytes


def singles(path: Path) -> Iterator[Single]:
    """The operators of the file in order, but those that only unpack constants.

    Raises:
        InputError: it is no .tflite file.
        EnvironmentFailure: the schema, a part of ai-edge-litert, is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        what = f"the schema of .tflite files is missing: {error}"
        raise EnvironmentFailure(what, do="pip install ai-edge-litert") from error
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise InputError(f"`{path.name}` is not a TFLite model", where=str(path))
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    kinds = [_kind(model.operatorCodes[op.opcodeIndex], names) for op in graph.operators]
    unpacks = {
        int(op.outputs[0]): op
        for op, kind in zip(graph.operators, kinds, strict=True)
        if kind in UNPACKED and _is_const(model, graph, int(op.inputs[0]))
    }
    chains = _chains(graph, kinds)
    for at, (op, kind) in enumerate(zip(graph.operators, kinds, strict=True)):
        if int(op.outputs[0]) in unpacks or at in {i for chain in chains.values() for i in chain[:-1]}:
            continue
        chain = chains.get(at, [at])
        before = [unpacks[int(i)] for i in op.inputs if int(i) in unpacks]
        data = _alone(schema, model, [*before, *(graph.operators[i] for i in chain)])
        name = graph.tensors[int(op.outputs[0])].name
        yield Single(name.decode(errors="replace") if name else kind.lower(), " ".join(kinds[i] for i in chain), data)


def _chains(graph: Any, kinds: list[str]) -> dict[int, list[int]]:
    """Chains of DEQUANTIZE, unary operators and QUANTIZE without other readers, by the position of their last one."""
    readers: dict[int, list[int]] = {}
    for at, op in enumerate(graph.operators):
        for i in op.inputs:
            readers.setdefault(int(i), []).append(at)
    outputs = {int(i) for i in graph.outputs}
    found: dict[int, list[int]] = {}
    for start, kind in enumerate(kinds):
        chain = [start]
        while kind == "DEQUANTIZE" and len(chain) < len(kinds):
            made = int(graph.operators[chain[-1]].outputs[0])
            after = readers.get(made, [])
            if made in outputs or len(after) != 1 or kinds[after[0]] not in (*UNARY, "QUANTIZE"):
                break
            chain.append(after[0])
            if kinds[after[0]] == "QUANTIZE":
                found[after[0]] = chain
                break
    return found


def _kind(code: Any, names: dict[int, str]) -> str:
    # Old files keep the code in a field of one byte.
    return names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")


def _is_const(model: Any, graph: Any, index: int) -> bool:
    if index < 0:
        return False
    buffer = model.buffers[graph.tensors[index].buffer]
    return buffer.data is not None and len(buffer.data) > 0


def _alone(schema: Any, model: Any, operators: list[Any]) -> bytes:
    """A file with these operators only; what the last one reads and nobody here computes becomes an input."""
    graph = model.subgraphs[0]
    used: list[int] = []
    for op in operators:
        used += [int(i) for i in (*op.inputs, *op.outputs) if int(i) >= 0 and int(i) not in used]
    place = {old: new for new, old in enumerate(used)}
    buffers = [schema.BufferT()]
    tensors = []
    for old in used:
        tensor = copy.copy(graph.tensors[old])
        if _is_const(model, graph, old):
            buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = len(buffers) - 1
        else:
            tensor.buffer = 0
        tensors.append(tensor)
    made = {int(i) for op in operators for i in op.outputs}
    own: list[Any] = []
    codes: list[Any] = []
    for op in operators:
        moved = copy.copy(op)
        moved.inputs = [place[int(i)] if int(i) >= 0 else -1 for i in op.inputs]
        moved.outputs = [place[int(i)] for i in op.outputs]
        moved.intermediates = None
        moved.opcodeIndex = len(codes)
        codes.append(model.operatorCodes[op.opcodeIndex])
        own.append(moved)
    single = schema.SubGraphT()
    single.tensors, single.operators = tensors, own
    single.inputs = [place[i] for i in used if i not in made and not _is_const(model, graph, i)]
    single.outputs = [place[int(i)] for i in operators[-1].outputs]
    whole = schema.ModelT()
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = model.version, codes, [single], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
