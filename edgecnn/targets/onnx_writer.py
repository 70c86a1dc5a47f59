"""The nodes and initialisers of an ONNX model under construction, and how a value is read and written in it.

The graph says what each value is; the writer says how its numbers appear in QDQ form. A value with quantisation
parameters exists as integer codes; each reader gets a DequantizeLinear of its own, which is what runtimes match on to
find an operator that can work on integers. A value without them is a float tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.ir.graph import BATCH, Array, Graph, Note, Op, QParams
from edgecnn.ir.ops import CLIPPING, NO_CLIP, SAME_CODES, Clip
from edgecnn.targets.target import IoType


@dataclass(frozen=True)
class Form:
    """What the runtimes that read QDQ ONNX disagree on.

    Args:
        weight_codes: weights are int8 initialisers behind a DequantizeLinear; otherwise float ones behind a
            QuantizeLinear and a DequantizeLinear (TensorRT).
        moves_codes: ops that only move numbers work on the codes; otherwise they stand between DequantizeLinear and
            QuantizeLinear (TensorRT has no integer tensors outside such pairs).
        stem: how a convolution of fewer than four channels is written (see `onnx_stem`).
    """

    weight_codes: bool = True
    moves_codes: bool = True
    stem: Literal["plain", "pad", "fold"] = "plain"


PLAIN = Form()
"""The form without what depends on a core."""


class Writer:
    """An ONNX graph that grows op by op, in topological order.

    Args:
        graph: the graph that is emitted.
        form: how the runtime wants it.
        batch: the number of images per call.
        output_type: outputs are codes of this type where the graph has codes; float32 for real numbers.
    """

    def __init__(self, graph: Graph, *, form: Form, batch: int, output_type: IoType) -> None:
        self.graph, self.form, self.batch, self.output_type = graph, form, batch, output_type
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.notes: list[Note] = []
        self._names: set[str] = set(graph.values)
        self._real: dict[str, str] = {}
        self._codes: dict[str, str] = {}

    # Building blocks -------------------------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """A tensor name that is not taken: `name`, or with a number behind it."""
        found, n = name, 1
        while found in self._names:
            n += 1
            found = f"{name}_{n}"
        self._names.add(found)
        return found

    def node(self, op_type: str, inputs: list[str], output: str, **attrs: Any) -> str:
        """Appends a node that makes `output` and returns that name."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attrs))
        return output

    def constant(self, name: str, data: Array) -> str:
        """An initialiser: that of the same name and content if there is one, else a new one."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(data).reshape(np.shape(data)), name)
        if name in self.initializers and self.initializers[name] != tensor:
            name = self.fresh(name)
            tensor.name = name
        self._names.add(name)
        self.initializers[name] = tensor
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value with the batch filled in."""
        return tuple(self.batch if d == BATCH else d for d in self.graph.shape(name))

    def quantize(self, real: str, q: QParams, output: str) -> str:
        """Codes of a float tensor."""
        return self.node("QuantizeLinear", [real, *self._parameters(output, q)], output)

    def dequantize(self, codes: str, q: QParams, output: str) -> str:
        """Real numbers of a tensor of codes, whose name the parameters take."""
        scale, zero = self._parameters(codes, q)
        # An int32 code has no zero point in ONNX.
        inputs = [codes, scale] if q.dtype == "int32" else [codes, scale, zero]
        return self.node("DequantizeLinear", inputs, output, **({} if q.axis is None else {"axis": q.axis}))

    def _parameters(self, stem: str, q: QParams) -> list[str]:
        # Scales and zero points per tensor must be 0-d: ONNX Runtime leaves its integer path for arrays of one element.
        return [
            self.constant(f"{stem}/scale", q.scale.astype(np.float32)),
            self.constant(f"{stem}/zero", q.zero_point.astype(q.dtype)),
        ]

    # Reading a value -------------------------------------------------------------------------------------------------

    def real(self, name: str, reader: Op) -> str:
        """A float tensor of value `name` for `reader`: every call dequantises anew."""
        value = self.graph.value(name)
        if value.data is not None:
            return self.real_constant(name, value.data, value.q, reader)
        if value.q is None:
            return self._real[name]
        return self.dequantize(self._codes[name], value.q, self.fresh(f"{name}/for/{reader.output}"))

    def codes(self, name: str) -> str:
        """The tensor of codes of a quantised value."""
        value = self.graph.value(name)
        return self.constant(name, value.codes) if value.is_const else self._codes[name]

    def real_constant(self, name: str, data: Array, q: QParams | None, reader: Op) -> str:
        """A float tensor of constant `data`, coded by `q` if that is given, under names made from `name`."""
        if q is None:
            return self.constant(name, data.astype(np.float32))
        output = self.fresh(f"{name}/for/{reader.output}")
        if self.form.weight_codes or q.dtype == "int32":
            return self.dequantize(self.constant(name, q.quantize(data)), q, output)
        axis = {} if q.axis is None else {"axis": q.axis}
        codes = self.fresh(f"{name}/codes")
        self.node("QuantizeLinear", [self.constant(name, data), *self._parameters(codes, q)], codes, **axis)
        return self.dequantize(codes, q, output)

    # Writing a value -------------------------------------------------------------------------------------------------

    def moves_codes(self, op: Op) -> bool:
        """Whether `op` moves or clips numbers without computing, and does so on integer codes here."""
        q = self.graph.value(op.output).q
        same = all(self.graph.value(name).q == q for name in op.inputs)
        kind = op.kind in SAME_CODES or op.kind == "clip"
        return self.form.moves_codes and kind and q is not None and same

    def read(self, name: str, reader: Op) -> str:
        """Value `name` as `reader` wants it: codes if it only moves or clips them (so is its result), else a float."""
        return self.codes(name) if self.moves_codes(reader) else self.real(name, reader)

    def result(self, op: Op) -> str:
        """The name that the op's own result must have, to be passed to `finish`."""
        if self.moves_codes(op):
            return self._code_name(op.output)
        if self.graph.value(op.output).q is None:
            return op.output if _clip_of(op) == NO_CLIP else self.fresh(f"{op.output}/unclipped")
        return self.fresh(f"{op.output}/real") if op.output in self.graph.outputs else op.output

    def finish(self, op: Op, result: str) -> None:
        """Makes `result` the value of `op`: clips and quantises it as the graph says."""
        q, clip = self.graph.value(op.output).q, _clip_of(op)
        if q is None:
            self._real[op.output] = result if clip == NO_CLIP else self.clip_real(result, clip, op.output)
        elif self.moves_codes(op):
            self._codes[op.output] = result
        else:
            self._codes[op.output] = self.quantize_clipped(result, q, clip, self._code_name(op.output))

    def finish_moved(self, op: Op, real: str, move: str, *operands: str) -> None:
        """Makes the value of `op` from its unmoved result `real` by a node `move` (Flatten, Reshape).

        Codes are moved if the runtime can: it recognises an integer op by the QuantizeLinear right behind it.
        """
        q, clip = self.graph.value(op.output).q, _clip_of(op)
        if q is None or not self.form.moves_codes:
            self.finish(op, self.node(move, [real, *operands], self.result(op)))
            return
        codes = self.quantize_clipped(real, q, clip, self.fresh(f"{op.output}/unmoved"))
        self._codes[op.output] = self.node(move, [codes, *operands], self._code_name(op.output))

    def clip_real(self, real: str, clip: Clip, output: str) -> str:
        """A float tensor between the bounds of `clip`."""
        if clip == (0.0, None):
            return self.node("Relu", [real], output)
        bounds = [
            "" if bound is None else self.constant(f"{output}/{label}", np.asarray(bound, np.float32))
            for label, bound in zip(("low", "high"), clip, strict=True)
        ]
        return self.node("Clip", [real, *bounds], output)

    def clip_codes(self, codes: str, bounds: tuple[int, int], q: QParams, output: str) -> str:
        """Codes between two codes."""
        low, high = (
            self.constant(f"{output}/{label}", np.asarray(bound, q.dtype))
            for label, bound in zip(("low", "high"), bounds, strict=True)
        )
        return self.node("Clip", [codes, low, high], output)

    def quantize_clipped(self, real: str, q: QParams, clip: Clip, output: str) -> str:
        """Codes of a float tensor within a fused activation and the codes that `q` allows."""
        # Where the codes end at the bounds of the activation, saturation does its work and there is no node for it.
        if saturates(q, clip):
            return self.quantize(real, q, output)
        wide = self.quantize(real, q, self.fresh(f"{output}/unclipped"))
        return self.clip_codes(wide, code_bounds(q, clip), q, output)

    def _code_name(self, name: str) -> str:
        q = self.graph.value(name).q
        is_output = name in self.graph.outputs and q is not None and q.dtype == self.output_type
        return name if is_output else self.fresh(f"{name}/codes")

    # The ends of the graph -------------------------------------------------------------------------------------------

    def set_real(self, name: str, tensor: str) -> None:
        """Says which float tensor holds the input `name` of the graph."""
        self._real[name] = tensor

    def set_codes(self, name: str, tensor: str) -> None:
        """Says which tensor holds the codes of the input `name` of the graph."""
        self._codes[name] = tensor

    def real_output(self, name: str) -> str:
        """The float tensor of an output without quantisation parameters."""
        return self._real[name]


def code_bounds(q: QParams, clip: Clip) -> tuple[int, int]:
    """The lowest and highest code a value with parameters `q` takes under a fused activation `clip`."""
    low, high = (None if bound is None else int(q.quantize(np.asarray(bound))) for bound in clip)
    return q.qmin if low is None else low, q.qmax if high is None else high


def saturates(q: QParams, clip: Clip = NO_CLIP) -> bool:
    """Whether the codes that `q` and `clip` allow are all codes of the type, so that nothing has to clip them."""
    all_codes = np.iinfo(q.dtype)
    return code_bounds(q, clip) == (all_codes.min, all_codes.max)


def _clip_of(op: Op) -> Clip:
    clip: Clip = op.attrs.get("clip", NO_CLIP) if op.kind in CLIPPING else NO_CLIP
    return clip
