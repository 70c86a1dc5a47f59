"""Coverage: what the runtimes really do with artifacts whose answer is known, and the gate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import TensorProto, helper, numpy_helper

from edgecnn.coverage import Coverage, coverage_of, gate
from edgecnn.errors import CheckFailed, InputError
from edgecnn.runtime.litert import LitertSession, TfliteOp
from edgecnn.targets import onnx_inspect, tflite_inspect
from edgecnn.targets.executed import ExecutedOp, Execution

CONV_MACS = 8 * 8 * 16 * 16


@pytest.mark.parametrize("activation", ["none", "table"])
def test_int8_tflite_in_one_partition_is_covered(tmp_path: Path, activation: str) -> None:
    found = coverage_of(tiny_models.tflite(tmp_path / "net.tflite", activation=activation))
    assert (found.precision, found.partitions, found.macs) == ("int8", 1, 2 * CONV_MACS)
    assert found.macs_share == found.ops_share == found.int8_share == 1.0
    assert found.outside == found.borders == ()
    gate(found, threshold=1.0)


def test_int8_hard_swish_cuts_the_net(tmp_path: Path) -> None:
    found = coverage_of(tiny_models.tflite(tmp_path / "net.tflite", activation="builtin"))
    assert (found.partitions, found.macs_share) == (2, 1.0)
    assert found.ops_share == pytest.approx(2 / 3, rel=1e-15)
    (op,) = found.outside
    assert (op.name, op.kind, op.codes) == ("act", "HARD_SWISH", True)
    assert op.reason == "XNNPACK has no int8 HARD_SWISH; DEQUANTIZE, HARD_SWISH, QUANTIZE becomes one table"


def test_float_tflite_is_covered_by_the_delegate(tmp_path: Path) -> None:
    found = coverage_of(tiny_models.tflite(tmp_path / "net.tflite", int8=False))
    assert (found.precision, found.macs_share, found.int8_share, found.partitions) == ("float", 1.0, 0.0, 1)


def test_a_float_island_in_an_int8_net_is_outside_though_delegated(tmp_path: Path) -> None:
    """conv int8, DEQUANTIZE, conv float, QUANTIZE: XNNPACK takes all of it, but half of it in float32."""
    writer = tiny_models.TfliteWriter()
    x = writer.tensor("x", (1, 8, 8, 16), "int8", scale=0.05, zero=-3)
    y = writer.conv(x, "conv1", 16, 16, 8)
    real = writer.op(tiny_models.Kind.DEQUANTIZE, [y], writer.tensor("real", (1, 8, 8, 16), "float32"), version=2)
    real = writer.conv(real, "island", 16, 16, 8, int8=False)
    y = writer.op(tiny_models.Kind.QUANTIZE, [real], writer.tensor("y", (1, 8, 8, 16), "int8", scale=0.05, zero=-3))
    y = writer.conv(y, "conv2", 16, 16, 8)
    found = coverage_of(writer.save(tmp_path / "net.tflite", [x], [y]))
    assert [op.name for op in found.outside] == ["real", "island", "y"]
    assert {op.reason for op in found.outside} == {"XNNPACK computes it in float32"}
    assert found.macs_share == pytest.approx(2 / 3, rel=1e-15)


def test_conversions_at_the_borders_are_listed_but_no_miss(tmp_path: Path) -> None:
    writer = tiny_models.TfliteWriter()
    x = writer.tensor("x", (1, 8, 8, 16), "float32")
    codes = writer.tensor("codes", (1, 8, 8, 16), "int8", scale=0.05, zero=-3)
    y = writer.conv(writer.op(tiny_models.Kind.QUANTIZE, [x], codes), "conv", 16, 16, 8)
    y = writer.op(tiny_models.Kind.DEQUANTIZE, [y], writer.tensor("y", (1, 8, 8, 16), "float32"), version=2)
    found = coverage_of(writer.save(tmp_path / "net.tflite", [x], [y]))
    assert [op.name for op in found.borders] == ["codes", "y"]
    assert found.ops_share == 1.0
    assert found.to_json()["borders"] == ["codes (QUANTIZE)", "y (DEQUANTIZE)"]


def test_a_scale_that_xnnpack_refuses_is_named(tmp_path: Path) -> None:
    """ADD with an input scale 2^9 times its output scale: XNNPACK takes less than 2^8."""
    writer = tiny_models.TfliteWriter()
    x = writer.tensor("x", (1, 8, 8, 16), "int8", scale=512.0)
    options = tiny_models.schema.AddOptionsT()
    out = writer.tensor("sum", (1, 8, 8, 16), "int8", scale=1.0)
    writer.op(tiny_models.Kind.ADD, [x, x], out, tiny_models.Options.AddOptions, options, version=2)
    y = writer.conv(out, "conv", 16, 16, 8)
    found = coverage_of(writer.save(tmp_path / "net.tflite", [x], [y]))
    (op,) = found.outside
    assert op.reason == "its input scale over its output scale is 512; XNNPACK takes 2^-10 up to 2^8"


def test_a_runtime_without_int8_kernels_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tflite-runtime 2.14 delegates float operators only: as if no operator of this file had a partition."""
    ops = LitertSession.ops

    def undelegated(session: LitertSession) -> list[TfliteOp]:
        return [TfliteOp(op.kind, op.inputs, op.outputs, None) for op in ops(session)]

    monkeypatch.setattr(LitertSession, "ops", undelegated)
    found = coverage_of(tiny_models.tflite(tmp_path / "net.tflite"))
    assert (found.macs_share, found.ops_share, found.partitions) == (0.0, 0.0, 0)
    assert {op.reason for op in found.outside} == {
        "this runtime's XNNPACK takes no int8 operator at all; use ai-edge-litert"
    }


def test_a_table_needs_its_three_operators_in_one_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tflite-runtime 2.14 takes the float HARD_SWISH alone: no table then, but float arithmetic."""
    ops = LitertSession.ops

    def only_float(session: LitertSession) -> list[TfliteOp]:
        return [TfliteOp(o.kind, o.inputs, o.outputs, 0 if o.kind == "HARD_SWISH" else None) for o in ops(session)]

    monkeypatch.setattr(LitertSession, "ops", only_float)
    found = coverage_of(tiny_models.tflite(tmp_path / "net.tflite", activation="table"))
    reasons = {op.kind: op.reason for op in found.outside}
    assert reasons["HARD_SWISH"] == "XNNPACK computes it in float32"
    assert found.ops_share == 0.0


def test_macs_of_other_tflite_operators() -> None:
    shapes = {
        0: (1, 8, 8, 4),
        1: (1, 3, 3, 8),
        2: (1, 8, 8, 8),
        3: (1, 32),
        4: (10, 32),
        5: (1, 10),
        6: (4,),
        7: (6, 3, 3, 4),
        8: (1, 16, 16, 6),
        9: (1, 5, 7),
        10: (1, 7, 9),
        11: (1, 5, 9),
    }
    tensors = {i: tflite_inspect.TfliteTensor(str(i), shape, "int8", (1.0,)) for i, shape in shapes.items()}
    file = tflite_inspect._File([], tensors, {}, {}, frozenset(), frozenset())

    def macs(kind: str, inputs: tuple[int, ...], output: int) -> int:
        return tflite_inspect._macs(file, TfliteOp(kind, inputs, (output,), None))

    assert macs("DEPTHWISE_CONV_2D", (0, 1), 2) == 8 * 8 * 8 * 9
    assert macs("FULLY_CONNECTED", (3, 4), 5) == 320
    # Each of the 8x8x4 inputs meets 3x3 taps of 6 output channels.
    assert macs("TRANSPOSE_CONV", (6, 7, 0), 8) == 8 * 8 * 4 * 9 * 6
    assert macs("BATCH_MATMUL", (9, 10), 11) == 5 * 9 * 7
    assert macs("ADD", (0, 0), 0) == 0


def test_int8_onnx_is_covered(tmp_path: Path) -> None:
    found = coverage_of(tiny_models.onnx_int8(tmp_path / "net.onnx"))
    assert (found.precision, found.partitions) == ("int8", None)
    assert found.macs == 64 * (16 * 4 * 9 + 16 * 9 + 32 * 16)
    assert found.macs_share == found.ops_share == found.int8_share == 1.0
    assert [op.kind for op in found.borders] == ["QuantizeLinear", "DequantizeLinear"]
    assert [op.name for op in found.execution.ops if op.macs] == ["conv1", "depthwise", "conv2"]


def test_float_onnx_is_covered_by_definition(tmp_path: Path) -> None:
    found = coverage_of(tiny_models.onnx_float(tmp_path / "net.onnx"))
    assert (found.precision, found.macs, found.macs_share, found.int8_share) == ("float", CONV_MACS, 1.0, 0.0)


def test_the_gate_names_the_float_remainder(tmp_path: Path) -> None:
    path = tiny_models.onnx_int8(tmp_path / "net.onnx", float_conv=True)
    found = coverage_of(path)
    int8_macs, float_macs = 64 * (16 * 4 * 9 + 16 * 9), 64 * 32 * 16
    assert found.macs_share == pytest.approx(int8_macs / (int8_macs + float_macs), rel=1e-15)
    gate(found, threshold=0.5)
    with pytest.raises(CheckFailed) as caught:
        gate(found, threshold=0.9, limit=2)
    assert str(caught.value) == (
        f"CheckFailed: only 58.4% of the multiply-adds run in the int8 path of {found.execution.engine}\n"
        f"  at       {path}\n"
        "  expected at least 90.0%\n"
        "  got      y (Conv): computed in float32: it has no Q/DQ on some input or output, "
        "or the engine did not fuse them\n"
        "           depthwise_dq (DequantizeLinear): converts between codes and float32 in the middle of the net\n"
        "           and 2 more\n"
        "  do       choose another activation or target, update the runtime, or lower the threshold with --min-coverage"
    )


def test_depthwise_channels_that_miss_the_fast_kernel_are_remarked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_inspect, "kind_of", lambda facts: "x86-amx")
    fine = coverage_of(tiny_models.onnx_int8(tmp_path / "fine.onnx"))
    assert fine.execution.remarks == ()
    odd = coverage_of(tiny_models.onnx_int8(tmp_path / "odd.onnx", channels=24))
    assert odd.execution.remarks == (
        "`depthwise`: a depthwise convolution of 24 channels misses the fast kernel, which takes multiples of 16",
    )
    assert odd.macs_share == 1.0


def test_looking_changes_neither_the_file_nor_its_folder(tmp_path: Path) -> None:
    path = tiny_models.onnx_int8(tmp_path / "net.onnx")
    before = path.read_bytes()
    coverage_of(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01garbage")
    with pytest.raises(InputError, match=r"`bad\.onnx` is damaged or no ONNX model"):
        coverage_of(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match="no engine runs"):
        coverage_of(tmp_path / "net.bin")


def test_a_model_whose_free_sizes_cannot_be_one(tmp_path: Path) -> None:
    """Height and width are free and the net flattens them into a fixed number of features."""
    weight = numpy_helper.from_array(np.zeros((12, 2), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "test", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    with pytest.raises(InputError) as caught:
        coverage_of(tmp_path / "n.onnx")
    assert caught.value.what.startswith("ONNX Runtime failed: ")
    assert caught.value.do == "free input sizes are taken as 1; if the model needs more, fix them when you export it"


def test_shares_of_an_artifact_without_multiply_adds() -> None:
    nothing = Coverage("x", Execution("any", "float", ()))
    assert (nothing.macs_share, nothing.ops_share, nothing.int8_share) == (1.0, 1.0, 0.0)
    json.dumps(nothing.to_json(), allow_nan=False)


def test_the_worst_come_first_in_the_gate() -> None:
    ops = tuple(ExecutedOp(f"op{n}", "Conv", n, False, "outside", "why") for n in np.arange(1, 4).tolist())
    with pytest.raises(CheckFailed) as caught:
        gate(Coverage("x", Execution("any", "int8", ops)))
    assert caught.value.got == "op3 (Conv): why\nop2 (Conv): why\nop1 (Conv): why"
