"""Small artifacts for tests of what runs and judges artifacts, written without the product's own emitters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

Options = schema.BuiltinOptions
Kind = schema.BuiltinOperator
TYPES = {"int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32, "float32": schema.TensorType.FLOAT32}


class TfliteWriter:
    """Tensors and operators of one subgraph, appended in order."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.description = 3, b"test"
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.name, self.graph.tensors, self.graph.operators = b"main", [], []
        self.rng = np.random.default_rng(0)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        scale: Any = None,
        zero: int = 0,
        data: Any = None,
        axis: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), list(shape), TYPES[dtype], 0
        tensor.hasRank = True
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.full(q.scale.shape, zero, np.int64)
            q.quantizedDimension = axis
            tensor.quantization = q
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(
        self,
        kind: int,
        inputs: list[int],
        output: int,
        options_type: int = 0,
        options: Any = None,
        version: int = 1,
    ) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), version
        self.model.operatorCodes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        if options is not None:
            op.builtinOptionsType, op.builtinOptions = options_type, options
        self.graph.operators.append(op)
        return output

    def conv(self, x: int, name: str, in_channels: int, out_channels: int, size: int, *, int8: bool = True) -> int:
        """A 1x1 convolution over `size` x `size`, all codes with scale 0.05."""
        shape = (out_channels, 1, 1, in_channels)
        if int8:
            scales = np.full(out_channels, 0.01)
            w = self.tensor(name + "_w", shape, "int8", scale=scales, data=self.rng.integers(-127, 128, shape))
            b = self.tensor(name + "_b", shape[:1], "int32", scale=scales * 0.05, data=np.zeros(out_channels))
            y = self.tensor(name, (1, size, size, out_channels), "int8", scale=0.05, zero=-3)
        else:
            w = self.tensor(name + "_w", shape, "float32", data=self.rng.standard_normal(shape))
            b = self.tensor(name + "_b", shape[:1], "float32", data=np.zeros(out_channels))
            y = self.tensor(name, (1, size, size, out_channels), "float32")
        options = schema.Conv2DOptionsT()
        options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
        return self.op(Kind.CONV_2D, [x, w, b], y, Options.Conv2DOptions, options, version=3 if int8 else 1)

    def add_metadata(self, name: str, text: bytes) -> None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(text, np.uint8)
        self.model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = name.encode(), len(self.model.buffers) - 1
        self.model.metadata = [*(self.model.metadata or []), entry]

    def save(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def tflite(path: Path, *, activation: str = "none", int8: bool = True, size: int = 8, channels: int = 16) -> Path:
    """conv -> activation -> conv on [1, size, size, channels].

    `activation`: `none`; `builtin` (int8 HARD_SWISH, which XNNPACK does not take); `table` (DEQUANTIZE -> HARD_SWISH
    -> QUANTIZE, which it collapses).
    """
    writer = TfliteWriter()
    shape = (1, size, size, channels)
    quantised: dict[str, Any] = {"scale": 0.05, "zero": -3} if int8 else {}
    dtype = "int8" if int8 else "float32"
    x = writer.tensor("x", shape, dtype, **quantised)
    y = writer.conv(x, "conv1", channels, channels, size, int8=int8)
    if activation == "builtin":
        y = writer.op(Kind.HARD_SWISH, [y], writer.tensor("act", shape, dtype, **quantised))
    elif activation == "table":
        real = writer.op(Kind.DEQUANTIZE, [y], writer.tensor("act_in", shape, "float32"), version=2)
        real = writer.op(Kind.HARD_SWISH, [real], writer.tensor("act_out", shape, "float32"))
        y = writer.op(Kind.QUANTIZE, [real], writer.tensor("act", shape, dtype, **quantised))
    y = writer.conv(y, "conv2", channels, channels, size, int8=int8)
    writer.add_metadata("labels", b"zero\none")
    return writer.save(path, [x], [y])


def onnx_float(path: Path, *, size: int = 8, channels: int = 16, batch: int | str = "N", inputs: int = 1) -> Path:
    """The sum of `inputs` inputs [batch, channels, size, size], then a 1x1 convolution, in float32."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels, 1, 1)).astype(np.float32)
    names = [f"x{i}" for i in range(inputs)]
    nodes = [helper.make_node("Sum", names, ["sum"]), helper.make_node("Conv", ["sum", "w"], ["y"], name="conv")]
    shape = [batch, channels, size, size]
    return _save_onnx(path, nodes, names, shape, [numpy_helper.from_array(weight, "w")])


def onnx_int8(path: Path, *, float_conv: bool = False, act: str = "uint8", size: int = 8, channels: int = 16) -> Path:
    """Q/DQ: conv 3x3, depthwise 3x3, conv 1x1 (in float if `float_conv`) on [N, 4, size, size]."""
    builder = _Qdq(act)
    y = builder.qdq("x", 0.02)
    y = builder.qdq(builder.conv(y, "conv1", 4, channels, 3), 0.02)
    y = builder.qdq(builder.conv(y, "depthwise", channels, channels, 3, groups=channels), 0.02)
    if float_conv:
        # A consumer that is not a convolution keeps the engine from quantising the float weights by itself.
        builder.nodes.append(helper.make_node("Sin", [y], ["sine"], name="sine"))
        builder.conv("sine", "conv2", channels, 32, 1, quantised=False)
        last = "conv2"
    else:
        last = builder.qdq(builder.conv(y, "conv2", channels, 32, 1), 0.02)
    builder.nodes.append(helper.make_node("Identity", [last], ["y"]))
    return _save_onnx(path, builder.nodes, ["x"], ["N", 4, size, size], builder.constants)


class _Qdq:
    def __init__(self, act: str) -> None:
        self.act, self.zero = act, 128 if act == "uint8" else 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.rng = np.random.default_rng(0)

    def constant(self, name: str, data: Any, dtype: str) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(data, dtype), name))
        return name

    def qdq(self, x: str, scale: float) -> str:
        s, z = self.constant(x + "_s", scale, "float32"), self.constant(x + "_z", self.zero, self.act)
        self.nodes.append(helper.make_node("QuantizeLinear", [x, s, z], [x + "_q"], name=x + "_q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [x + "_q", s, z], [x + "_dq"], name=x + "_dq"))
        return x + "_dq"

    def conv(
        self, x: str, name: str, in_channels: int, out_channels: int, k: int, *, groups: int = 1, quantised: bool = True
    ) -> str:
        shape = (out_channels, in_channels // groups, k, k)
        if quantised:
            w = self.constant(name + "_w", self.rng.integers(-127, 128, shape), "int8")
            s = self.constant(name + "_ws", np.full(out_channels, 0.01), "float32")
            z = self.constant(name + "_wz", np.zeros(out_channels), "int8")
            self.nodes.append(helper.make_node("DequantizeLinear", [w, s, z], [w + "d"], axis=0))
            w += "d"
        else:
            w = self.constant(name + "_w", self.rng.standard_normal(shape), "float32")
        self.nodes.append(helper.make_node("Conv", [x, w], [name], name=name, pads=[k // 2] * 4, group=groups))
        return name


def _save_onnx(path: Path, nodes: list[Any], inputs: list[str], shape: list[Any], constants: list[Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"labels": "zero\none"})
    onnx.save(model, str(path))
    return path
