"""Each rule that `verify` and the editor keep, broken once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from strategies import RESIDUAL, TEXTS

from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Graph, Op, Value
from edgecnn.ir.text import dumps, parse
from edgecnn.ir.verify import verify


def residual() -> Graph:
    return parse(RESIDUAL)


def with_op(graph: Graph, index: int, **changes: object) -> Graph:
    ops = list(graph.ops)
    ops[index] = replace(ops[index], **changes)  # type: ignore[arg-type]
    return replace(graph, ops=tuple(ops))


BROKEN = {
    "op `s` \\(ad\\): unknown kind": lambda g: with_op(g, 2, kind="ad"),
    "op `s` \\(add\\): 1 inputs, expected 2 to 2": lambda g: with_op(g, 2, inputs=("b",)),
    "op `s` \\(add\\): unknown attributes \\['clap'\\]": lambda g: with_op(g, 2, attrs={"clap": 1}),
    "op `s` \\(clip\\): attributes \\['hi'\\] are missing": lambda g: with_op(
        g, 2, kind="clip", inputs=("b",), attrs={"lo": 0.0}
    ),
    "op `a` \\(conv\\): inputs \\['s'\\] are not made before it": lambda g: with_op(g, 0, inputs=("s", "wa", "ba")),
    "op `a` \\(add\\): its output is made twice": lambda g: with_op(g, 2, output="a"),
    "op `s` \\(concat\\): concat along axis 2 of shapes": lambda g: with_op(
        g, 2, kind="concat", inputs=("b", "wa"), attrs={"axis": 2}
    ),
    "op `s` \\(add\\): the shape is \\(-1, 1\\), the rule of its kind gives \\(-1, 8, 10, 10\\)": lambda g: replace(
        g, values={**g.values, "s": Value("s", (-1, 1))}
    ),
    "op `y` \\(max_pool\\): nothing is left of its input, the shape is \\(-1, 8, 0, 0\\)": lambda g: with_op(
        g, 3, kind="max_pool", inputs=("s",), attrs={"kernel": (11, 11), "stride": (1, 1)}
    ),
    "output `q` is made by no op": lambda g: replace(g, outputs=("q",)),
    "input `x` of shape \\(1, 8, 10, 10\\) does not begin with the batch": lambda g: replace(
        g, values={**g.values, "x": Value("x", (1, 8, 10, 10))}
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rule_is_named(message: str) -> None:
    graph = residual()
    verify(graph)
    with pytest.raises(ValueError, match=message):
        verify(BROKEN[message](graph))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = linear(x, w[3,9])", "linear of 8 features with a weight of shape"),
        ("y = add(x, c[3])", "do not broadcast"),
        ("y = slice(x) axis=1 start=4 stop=9", "slice 4:9 of 8"),
        ("y = reshape(x) shape=(-1,7)", "reshape of"),
        ("y = transpose(x) perm=(1,0)", "transpose of"),
    ],
)
def test_shape_rules_refuse_what_does_not_fit(line: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse(f"graph g(x: [N,8]) {{\n  {line}\n  return y\n}}")


def test_the_editor_sorts_and_drops_what_is_dead() -> None:
    editor = residual().edit()
    late = editor.activation("late", editor.values["b"].shape)
    editor.redirect("b", late)
    editor.insert(Op("clip", ("b",), late, {"lo": 0.0, "hi": None}))
    editor.insert(Op("clip", ("b",), editor.activation("dead", editor.values["b"].shape), {"lo": 0.0, "hi": None}))
    graph = editor.finish()
    assert [op.output for op in graph.ops] == ["a", "b", "late", "s", "y"]
    assert "dead" not in graph.values


def test_the_editor_refuses_a_cycle() -> None:
    editor = residual().edit()
    editor.redirect("x", "s")
    with pytest.raises(ValueError, match="cycle or dangling input"):
        editor.finish()


@pytest.mark.parametrize("name", TEXTS)
def test_each_op_can_be_cut_out(name: str) -> None:
    graph = parse(TEXTS[name])
    for op in graph.ops:
        alone = cut(graph, op)
        verify(alone)
        assert alone.ops == (op,)
        assert alone.inputs == tuple(dict.fromkeys(graph.activations(op)))
        assert alone.values.keys() == {*op.inputs, op.output}


def test_a_value_read_twice_is_one_input_and_keeps_its_parameters() -> None:
    graph = parse("graph g(x: [N,4]) {\n  y = mul(x, x)\n  return y\n  x: uint8 scale=0.5 zero=3\n}")
    assert dumps(cut(graph, graph.ops[0])) == (
        "graph y(x: [N,4]) {\n  y = mul(x, x)\n  return y\n  x: uint8 scale=0.5 zero=3\n}\n"
    )
