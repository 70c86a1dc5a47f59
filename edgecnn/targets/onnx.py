"""The ONNX emitter: a graph, quantised or not, to the bytes of a model that integer runtimes recognise.

Quantised values appear as QuantizeLinear and DequantizeLinear around float operators (QDQ), weights as int8 and biases
as int32 initialisers. What differs between the runtimes that read this is a `Form`.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from edgecnn import __version__
from edgecnn.errors import UnsupportedOp, UsageError
from edgecnn.ir.graph import Graph, Note, Op, QParams, Value
from edgecnn.ir.ops import NO_CLIP
from edgecnn.targets.onnx_ops import FLOAT_KINDS, LOWER
from edgecnn.targets.onnx_writer import PLAIN, Form, Writer, saturates
from edgecnn.targets.target import EmitOptions, Emitted

OPSET, IR_VERSION = 17, 8
"""The lowest that serve: HardSwish needs 14, per-channel DequantizeLinear 13; TensorRT 8 reads up to 17."""

NEWER = {"deform_conv": (19, 9)}
"""Kinds that need a newer operator set and version of the format."""

_ELEMENT = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def emit(graph: Graph, options: EmitOptions, *, form: Form = PLAIN) -> Emitted:
    """The ONNX model of `graph`; the same arguments give the same bytes.

    Inputs and outputs keep their names and the layout NCHW. With `input_type` float32 they are real numbers; with int8
    or uint8, quantised ones are codes, whose scale and zero point stand in the model's metadata as
    `edgecnn.quantization.NAME` = `SCALE ZERO_POINT`.

    Args:
        graph: a graph after the target's passes; quantised where its values have parameters.
        options: batch, input type and metadata.
        form: what the runtime that will read the model wants.

    Raises:
        UnsupportedOp: an op has no lowering.
        UsageError: codes are asked for at an input of a graph that is not quantised.
    """
    coded = options.input_type != "float32"
    if coded and any(graph.value(name).q is None for name in graph.inputs):
        raise UsageError(
            f"the input of a float model cannot be {options.input_type}",
            expected="float32",
            got=options.input_type,
            do="leave out --input-type, or choose a quantised target",
        )
    w = Writer(graph, form=form, batch=options.batch, output_type=options.input_type)
    ends = _Ends(w, options)
    inputs = [ends.open(graph.value(name)) for name in graph.inputs]
    for op in graph.ops:
        _lower(w, op)
    outputs = [ends.close(graph.value(name)) for name in graph.outputs]
    known = helper.make_graph(
        w.nodes, graph.name, inputs, outputs, list(w.initializers.values()), value_info=_value_info(w)
    )
    opset, ir_version = max((NEWER[op.kind] for op in graph.ops if op.kind in NEWER), default=(OPSET, IR_VERSION))
    model = helper.make_model(
        known, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="edgecnn"
    )
    model.producer_version = __version__
    helper.set_model_props(model, dict(sorted({**ends.quantization, **options.metadata}.items())))
    return Emitted(model.SerializeToString(deterministic=True), tuple(w.notes))


def _lower(w: Writer, op: Op) -> None:
    if op.kind not in LOWER:
        raise UnsupportedOp(
            f"onnx cannot lower `{op.kind}`",
            where=str(op.source),
            expected="one of " + ", ".join(sorted(LOWER)),
            do="replace the op in the net, or add a rule to edgecnn/targets/onnx_ops.py",
        )
    q = w.graph.value(op.output).q
    if q is not None and op.kind in FLOAT_KINDS:
        w.notes.append(Note("float", op.name, False, FLOAT_KINDS[op.kind]))
    elif q is None and any(w.graph.value(name).q is not None for name in w.graph.activations(op)):
        w.notes.append(Note("float", op.name, False, "its output has no quantisation parameters"))
    LOWER[op.kind](w, op)


class _Ends:
    """Inputs and outputs of the model: real numbers or codes, as the caller wants them."""

    def __init__(self, writer: Writer, options: EmitOptions) -> None:
        self.writer, self.options = writer, options
        self.quantization: dict[str, str] = {}

    def open(self, value: Value) -> onnx.ValueInfoProto:
        """Declares an input and says where its numbers are."""
        w = self.writer
        if value.q is None:
            w.set_real(value.name, value.name)
            return self._declare(value, "float32")
        if self.options.input_type == "float32":
            w.set_codes(value.name, w.quantize_clipped(value.name, value.q, NO_CLIP, w.fresh(f"{value.name}/codes")))
            return self._declare(value, "float32")
        outside = value.q.recoded(self.options.input_type)
        codes = value.name
        if outside.dtype != value.q.dtype:
            codes = self._recoded(value.name, outside, value.q, w.fresh(f"{value.name}/codes"))
        if not saturates(value.q):  # fewer bits are simulated, and the caller may not know
            codes = w.clip_codes(codes, (value.q.qmin, value.q.qmax), value.q, w.fresh(f"{value.name}/within"))
        w.set_codes(value.name, codes)
        return self._declare_codes(value, outside)

    def close(self, value: Value) -> onnx.ValueInfoProto:
        """Declares an output and makes it from the value's numbers."""
        w = self.writer
        if value.q is None:
            return self._declare(value, "float32")
        codes = w.codes(value.name)
        if self.options.input_type == "float32":
            w.dequantize(codes, value.q, value.name)
            return self._declare(value, "float32")
        outside = value.q.recoded(self.options.input_type)
        if outside.dtype != value.q.dtype:
            self._recoded(codes, value.q, outside, value.name)
        return self._declare_codes(value, outside)

    def _recoded(self, codes: str, old: QParams, new: QParams, output: str) -> str:
        # Exact: (code - zero) * scale / scale is the integer again to within 2^-22, and rounding restores it.
        w = self.writer
        w.notes.append(Note("recode", output, True, f"{old.dtype} to {new.dtype}, by way of real numbers"))
        return w.quantize(w.dequantize(codes, old, w.fresh(f"{codes}/real")), new, output)

    def _declare(self, value: Value, element: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(value.name, _ELEMENT[element], self.writer.shape(value.name))

    def _declare_codes(self, value: Value, q: QParams) -> onnx.ValueInfoProto:
        self.quantization[f"edgecnn.quantization.{value.name}"] = f"{float(q.scale)!r} {int(q.zero_point)}"
        return self._declare(value, q.dtype)


def _value_info(w: Writer) -> list[onnx.ValueInfoProto]:
    """Shapes of the float tensors that carry the graph's own names, for those who read the model."""
    ends = {*w.graph.inputs, *w.graph.outputs}
    made = {name for node in w.nodes for name in node.output}
    return [
        helper.make_tensor_value_info(op.output, TensorProto.FLOAT, w.shape(op.output))
        for op in w.graph.ops
        if op.output in made and op.output not in ends
    ]
