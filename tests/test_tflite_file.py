"""The FlatBuffer writer: its schema is LiteRT's, its bytes are deterministic, its weights aligned."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgecnn.ir.graph import QParams
from edgecnn.targets.tflite_file import Model, Operator, Tensor, serialize
from edgecnn.targets.tflite_schema import (
    ACTIVATIONS,
    BUILTINS,
    FILE_IDENTIFIER,
    PADDINGS,
    TABLES,
    TENSOR_TYPES,
)


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda m: m[1].upper(), name)


def official_slots(table: str) -> dict[str, int]:
    """Field name to slot, read from the accessors of the generated module: slot i is at offset 4 + 2 * i."""
    found = {}
    for name, method in vars(getattr(schema, table)).items():
        if not name[0].isupper() or not callable(method):
            continue
        offsets = [c for c in method.__code__.co_consts if isinstance(c, int) and c >= 4 and c % 2 == 0]
        if offsets and not name.endswith(("AsNumpy", "Length", "IsNone")):
            found[name[0].lower() + name[1:]] = (offsets[0] - 4) // 2
    return found


@pytest.mark.parametrize("table", TABLES)
def test_every_field_is_in_the_slot_that_the_official_schema_gives_it(table: str) -> None:
    official = official_slots(table)
    slot = 0
    for entry in TABLES[table].split():
        name, _, kind = entry.partition(":")
        if kind == "union":
            assert official[camel(name) + "Type"] == slot
            slot += 1
        if kind:
            assert official[camel(name)] == slot
        slot += 1


def test_every_number_is_that_of_the_official_schema() -> None:
    for name, builtin in BUILTINS.items():
        assert builtin.code == getattr(schema.BuiltinOperator, name)
        assert builtin.tag == getattr(schema.BuiltinOptions, builtin.options or "NONE")
        assert not builtin.options or builtin.options in TABLES
    for numbers, enum in ((PADDINGS, schema.Padding), (ACTIVATIONS, schema.ActivationFunctionType)):
        assert all(number == getattr(enum, name) for name, number in numbers.items())
    assert all(number == getattr(schema.TensorType, name.upper()) for name, number in TENSOR_TYPES.items())


def small_model() -> Model:
    q = QParams.per_tensor(0.5, 3)
    per_channel = QParams(np.float32([0.1, 0.2]), np.int32([0, 0]), "int8", 0, -127)
    x, y = Tensor("x", (1, 4, 4, 3), "int8", q), Tensor("y", (1, 4, 4, 2), "int8", q)
    weight = Tensor("w", (2, 1, 1, 3), "int8", per_channel, np.arange(6, dtype=np.int8).reshape(2, 1, 1, 3))
    bias = Tensor("b", (2,), "int32", None, np.int32([7, -7]))
    unread = Tensor("unread", (1, 4, 4, 3), "int8", q)
    options = {"padding": 1, "stride_h": 1, "stride_w": 2, "dilation_h_factor": 1, "dilation_w_factor": 1}
    operators = (
        Operator("PAD", (x, Tensor("pads", (4, 2), "int32", None, np.zeros((4, 2), np.int32))), unread, 2),
        Operator("CONV_2D", (x, weight, bias), y, 3, {**options, "fused_activation_function": 3}),
    )
    return Model("small", operators, {"input": x}, {"output": y}, {"edgecnn": b'{"a": 1}'})


def read(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0)


def test_the_official_reader_finds_everything_that_was_written() -> None:
    model = read(serialize(small_model()))
    graph = model.subgraphs[0]
    (operator,) = graph.operators  # the PAD, which nobody reads, is left out
    tensors = {t.name.decode(): t for t in graph.tensors}
    assert set(tensors) == {"input", "w", "b", "output"}
    assert model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.CONV_2D
    assert model.operatorCodes[operator.opcodeIndex].version == 3
    options = operator.builtinOptions
    assert (options.padding, options.strideH, options.strideW, options.fusedActivationFunction) == (1, 1, 2, 3)
    weight = tensors["w"]
    assert bytes(model.buffers[weight.buffer].data) == bytes(range(6))
    assert weight.quantization.scale.tolist() == np.float32([0.1, 0.2]).tolist()
    assert weight.quantization.quantizedDimension == 0
    assert tensors["input"].quantization.zeroPoint.tolist() == [3]
    assert tensors["input"].shape.tolist() == [1, 4, 4, 3]
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [(i.name, i.tensorIndex) for i in signature.inputs] == [(b"input", graph.inputs.tolist()[0])]
    (entry,) = model.metadata
    assert (entry.name, bytes(model.buffers[entry.buffer].data)) == (b"edgecnn", b'{"a": 1}')


def test_the_same_model_gives_the_same_bytes() -> None:
    assert serialize(small_model()) == serialize(small_model())


def test_the_file_says_what_it_is_and_aligns_constants_to_16_bytes() -> None:
    data = serialize(small_model())
    assert data[4:8] == FILE_IDENTIFIER
    for content in (bytes(range(6)), np.int32([7, -7]).tobytes()):
        assert data.index(content) % 16 == 0


def test_equal_small_constants_are_stored_once() -> None:
    x = Tensor("x", (2, 2), "float32")
    sizes = [Tensor(name, (2,), "int32", None, np.int32([4, 1])) for name in ("s", "t")]
    mid, y = Tensor("m", (4, 1), "float32"), Tensor("y", (4, 1), "float32")
    operators = tuple(
        Operator("RESHAPE", (a, s), b, 1, {"new_shape": (4, 1)}) for a, s, b in ((x, sizes[0], mid), (mid, sizes[1], y))
    )
    model = read(serialize(Model("twice", operators, {"input": x}, {"output": y})))
    assert len(model.buffers) == 2  # the empty one and the shape
    assert len(model.subgraphs[0].tensors) == 5


def test_an_option_that_the_table_does_not_have_is_refused() -> None:
    model = small_model()
    wrong = Operator("CONV_2D", model.operators[1].inputs, model.operators[1].output, 3, {"stride": 1})
    with pytest.raises(KeyError, match=r"Conv2DOptions has no field \['stride'\]"):
        serialize(replace(model, operators=(wrong,)))
