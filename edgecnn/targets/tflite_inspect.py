"""Which operators of a .tflite file XNNPACK takes, in the LiteRT that is installed here, and why it leaves others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod

from edgecnn.runtime.litert import LitertSession, TfliteOp, TfliteTensor
from edgecnn.targets.engine import explained
from edgecnn.targets.executed import ExecutedOp, Execution, Place, Precision

CODE_TYPES = frozenset({"int8", "uint8", "int16"})
FLOAT_TYPES = frozenset({"float32", "float16"})
CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})

# XNNPACK collapses a chain of these with 8-bit ends into one table of 256 entries (since May 2025).
UNARY = frozenset(
    {
        "ABS",
        "CEIL",
        "COS",
        "ELU",
        "EXP",
        "FLOOR",
        "GELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOG",
        "LOGISTIC",
        "NEG",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "ROUND",
        "RSQRT",
        "SIN",
        "SQRT",
        "SQUARE",
        "TANH",
    }
)

NO_INT8_KERNEL = {
    "HARD_SWISH": "XNNPACK has no int8 HARD_SWISH; DEQUANTIZE, HARD_SWISH, QUANTIZE becomes one table",
    "AVERAGE_POOL_2D": "XNNPACK has no int8 AVERAGE_POOL_2D; MEAN over height and width is taken",
    "PADV2": "XNNPACK does not take PADV2; PAD is taken",
    "GELU": "XNNPACK has no int8 GELU; DEQUANTIZE, GELU, QUANTIZE becomes one table",
    "ABS": "XNNPACK has no int8 ABS; DEQUANTIZE, ABS, QUANTIZE becomes one table",
    "RELU": "XNNPACK has no separate int8 RELU; fuse it into its producer",
    "RELU6": "XNNPACK has no separate int8 RELU6; fuse it into its producer",
    "RELU_N1_TO_1": "XNNPACK has no separate int8 RELU_N1_TO_1; fuse it into its producer",
    "STRIDED_SLICE": "XNNPACK of older LiteRT has no int8 STRIDED_SLICE; SLICE is taken",
}


@dataclass(frozen=True)
class _File:
    """The operators of an open file with the lookups that judging needs."""

    ops: list[TfliteOp]
    tensors: dict[int, TfliteTensor]
    maker: dict[int, int]
    users: dict[int, list[int]]
    inputs: frozenset[int]
    outputs: frozenset[int]

    def is_constant(self, index: int) -> bool:
        return index not in self.maker and index not in self.inputs

    def activations(self, op: TfliteOp) -> list[TfliteTensor]:
        """The inputs that are not constants."""
        return [self.tensors[i] for i in op.inputs if i >= 0 and not self.is_constant(i)]

    def ends(self, op: TfliteOp) -> set[str]:
        """The element types of its activation inputs and its outputs."""
        return {t.dtype for t in self.activations(op)} | {self.tensors[i].dtype for i in op.outputs}


def executed_ops(path: str | os.PathLike[str], *, threads: int = 1) -> Execution:
    """The operators of the .tflite file at `path` as LiteRT runs them here.

    Raises:
        InputError: the file is missing or damaged, or LiteRT refuses it.
        EnvironmentFailure: LiteRT is not installed.
    """
    with explained():
        session = LitertSession(os.fspath(path), threads=threads, shapes={})
    try:
        file = _read(session)
        precision = _precision(file)
        ops = tuple(_judge(file, index, precision) for index in range(len(file.ops)))
        engine = f"{session.engine['name']} {session.engine['version']}"
        return Execution(engine, precision, ops, session.facts["partitions"])
    finally:
        session.close()


def _read(session: LitertSession) -> _File:
    ops = session.ops()
    used = {i for op in ops for i in (*op.inputs, *op.outputs) if i >= 0}
    users: dict[int, list[int]] = {i: [] for i in used}
    for number, op in enumerate(ops):
        for i in op.inputs:
            if i >= 0:
                users[i].append(number)
    return _File(
        ops,
        {i: session.tensor(i) for i in used},
        {i: number for number, op in enumerate(ops) for i in op.outputs},
        users,
        frozenset(session.input_indices),
        frozenset(session.output_indices),
    )


def _precision(file: _File) -> Precision:
    firsts = (file.activations(op)[:1] for op in file.ops if op.kind != "CAST")
    types = {tensor.dtype for first in firsts for tensor in first}
    return "int16" if "int16" in types else "int8" if types & CODE_TYPES else "float"


def _judge(file: _File, index: int, precision: Precision) -> ExecutedOp:
    op = file.ops[index]
    ends = file.ends(op)
    codes = bool(ends & CODE_TYPES) and not ends & FLOAT_TYPES
    place, reason = _place(file, index, precision, codes)
    return ExecutedOp(file.tensors[op.outputs[0]].name, op.kind, _macs(file, op), codes, place, reason)


def _place(file: _File, index: int, precision: Precision, codes: bool) -> tuple[Place, str]:
    op = file.ops[index]
    if not file.activations(op):
        return "border", "computed once, when the file is loaded"
    at_edge = set(op.inputs) & file.inputs or set(op.outputs) & file.outputs
    if op.kind in CONVERSIONS and at_edge:
        return "border", "converts an input or output" + ("" if op.partition is not None else "; not by XNNPACK")
    if op.partition is None:
        return "outside", _why_left(file, op)
    if precision == "float" or codes or _is_table(file, index):
        return "fast", ""
    return "outside", "XNNPACK computes it in float32"


def _is_table(file: _File, index: int) -> bool:
    """Whether the operator is part of DEQUANTIZE, unary operators, QUANTIZE in a row, in one partition, unbranched."""
    return _leads_to("DEQUANTIZE", file, index, forward=False) and _leads_to("QUANTIZE", file, index, forward=True)


def _leads_to(end: str, file: _File, index: int, *, forward: bool) -> bool:
    at: int | None = index
    while at is not None:
        op = file.ops[at]
        if op.partition != file.ops[index].partition:
            return False
        if op.kind == end:
            return True
        # The other end may be where the walk begins, but nothing else than a unary operator may lie between.
        if op.kind not in UNARY and not (at == index and op.kind in CONVERSIONS):
            return False
        users = file.users[op.outputs[0]]
        if forward and (len(users) != 1 or op.outputs[0] in file.outputs):
            return False
        at = users[0] if forward else file.maker.get(op.inputs[0])
    return False


def _why_left(file: _File, op: TfliteOp) -> str:
    if not file.ends(op) & CODE_TYPES:
        return f"XNNPACK does not take this float {op.kind}"
    if "int16" in file.ends(op):
        return "XNNPACK has no kernel for 16-bit activations: LiteRT's reference kernel runs"
    if all(other.partition is None for other in file.ops if file.ends(other) & CODE_TYPES):
        return "this runtime's XNNPACK takes no int8 operator at all; use ai-edge-litert"
    return _scale_out_of_range(file, op) or NO_INT8_KERNEL.get(
        op.kind, f"XNNPACK does not take this int8 {op.kind}: its kind, version, shape or parameters"
    )


def _scale_out_of_range(file: _File, op: TfliteOp) -> str | None:
    """Names the ratio of scales that XNNPACK does not accept (`facts/runtimes.md` section 2, rule 13)."""
    inputs = [file.tensors[i].scales for i in op.inputs if i >= 0]
    out = file.tensors[op.outputs[0]].scales
    scales = [s[0] for s in inputs if len(s) == 1]
    if len(out) != 1 or not scales:
        return None
    ratios, low, high = {
        "ADD": ([s / out[0] for s in scales], -10, 8),
        "SUB": ([s / out[0] for s in scales], -10, 8),
        "MUL": ([prod(scales) / out[0]], -16, 8),
        "QUANTIZE": ([s / out[0] for s in scales], -8, 7),
    }.get(op.kind, ([], 0, 0))
    for ratio in ratios:
        if not 2.0**low <= ratio < 2.0**high:
            return f"its input scale over its output scale is {ratio:.3g}; XNNPACK takes 2^{low} up to 2^{high}"
    return None


def _macs(file: _File, op: TfliteOp) -> int:
    """Multiply-adds for one image: of convolutions, linear layers and matrix products, nothing else."""
    out = file.tensors[op.outputs[0]].shape
    if op.kind == "TRANSPOSE_CONV":
        weight, x = file.tensors[op.inputs[1]].shape, file.tensors[op.inputs[2]].shape
        return prod(x[1:]) * prod(weight[:3])
    if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"):
        return 0
    x, weight = file.tensors[op.inputs[0]].shape, file.tensors[op.inputs[1]].shape
    if op.kind == "BATCH_MATMUL":
        return prod(out[1:]) * x[-1]
    per_output = {"CONV_2D": prod(weight[1:]), "DEPTHWISE_CONV_2D": prod(weight[1:3]), "FULLY_CONNECTED": weight[1]}
    return prod(out[1:]) * per_output[op.kind]
