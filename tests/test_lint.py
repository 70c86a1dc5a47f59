"""`lint`: each rule on a net made to break it, the numbers by hand, and costs that come from where they say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from litert_runs import quantised
from typer.testing import CliRunner

from edgecnn.cli.app import app
from edgecnn.errors import UnsupportedOp
from edgecnn.ir.graph import Graph
from edgecnn.ir.text import parse
from edgecnn.lint import Finding, review_graphs
from edgecnn.lint.guidelines import fragments
from edgecnn.lint.shapes import convs, resized
from edgecnn.pipeline.lint import lint
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import EmitOptions


def graph(shape: str, *lines: str) -> Graph:
    body = "\n".join(f"  {line}" for line in lines)
    return parse(f"graph g(x: [N,{shape}]) {{\n{body}\n}}")


def findings(of: Graph, rule: str, *, measure: bool = False, target: str = "tflite-fp32") -> list[Finding]:
    coded = quantised(of) if target.endswith("int8") else of
    found = review_graphs(coded, target=all_targets()[target], options=EmitOptions(), measure=measure, rounds=3)
    return [f for f in found.findings if f.rule == rule]


def test_unequal_widths_by_hand() -> None:
    (found,) = findings(graph("16,10,10", "y = conv(x, w[64,16,1,1])", "return y"), "G1-channel-widths")
    # 100 positions: 1,600 read, 6,400 written, 1,024 weights. The least for 102,400 multiply-adds:
    # 2 * sqrt(100 * 102,400) + 1,024 = 7,424.
    assert found.facts["memory_access_elements"] == 9024
    assert found.facts["times_the_least"] == round(9024 / 7424, 3)
    assert "32 to 32" in found.do
    assert found.cost is not None
    assert found.cost.basis == "estimated"
    assert found.cost.latency_us is None


def test_equal_widths_are_no_finding() -> None:
    assert findings(graph("32,10,10", "y = conv(x, w[32,32,1,1])", "return y"), "G1-channel-widths") == []


def test_groups_but_not_depthwise() -> None:
    (found,) = findings(
        graph("32,8,8", "a = conv(x, w[32,8,3,3]) groups=4", "y = conv(a, v[32,1,3,3]) groups=32", "return y"),
        "G2-groups",
    )
    assert found.facts["groups"] == 4
    # 32 * 32 / 4 weights per tap are those of 16 to 16.
    assert "dense 16 to 16" in found.do


BRANCHES = (
    "a = conv(x, w1[16,16,1,1])",
    "b = conv(x, w2[16,16,1,1])",
    "c = conv(x, w3[16,16,1,1])",
    "d = conv(c, w4[16,16,3,3]) pad=(1,1,1,1)",
)


def test_fragments_of_concatenations_and_of_sums() -> None:
    joined = graph("16,8,8", *BRANCHES, "y = concat(a, b, d) axis=1", "return y")
    summed = graph("16,8,8", *BRANCHES, "s = add(a, b)", "y = add(s, d)", "return y")
    for case in (joined, summed):
        (found,) = list(fragments(case))
        assert found.facts["branches"] == 3
        assert set(found.ops) == {"a", "b", "c", "d", "y"}
    two = graph("16,8,8", *BRANCHES[:2], "y = add(a, b)", "return y")
    assert list(fragments(two)) == []


def test_element_wise_ops_are_counted_by_kind() -> None:
    found = findings(
        graph("16,8,8", "a = conv(x, w[16,16,1,1])", "b = add(a, x)", "c = add(b, x)", "y = silu(c)", "return y"),
        "G4-element-wise",
    )
    assert {f.facts["kind"]: f.facts["elements"] for f in found} == {"add": 2048, "silu": 1024}


def test_a_tile_that_is_not_full() -> None:
    (found,) = findings(graph("16,8,8", "y = conv(x, w[24,16,1,1])", "return y"), "channel-tile")
    assert found.facts == {"channels": 24, "tile": 16, "wasted": 0.25}
    assert found.do == "16 or 32 channels"
    assert findings(graph("16,8,8", "y = conv(x, w[32,16,1,1])", "return y"), "channel-tile") == []


def test_measured_costs_have_times() -> None:
    # 17 filters cost as much as 32, so a sixteenth of the work costs half of the time: no noise hides that.
    case = graph("256,28,28", "y = conv(x, w[17,256,3,3]) pad=(1,1,1,1)", "return y")
    (found,) = findings(case, "channel-tile", measure=True, target="tflite-int8")
    assert found.cost is not None
    assert found.cost.basis == "measured"
    assert found.cost.latency_us is not None
    assert found.cost.latency_us > 0
    assert found.cost.avoidable_share is not None
    assert found.cost.avoidable_share > 0.1


def test_alike_ops_are_one_finding_and_others_are_not() -> None:
    case = graph(
        "16,8,8",
        "a = conv(x, w1[24,16,1,1])",
        "b = conv(x, w2[24,16,1,1])",
        "c = conv(x, w3[24,16,3,3]) pad=(1,1,1,1)",
        "s = add(a, b)",
        "y = add(s, c)",
        "return y",
    )
    assert sorted(len(f.where) for f in findings(case, "channel-tile")) == [1, 2]


@pytest.mark.parametrize(
    "text", ["y = conv(x, w[24,16,3,3], b[24]) stride=(2,2)", "y = conv(x, w[16,1,5,5]) groups=16"]
)
def test_a_convolution_of_another_size_keeps_the_rest(text: str) -> None:
    of = quantised(graph("16,9,9", text, "return y"))
    (conv,) = convs(of)
    other = resized(of, conv.op, in_channels=32, out_channels=32, groups=32 if conv.depthwise else 1)
    (new,) = convs(other)
    assert (new.in_channels, new.out_channels, new.kernel) == (32, 32, conv.kernel)
    assert other.shape(conv.op.output)[2:] == of.shape(conv.op.output)[2:]
    assert all_targets()["tflite-int8"].emit(other, EmitOptions(input_type="int8")).data


def test_a_net_of_the_zoo_measured() -> None:
    found = lint("mobilenet_v2", input_shape=(3, 64, 64), options={"width": 0.35})
    assert found.latency_us is not None
    assert found.whole_us is not None
    assert found.worst() != "error"
    shares = [f.cost.weight for f in found.findings if f.cost]
    assert shares == sorted(shares, reverse=True)
    assert {f.rule for f in found.findings} >= {"G1-channel-widths", "G4-element-wise"}


def test_another_core_is_estimated() -> None:
    found = lint("mobilenet_v3_small", cpu="armv8", input_shape=(3, 64, 64))
    assert found.latency_us is None
    assert all(f.cost is None or f.cost.basis == "estimated" for f in found.findings)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lint", *arguments])
    return result.exit_code, result.stdout


def test_what_cannot_be_expressed_is_an_error(monkeypatch) -> None:
    def refuse(graph: Graph, options: EmitOptions) -> None:
        op = next(op for op in graph.ops if op.kind == "hard_swish")
        raise UnsupportedOp("there is no `hard_swish` here", where=str(op.source), got="a trial", do="choose ReLU")

    all_targets()
    monkeypatch.setitem(TARGETS._items, "tflite-int8", replace(TARGETS["tflite-int8"], emit=refuse))
    code, out = run("mobilenet_v3_small", "--input", "3x64x64", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["findings"][0]["rule"] == "not-expressible"
    assert "features.0.2" in found["findings"][0]["where"][0]
    assert len(found["findings"]) > 1, "the rest is looked at all the same"


def test_json_and_severity() -> None:
    code, out = run("mobilenet_v2", "--input", "3x64x64", "--no-measure", "--json", "--fail-on", "warning")
    found = json.loads(out)
    assert code == 1
    assert found["basis"].startswith("estimated")
    assert all(f["rule"] in found["rules"] for f in found["findings"])
    code, text = run("mobilenet_v2", "--input", "3x64x64", "--no-measure", "--top", "2")
    assert code == 0
    assert "smaller findings: --top 0 shows all" in text
