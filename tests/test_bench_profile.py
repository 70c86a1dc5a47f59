"""Where the time goes: operators cut out of a .tflite file compute what they did in it, and profiles name them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from litert_runs import quantised

from edgecnn.__main__ import main
from edgecnn.bench.profile import op_of, profile, rows_of
from edgecnn.errors import InputError
from edgecnn.ir.text import parse
from edgecnn.targets import all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions
from edgecnn.targets.tflite_cut import singles

OUT = "(the runtime's own ReorderOutput)"
GRAPH = parse(
    """graph net(x: [N,16,28,28]) {
  large = conv(x, w1[64,16,3,3]) pad=(1,1,1,1)
  twice = add(large, large)
  small = conv(twice, w3[8,64,1,1])
  return small
}"""
)


def emitted(folder: Path, target: str) -> Path:
    graph = quantised(GRAPH) if target.endswith("int8") else GRAPH
    options = EmitOptions(input_type="int8" if target.endswith("int8") else "float32")
    path = folder / f"net{all_targets()[target].suffix}"
    path.write_bytes(all_targets()[target].emit(graph, options).data)
    return path


@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32", "tflite-fp16"])
def test_the_operators_one_after_the_other_compute_what_the_file_does(tmp_path: Path, target: str) -> None:
    if target not in all_targets():
        pytest.skip(f"there is no target {target}")
    path = emitted(tmp_path, target)
    with closing(open_session(path)) as session:
        rng = np.random.default_rng(0)
        spec = session.inputs[0]
        x = rng.integers(-128, 128, spec.shape).astype(spec.dtype) if spec.dtype == "int8" else None
        x = rng.standard_normal(spec.shape).astype(spec.dtype) if x is None else x
        expected = session.run([x])[0]
    found = list(singles(path))
    assert found[-1].name == "output"
    assert len(found) >= 3
    known = {spec.name: x}
    for i, one in enumerate(found):
        file = tmp_path / f"single{i}.tflite"
        file.write_bytes(one.data)
        with closing(open_session(file)) as session:
            known[session.outputs[0].name] = session.run([known[spec.name] for spec in session.inputs])[0]
    np.testing.assert_allclose(known["output"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["tflite-int8", "tflite-fp32", "onnx-int8", "onnx-fp32"])
def test_a_profile_names_the_graphs_operations(tmp_path: Path, target: str) -> None:
    found = profile(str(emitted(tmp_path, target)))
    times = {op: latency for op, _, latency in found.by_op()}
    last = "output" if target.startswith("tflite") else "small"
    assert {"large", "twice", last} <= set(times)
    assert set(times) - {"large", "twice", last} <= {"x", "(the runtime's own ReorderInput)", OUT}
    # 18 times the multiply-adds: no load of the machine turns that round.
    assert times["large"] > times[last]
    assert found.total_us == pytest.approx(sum(times.values()))
    assert found.to_json()["operators"][0]["latency_us"] >= 0


def test_a_chain_that_becomes_one_table_stays_together(tmp_path: Path) -> None:
    graph = quantised(parse("graph net(x: [N,8,8,8]) {\n  a = hard_swish(x)\n  b = add(a, x)\n  return b\n}"))
    path = tmp_path / "net.tflite"
    path.write_bytes(all_targets()["tflite-int8"].emit(graph, EmitOptions(input_type="int8")).data)
    assert [one.kind for one in singles(path)] == ["DEQUANTIZE HARD_SWISH QUANTIZE", "ADD"]


def test_names_of_other_tools_are_left_alone() -> None:
    assert op_of("features.0.1/stem_rows") == "features.0.1"
    assert op_of("/features/conv") == "/features/conv"
    assert op_of("conv1_nchwc") == "conv1"
    rows = rows_of([("a", "Add", 1.0), ("x/for/a_2", "DequantizeLinear", 1.0), ("b_2", "Mul", 1.0)])
    assert [row.op for row in rows] == ["a", "a", "b_2"]


def test_bench_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_models.tflite(tmp_path / "net.tflite", activation="builtin")
    assert main(["bench", str(path), "--blocks", "6", "--min-seconds", "0.06", "--profile"]) == 0
    out = capsys.readouterr()
    assert "CONV_2D" in out.out
    assert "each operator alone in LiteRT" in out.err
    assert main(["bench", str(path), "--profile", "--sustained", "10s"]) == 2
    (tmp_path / "no.tflite").write_bytes(b"nothing at all")
    with pytest.raises(InputError, match="is not a TFLite model"):
        list(singles(tmp_path / "no.tflite"))
