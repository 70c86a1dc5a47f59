"""Bundles: loading gives back what was saved, to the bit; anything else is refused with a reason."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from strategies import CONV_BN_RELU, assert_same_graph, graphs, with_random_q

from edgecnn.errors import InputError
from edgecnn.ir.bundle import is_bundle, load, save, to_bytes
from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse


@given(graph=graphs(), quantised=st.booleans())
def test_save_then_load_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, graph: Graph, quantised: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn.safetensors"
    graph = with_random_q(graph) if quantised else graph
    provenance = {"net": "drawn", "weights": "seed 0 – ünïcode"}
    save(graph, path, provenance=provenance)
    loaded, told = load(path)
    assert_same_graph(loaded, graph)
    assert told == provenance
    assert to_bytes(loaded, provenance=told) == path.read_bytes()


def test_special_floats_survive(tmp_path: Path) -> None:
    editor = parse(CONV_BN_RELU).edit()
    name = editor.const("odd", np.array([0.0, -0.0, 1e-45, 3.4e38, -1e-38], np.float32).reshape(1, 5))
    [last] = [op for op in editor.ops if op.output == "y"]
    editor.outputs = [editor.activation("z", (-1, 5))]
    editor.insert(type(last)("mul", ("y", name), "z"))
    graph = editor.finish()
    save(graph, tmp_path / "a", provenance={})
    assert_same_graph(load(tmp_path / "a")[0], graph)


def test_other_tools_can_read_the_tensors(tmp_path: Path) -> None:
    graph = parse(CONV_BN_RELU)
    save(graph, tmp_path / "g.safetensors", provenance={})
    with safe_open(tmp_path / "g.safetensors", framework="numpy") as file:
        assert np.array_equal(file.get_tensor("wl"), graph.const("wl"))
        assert file.metadata()["edgecnn.graph"].startswith("graph conv_bn_relu(x: [N,3,12,12]) {\n")


def test_provenance_order_does_not_change_the_bytes() -> None:
    graph = parse(CONV_BN_RELU)
    assert to_bytes(graph, provenance={"a": "1", "b": "2"}) == to_bytes(graph, provenance={"b": "2", "a": "1"})


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(to_bytes(parse(CONV_BN_RELU), provenance={})[:keep])
    with pytest.raises(InputError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"InputError: `{path}` is no bundle"
    assert lines[1] == "  expected a safetensors file written by edgecnn"
    assert lines[2].startswith("  got      a file that is cut off, damaged or of another type (")
    assert lines[3] == "  do       export or save it again"
    assert not is_bundle(path)


def test_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"fc.weight": np.zeros((2, 3), np.float32)}, path)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value) == (
        f"InputError: `{path}` is no bundle\n"
        "  expected a safetensors file written by edgecnn\n"
        "  got      a safetensors file of 1 tensors without a graph\n"
        "  do       a checkpoint needs its net: give both, the net and `--weights` with this file"
    )
    assert not is_bundle(path)


def _with_metadata(data: bytes, **changes: str) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"].update({f"edgecnn.{key}": value for key, value in changes.items()})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    path.write_bytes(_with_metadata(to_bytes(parse(CONV_BN_RELU), provenance={}), format="2"))
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(caught.value) == (
        f"InputError: `{path}` is a bundle of another format\n"
        "  expected format 1\n"
        "  got      format 2\n"
        "  do       read it with the version of edgecnn that wrote it"
    )
    assert is_bundle(path)


def test_a_graph_that_does_not_fit_its_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    text = CONV_BN_RELU.replace("w[8,3,3,3]", "w[8,3,3,3], lost[8]")
    path.write_bytes(_with_metadata(to_bytes(parse(CONV_BN_RELU), provenance={}), graph=text))
    with pytest.raises(InputError, match="there is no data for the constant `lost`"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the bundle `.*nowhere`"):
        load(tmp_path / "nowhere")
