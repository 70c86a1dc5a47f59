"""The forms of the stem compute the same codes as the plain one, bit for bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx_cases import checked, execute, images, op_types, quantised

from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse
from edgecnn.quant.scheme import ORT_U8
from edgecnn.targets.onnx import emit
from edgecnn.targets.onnx_writer import Form
from edgecnn.targets.target import EmitOptions


def emitted(graph: Graph, form: Form) -> bytes:
    return emit(graph, EmitOptions(batch=2, input_type="uint8"), form=form).data


@given(
    channels=st.integers(1, 3),
    size=st.tuples(st.integers(8, 13), st.integers(8, 13)),
    kernel=st.integers(1, 7),
    pad=st.tuples(*[st.integers(0, 3)] * 4),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1)]),
)
def test_a_rewritten_stem_gives_the_same_codes(channels, size, kernel, pad, stride) -> None:
    height, width = size
    graph = quantised(
        parse(
            f"""graph stem(x: [N,{channels},{height},{width}]) {{
              y = conv(x, w[16,{channels},{kernel},{kernel}], b[16]) stride={stride} pad={pad} clip=(0.0,None)
              return y
            }}""".replace(", ", ",")
        ),
        ORT_U8,
    )
    q = graph.value("x").q
    assert q is not None
    codes = q.quantize(images(graph))
    plain = execute(emitted(graph, Form()), codes)[0]
    for form in (Form(stem="pad"), Form(stem="fold")):
        data = emitted(graph, form)
        checked(data)
        np.testing.assert_array_equal(execute(data, codes)[0], plain)


def test_a_stem_of_stride_two_reads_blocks_and_needs_no_padding() -> None:
    graph = quantised(
        parse("graph g(x: [N,3,8,8]) {\ny = conv(x, w[16,3,3,3], b[16]) stride=(2,2) pad=(1,1,1,1)\nreturn y\n}"),
        ORT_U8,
    )
    model = checked(emitted(graph, Form(stem="fold")))
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert shapes["w"] == (16, 12, 2, 2)
    assert "Pad" not in op_types(model)


def test_an_odd_size_falls_back_to_four_channels() -> None:
    graph = quantised(
        parse("graph g(x: [N,3,9,8]) {\ny = conv(x, w[16,3,3,3], b[16]) stride=(2,2) pad=(1,1,1,1)\nreturn y\n}"),
        ORT_U8,
    )
    assert "Pad" in op_types(checked(emitted(graph, Form(stem="fold"))))


def test_a_convolution_of_four_channels_or_in_float_stays_as_it_is() -> None:
    wide = quantised(
        parse("graph g(x: [N,4,8,8]) {\ny = conv(x, w[16,4,3,3], b[16]) stride=(2,2)\nreturn y\n}"), ORT_U8
    )
    real = parse("graph g(x: [N,3,8,8]) {\ny = conv(x, w[16,3,3,3], b[16]) stride=(2,2)\nreturn y\n}")
    for graph in (wide, real):
        types = op_types(checked(emit(graph, EmitOptions(), form=Form(stem="fold")).data))
        assert not {"Pad", "Transpose", "Reshape"} & set(types)
