"""Sessions: what an artifact says about itself, what it computes, and every way it can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from onnx import numpy_helper

from edgecnn.errors import EdgecnnError, EnvironmentFailure, InputError, UsageError
from edgecnn.runtime import litert, ort
from edgecnn.runtime.errors import BadArtifact, BadRequest, EngineMissing, RuntimeProblem, from_json
from edgecnn.runtime.session import open_session
from edgecnn.runtime.tensor import TensorSpec, random_arrays
from edgecnn.targets import engine as host

Maker = Callable[[Path], Path]


def test_tflite_tells_types_codes_and_metadata(tmp_path: Path) -> None:
    with closing(open_session(str(tiny_models.tflite(tmp_path / "net.tflite")))) as session:
        (x,), (y,) = session.inputs, session.outputs
        assert (x.name, x.shape, x.dtype, x.zero_point) == ("x", (1, 8, 8, 16), "int8", -3)
        assert x.scale == pytest.approx(0.05, rel=1e-7)  # float32 has 24 bits
        assert y.name == "conv2"
        assert session.metadata == {"labels": "zero\none"}
        assert session.engine["name"] == "ai-edge-litert"


def test_onnx_computes_what_it_says(tmp_path: Path) -> None:
    path = tiny_models.onnx_float(tmp_path / "net.onnx", inputs=2)
    weight = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])[:, :, 0, 0]
    with closing(open_session(str(path))) as session:
        a, b = random_arrays(session.inputs, seed=3)
        (y,) = session.run([a, b])
        assert session.metadata == {"labels": "zero\none"}
    expected = np.einsum("oc,nchw->nohw", weight.astype(np.float64), (a + b).astype(np.float64))
    # 16 float32 products summed: 16 roundings of 2^-24 of the sum of magnitudes, on both sides of it.
    magnitude = np.einsum("oc,nchw->nohw", abs(weight), abs(a + b))
    assert np.all(abs(y - expected) <= 32 * 2.0**-24 * magnitude)


def test_free_batch_is_one_but_accepts_more(tmp_path: Path) -> None:
    with closing(open_session(str(tiny_models.onnx_float(tmp_path / "net.onnx")))) as session:
        assert session.inputs[0].shape == (1, 16, 8, 8)
        one, three = np.ones((1, 16, 8, 8), np.float32), np.ones((3, 16, 8, 8), np.float32)
        assert np.array_equal(session.run([three])[0][:1], session.run([one])[0])


def test_shapes_can_be_chosen_where_the_file_leaves_them_free(tmp_path: Path) -> None:
    path = str(tiny_models.onnx_float(tmp_path / "net.onnx"))
    with closing(open_session(path, shapes={"x0": (4, 16, 8, 8)})) as session:
        assert session.inputs[0].shape == (4, 16, 8, 8)
    with pytest.raises(BadRequest, match=r"input `x0` has shape \['N', 16, 8, 8\], not \[1, 3, 8, 8\]"):
        open_session(path, shapes={"x0": (1, 3, 8, 8)})


@pytest.mark.parametrize("make", [tiny_models.tflite, tiny_models.onnx_int8])
def test_wrong_arrays_are_refused_not_converted(tmp_path: Path, make: Maker) -> None:
    path = make(tmp_path / ("net.tflite" if make is tiny_models.tflite else "net.onnx"))
    with closing(open_session(str(path))) as session:
        spec = session.inputs[0]
        with pytest.raises(BadRequest, match=f"input `x` takes {spec.dtype} of shape .*, not float64 of shape"):
            session.set_inputs([np.zeros(spec.shape, np.float64)])
        with pytest.raises(BadRequest, match="0 arrays for 1 inputs"):
            session.set_inputs([])


@pytest.mark.parametrize("make", [tiny_models.tflite, tiny_models.onnx_int8])
def test_outputs_do_not_change_with_the_next_inference(tmp_path: Path, make: Maker) -> None:
    path = make(tmp_path / ("net.tflite" if make is tiny_models.tflite else "net.onnx"))
    with closing(open_session(str(path))) as session:
        first = session.run(random_arrays(session.inputs, seed=0))[0]
        kept = first.copy()
        second = session.run(random_arrays(session.inputs, seed=1))[0]
        assert not np.array_equal(first, second)
        assert np.array_equal(first, kept)


@pytest.mark.parametrize("make", [tiny_models.tflite, tiny_models.onnx_int8])
@pytest.mark.parametrize("keep", [3, 9, 200, -600, -1])
def test_truncated_files_are_told_not_run(tmp_path: Path, make: Maker, keep: int) -> None:
    suffix = ".tflite" if make is tiny_models.tflite else ".onnx"
    whole = make(tmp_path / f"whole{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[:keep])
    with pytest.raises(BadArtifact, match=f"`cut{suffix}` is (damaged|not a TFLite model)"):
        open_session(str(cut))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.tflite").write_text("hello, this is no model")
    (tmp_path / "net.pt").write_text("x")
    (tmp_path / "folder.onnx").mkdir()
    for name, said in {
        "empty.onnx": "`empty.onnx` is empty",
        "missing.onnx": "`missing.onnx` does not exist",
        "folder.onnx": "`folder.onnx` is a folder",
        "net.pt": "no engine runs `net.pt`",
        "text.tflite": "`text.tflite` is not a TFLite model: bytes 4 to 8 are not `TFL3`",
    }.items():
        with pytest.raises(BadArtifact) as caught:
            open_session(str(tmp_path / name))
        assert caught.value.what == said


@pytest.mark.parametrize("threads", [0, -1, 1.5, 100_000])
def test_wrong_thread_counts(tmp_path: Path, threads: int) -> None:
    with pytest.raises(BadRequest, match="threads"):
        open_session(str(tiny_models.tflite(tmp_path / "net.tflite")), threads=threads)


def test_an_engine_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "MODULES", (("no_such_engine.interpreter", "tflite-runtime"),))
    with pytest.raises(EngineMissing) as caught:
        litert.import_engine()
    assert caught.value.what == "LiteRT does not load (tflite-runtime: No module named 'no_such_engine')"
    assert caught.value.do == "pip install ai-edge-litert"
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EngineMissing, match="ONNX Runtime does not load"):
        ort.import_engine()


def test_the_older_engine_serves_where_the_newer_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        litert, "MODULES", (("no_such_engine", "ai-edge-litert"), ("ai_edge_litert.interpreter", "tflite-runtime"))
    )
    assert litert.import_engine()[1]["name"] == "tflite-runtime"


@pytest.mark.parametrize(
    ("problem", "kind"),
    [("EngineMissing", EnvironmentFailure), ("BadArtifact", InputError), ("BadRequest", UsageError)],
)
def test_problems_cross_a_pipe_and_become_errors_with_exit_codes(problem: str, kind: type[EdgecnnError]) -> None:
    record = {"kind": problem, "what": "it broke", "where": "net.onnx", "do": "mend it"}
    back = from_json(record)
    assert back.to_json() == record
    error = host.explain(back)
    assert type(error) is kind
    assert str(error) == f"{kind.__name__}: it broke\n  at       net.onnx\n  do       mend it"


def test_the_host_opens_with_its_own_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        host.open_session(tmp_path / "none.tflite")
    with pytest.raises(InputError, match="no engine runs"):
        host.check_artifact(tmp_path / "net.h5")


def test_unknown_problems_stay_problems() -> None:
    assert type(from_json({"kind": "Other", "what": "x"})) is RuntimeProblem


def test_random_arrays_use_all_codes_and_repeat() -> None:
    specs = [
        TensorSpec("a", (64, 64), "int8"),
        TensorSpec("b", (64, 64), "uint8"),
        TensorSpec("c", (64,), "int64"),
        TensorSpec("d", (64,), "float16"),
    ]
    a, b, c, d = random_arrays(specs, seed=5)
    assert (a.min(), a.max(), b.min(), b.max()) == (-128, 127, 0, 255)
    assert set(c) == {0, 1}
    assert d.dtype == np.float16
    assert all(np.array_equal(p, q) for p, q in zip((a, b, c, d), random_arrays(specs, seed=5), strict=True))
    assert not np.array_equal(a, random_arrays(specs, seed=6)[0])
