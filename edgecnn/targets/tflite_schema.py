"""The slice of TFLite's `schema.fbs` that we write, as data: tables with their slots, operators, enumerations.

Numbers are positions in the published schema and never change (FlatBuffers only ever appends); a test compares each of
them with the schema module that LiteRT ships.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

from dataclasses import dataclass

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

# A table is its fields in slot order, as `name:type`; `?` is a slot that we never write. `[t]` is a vector of t,
# `union` takes two slots (which table, and the table), `bytes` is a blob aligned to 16 bytes, as XNNPACK wants it.
TABLES: dict[str, str] = {
    "Model": (
        "version:u32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:str buffers:[Buffer] ? "
        "metadata:[Metadata] signature_defs:[SignatureDef]"
    ),
    "OperatorCode": "deprecated_builtin_code:i8 custom_code:str version:i32 builtin_code:i32",
    "SubGraph": "tensors:[Tensor] inputs:[i32] outputs:[i32] operators:[Operator] name:str",
    "Tensor": "shape:[i32] type:i8 buffer:u32 name:str quantization:QuantizationParameters ? ? ? has_rank:bool",
    "QuantizationParameters": "? ? scale:[f32] zero_point:[i64] ? ? quantized_dimension:i32",
    "Operator": "opcode_index:u32 inputs:[i32] outputs:[i32] builtin_options:union",
    "Buffer": "data:bytes",
    "Metadata": "name:str buffer:u32",
    "SignatureDef": "inputs:[TensorMap] outputs:[TensorMap] signature_key:str ? subgraph_index:u32",
    "TensorMap": "name:str tensor_index:u32",
    "AddOptions": "fused_activation_function:i8 pot_scale_int16:bool",
    "BatchMatMulOptions": "adj_x:bool adj_y:bool",
    "CastOptions": "in_data_type:i8 out_data_type:i8",
    "ConcatenationOptions": "axis:i32 fused_activation_function:i8",
    "Conv2DOptions": (
        "padding:i8 stride_w:i32 stride_h:i32 fused_activation_function:i8 dilation_w_factor:i32 dilation_h_factor:i32"
    ),
    "DepthwiseConv2DOptions": (
        "padding:i8 stride_w:i32 stride_h:i32 depth_multiplier:i32 fused_activation_function:i8 "
        "dilation_w_factor:i32 dilation_h_factor:i32"
    ),
    "DequantizeOptions": "",
    "DivOptions": "fused_activation_function:i8",
    "ExpOptions": "",
    "GatherOptions": "axis:i32 batch_dims:i32",
    "GeluOptions": "approximate:bool",
    "HardSwishOptions": "",
    "LeakyReluOptions": "alpha:f32",
    "MaximumMinimumOptions": "",
    "MulOptions": "fused_activation_function:i8",
    "PadOptions": "",
    "Pool2DOptions": (
        "padding:i8 stride_w:i32 stride_h:i32 filter_width:i32 filter_height:i32 fused_activation_function:i8"
    ),
    "QuantizeOptions": "",
    "ReducerOptions": "keep_dims:bool",
    "ReshapeOptions": "new_shape:[i32]",
    "SliceOptions": "",
    "SoftmaxOptions": "beta:f32",
    "SubOptions": "fused_activation_function:i8 pot_scale_int16:bool",
    "TransposeOptions": "",
}


@dataclass(frozen=True)
class Builtin:
    """A built-in operator.

    Args:
        code: its number in `BuiltinOperator`.
        options: the table of its options, "" for none.
        tag: the number of that table in the union `BuiltinOptions`.
        version_f32: the version the runtime knows for float tensors.
        version_int8: the version from which on int8 tensors are legal.
        version_int16: the version from which on coded int16 tensors are legal, with any scales.
    """

    code: int
    options: str
    tag: int
    version_f32: int = 1
    version_int8: int = 2
    version_int16: int = 3


BUILTINS: dict[str, Builtin] = {
    "ADD": Builtin(0, "AddOptions", 11, version_int16=3),
    "AVERAGE_POOL_2D": Builtin(1, "Pool2DOptions", 5),
    "BATCH_MATMUL": Builtin(126, "BatchMatMulOptions", 101),
    "CAST": Builtin(53, "CastOptions", 37),
    "CONCATENATION": Builtin(2, "ConcatenationOptions", 10),
    "CONV_2D": Builtin(3, "Conv2DOptions", 1, version_int8=3, version_int16=4),
    "DEPTHWISE_CONV_2D": Builtin(4, "DepthwiseConv2DOptions", 2, version_int8=3, version_int16=5),
    "DEQUANTIZE": Builtin(6, "DequantizeOptions", 38),
    "DIV": Builtin(42, "DivOptions", 29),
    "EXP": Builtin(47, "ExpOptions", 33),
    "FLOOR": Builtin(8, "", 0),
    "GATHER": Builtin(36, "GatherOptions", 23),
    "GELU": Builtin(150, "GeluOptions", 116),
    "HARD_SWISH": Builtin(117, "HardSwishOptions", 91),
    "LEAKY_RELU": Builtin(98, "LeakyReluOptions", 75),
    "LOG": Builtin(73, "", 0),
    "LOGISTIC": Builtin(14, "", 0),
    "MAXIMUM": Builtin(55, "MaximumMinimumOptions", 39),
    "MAX_POOL_2D": Builtin(17, "Pool2DOptions", 5),
    "MEAN": Builtin(40, "ReducerOptions", 27),
    "MINIMUM": Builtin(57, "MaximumMinimumOptions", 39),
    "MUL": Builtin(18, "MulOptions", 21, version_int16=4),
    "PAD": Builtin(34, "PadOptions", 22),
    "QUANTIZE": Builtin(114, "QuantizeOptions", 89),
    "RELU": Builtin(19, "", 0),
    "RELU6": Builtin(21, "", 0),
    "RESHAPE": Builtin(22, "ReshapeOptions", 17, version_int8=1, version_int16=1),
    "SLICE": Builtin(65, "SliceOptions", 48, version_int16=4),
    "SOFTMAX": Builtin(25, "SoftmaxOptions", 9),
    "SUB": Builtin(41, "SubOptions", 28, version_int16=5),
    "TANH": Builtin(28, "", 0),
    "TRANSPOSE": Builtin(39, "TransposeOptions", 26, version_int16=4),
}

TENSOR_TYPES: dict[str, int] = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9}
PADDINGS: dict[str, int] = {"SAME": 0, "VALID": 1}
ACTIVATIONS: dict[str, int] = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
