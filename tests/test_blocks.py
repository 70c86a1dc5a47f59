"""Building blocks: formulas against counts, every page made for real, and what the pages say of the blocks."""

from __future__ import annotations

import json

import pytest
import torch
from net_counts import MacCount

from edgecnn.__main__ import main
from edgecnn.errors import UsageError
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.ops import macs_of
from edgecnn.nets.block_registry import BLOCKS, SYMBOL_OF_OPTION, build_block, evaluate
from edgecnn.nets.random_weights import init_random
from edgecnn.pipeline.block_page import block_page, judge, names_block

SMALL = (24, 10, 12)
OTHER = {
    "standard_conv": {"out_channels": 40, "kernel": 5, "stride": 2},
    "grouped_conv": {"out_channels": 48, "kernel": 5, "stride": 2, "groups": 8},
    "depthwise_conv": {"kernel": 5, "stride": 2},
    "dilated_conv": {"out_channels": 40, "kernel": 5, "dilation": 3},
    "deformable_conv_v1": {"out_channels": 40, "kernel": 5, "stride": 2, "offset_groups": 2},
    "deformable_conv_v2": {"out_channels": 40, "kernel": 5, "stride": 2, "offset_groups": 2},
    "interleaved_group_conv": {"out_channels": 48, "kernel": 5, "stride": 2, "primary": 12},
    "hetconv": {"out_channels": 48, "stride": 2, "p": 8},
    "gwc_pwc": {"out_channels": 48, "stride": 2, "p": 8},
    "dwc_pwc": {"out_channels": 48, "stride": 2},
    "depthwise_separable": {"out_channels": 40, "stride": 2},
    "inverted_residual": {"out_channels": 40, "stride": 2, "expansion": 4},
    "fire_module": {"squeezed": 12, "expanded": 20},
    "squeeze_excite": {"reduction": 4},
    "channel_shuffle": {"groups": 3},
    "local_response_norm": {"size": 3, "alpha": 0.5},
}
"""Values that differ from the defaults, so that a formula with a wrong symbol in it is wrong here."""

FIRST = {"interleaved_group_conv": {"primary": 8}, "squeeze_excite": {"reduction": 8}}
"""The defaults where 24 channels allow them, else the nearest."""

CASES = [
    pytest.param(name, options, id=name + "".join(f"-{k}{v}" for k, v in options.items()))
    for name in BLOCKS
    for options in ([FIRST.get(name, {}), OTHER[name]] if name in OTHER else [{}])
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_formulas_are_what_is_counted(name, options):
    given = {"channels": SMALL[0], **options}
    module = build_block(name, seed=0, **given)
    init_random(module, 0, SMALL)
    with torch.no_grad(), MacCount() as counted:
        output = module(torch.randn(1, *SMALL, generator=torch.Generator().manual_seed(0)))
    entry = BLOCKS[name]
    symbols = entry.symbols(given, SMALL, tuple(output.shape[1:]))
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    norm_params = sum(p.numel() for m in norms for p in m.parameters())
    assert evaluate(entry.norm_params, symbols) == norm_params
    assert evaluate(entry.params, symbols) == sum(p.numel() for p in module.parameters()) - norm_params
    assert evaluate(entry.macs, symbols) == counted.macs
    graph = import_module(module, SMALL, name=name)
    assert graph.shape(graph.outputs[0])[1:] == tuple(output.shape[1:])
    assert sum(macs_of(graph, op) for op in graph.ops) == counted.macs


SHARE = "share of the standard convolution"


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in CASES if any(SHARE in label for label, _ in BLOCKS[case.values[0]].identities)],
)
def test_the_stated_share_is_that_of_the_counts(name, options):
    entry = BLOCKS[name]
    shares = [formula for label, formula in entry.identities if SHARE in label]
    given = {"channels": SMALL[0], **options}
    with torch.no_grad():
        output = build_block(name, **given)(torch.zeros(1, *SMALL))
    symbols = {"k": evaluate("3", {})} | entry.symbols(given, SMALL, tuple(output.shape[1:]))
    own = next((f for label, f in entry.identities if "kernels that exist" in label), entry.macs)
    assert evaluate(shares[0], symbols) == evaluate(own, symbols) / evaluate("N*M*k^2*h*w", symbols)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_its_page(name):
    page = block_page(name)
    assert page.input_shape == (64, 28, 28)
    assert page.ops
    assert {p.target for p in page.places} >= {"tflite-int8", "tflite-fp32", "onnx-int8", "onnx-fp32"}
    # Each runs everywhere, in parts where the runtime lacks an int8 kernel; what differs is asserted below.
    assert all(p.where != "no" for p in page.places), page.places
    by_target = {p.target: p.where for p in page.places}
    assert by_target["onnx-fp32"] == "float"
    json.dumps(page.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "target", "where"),
    [
        ("standard_conv", "tflite-int8", "int8"),
        ("h_swish", "onnx-int8", "int8"),
        ("local_response_norm", "tflite-int8", "float"),
        ("local_response_norm", "onnx-int8", "float"),
        ("deformable_conv_v2", "tflite-int8", "int8 in part"),
        ("deformable_conv_v2", "tflite-fp32", "float in part"),
        ("interleaved_group_conv", "tflite-int8", "int8"),
    ],
)
def test_where_a_block_runs(name, target, where):
    place = block_page(name, input_shape=(32, 8, 8), targets=[target]).places[0]
    assert (place.where, bool(place.reasons)) == (where, where != "int8")


def test_multiply_adds_are_those_that_execute():
    # The zeros of HetConv's 1x1 convolution count: 9*N*M/P + N*M of 16 channels on 64 places.
    place = block_page("hetconv", input_shape=(16, 8, 8), options={"out_channels": 16}, targets=["tflite-fp32"]).places[
        0
    ]
    assert (place.macs, place.macs_share) == ((9 * 16 * 16 // 4 + 16 * 16) * 64, 1.0)


def test_what_a_target_cannot_express_is_told(monkeypatch):
    from edgecnn.errors import UnsupportedOp
    from edgecnn.pipeline import block_page as module

    def refuse(*_, **__):
        raise UnsupportedOp("no form of `silu`", expected="another activation")

    monkeypatch.setattr(module, "export", refuse)
    place = block_page("swish", targets=["onnx-int8"]).places[0]
    assert (place.where, place.reasons) == ("no", ("no form of `silu`", "another activation"))


def test_judgement_from_a_manifest():
    outside = {"name": "x", "kind": "Mul", "macs": 0, "place": "outside", "reason": "computed in float32"}
    border = {**outside, "kind": "QuantizeLinear", "place": "border"}
    coverage = {"precision": "int8", "macs": 8, "macs_share": 0.5, "operators": 4, "details": [outside, border]}
    part = judge("t", coverage)
    assert (part.where, part.macs, part.macs_share, part.reasons) == (
        "int8 in part",
        8,
        0.5,
        ("Mul: computed in float32",),
    )
    assert judge("t", {**coverage, "details": [border]}).where == "int8"
    assert judge("t", {**coverage, "operators": 2, "macs": 0}).where == "float"


def test_hard_swish_is_near_swish():
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    apart = (build_block("h_swish")(x) - build_block("swish")(x)).abs()
    # 3 - 3 sigmoid(3) = 3 / (1 + e^3) = 0.142277...; the grid has points at -3 and 3.
    assert apart.max().item() == pytest.approx(0.1423, abs=5e-5)
    assert x[apart.argmax()].abs().item() == pytest.approx(3.0, abs=1e-4)
    assert "0.1423" in BLOCKS["h_swish"].remarks[0]


def smallest_square(name, **options):
    """Side of the square of inputs that one output of the block depends on, and how many channels of it."""
    x = torch.randn(1, SMALL[0], 15, 15, generator=torch.Generator().manual_seed(0), requires_grad=True)
    module = build_block(name, seed=0, channels=SMALL[0], **options)
    module(x)[0, 0, 7, 7].backward()
    channels, rows, columns = x.grad[0].nonzero(as_tuple=True)
    assert rows.max() - rows.min() == columns.max() - columns.min()
    return int(rows.max() - rows.min()) + 1, len(channels.unique())


def test_what_one_output_sees_is_what_the_formulas_say():
    for kernel, dilation in ((3, 1), (3, 2), (5, 3)):
        symbols = {"k": evaluate(str(kernel), {}), "d": evaluate(str(dilation), {})}
        effective = evaluate(dict(BLOCKS["dilated_conv"].identities)["effective kernel"], symbols)
        assert smallest_square("dilated_conv", kernel=kernel, dilation=dilation) == (effective, SMALL[0])
    assert smallest_square("grouped_conv", groups=4) == (3, SMALL[0] // 4)
    assert smallest_square("depthwise_conv", kernel=5) == (5, 1)
    # Across both partitions every output sees every input; without the second one it would be 24 / 12 channels.
    assert smallest_square("interleaved_group_conv", out_channels=24, primary=12) == (3, SMALL[0])


def test_shuffle_and_response_norm_are_their_formulas():
    x = torch.randn(2, 12, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shuffled, groups = build_block("channel_shuffle", channels=12, groups=3)(x), 3
    for g in range(groups):
        for m in range(12 // groups):
            assert torch.equal(shuffled[:, m * groups + g], x[:, g * 12 // groups + m])
    normed = build_block("local_response_norm", channels=12, size=5, alpha=0.5, beta=0.75, bias=2.0)(x)
    for c in range(12):
        strength = (x[:, max(0, c - 2) : c + 3] ** 2).sum(1)
        # In float64 what remains are the last digits of a sum of five squares and a power.
        torch.testing.assert_close(normed[:, c], x[:, c] / (2.0 + 0.5 * strength) ** 0.75, rtol=1e-13, atol=0)


def test_the_input_brings_the_channels():
    page = block_page("dilated_conv", input_shape=(32, 14, 14), options={"kernel": "5"}, targets=[])
    assert (page.options["channels"], page.params.value) == (32, 64 * 32 * 25)
    assert [int(value) for label, _, value in page.identities if label == "effective kernel"] == [9]
    with pytest.raises(UsageError, match="the input has not the block's channels"):
        block_page("dilated_conv", input_shape=(32, 14, 14), options={"channels": "16"}, targets=[])


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="do not fit together"):
        build_block("grouped_conv", groups=5)
    with pytest.raises(UsageError, match="do not fit together"):
        build_block("squeeze_excite", reduction=5)
    with pytest.raises(UsageError, match="did you mean `groups`"):
        build_block("grouped_conv", group=4)


def test_names_of_blocks_are_not_names_of_nets():
    from edgecnn.nets import NETS

    assert not [name for name in BLOCKS if name in NETS]
    assert names_block("hetconv")
    assert not names_block("mobilenet_v3")  # an alias
    assert not names_block("my_net.py:build")
    with pytest.raises(UsageError, match="did you mean `dilated_conv`"):
        names_block("dilated_convolution")


def test_every_option_in_a_formula_has_a_symbol():
    for name, entry in BLOCKS.items():
        assert entry.options[0].name == "channels", name
        assert len({SYMBOL_OF_OPTION.get(o.name, o.name) for o in entry.options}) == len(entry.options)


@pytest.mark.parametrize("formula", ["-M", "f(M)", "M and N", "1.5*M"])
def test_a_formula_has_nothing_but_arithmetic(formula):
    with pytest.raises((ValueError, KeyError)):
        evaluate(formula, {"M": evaluate("2", {}), "N": evaluate("2", {})})


def test_show_and_list_on_the_command_line(capsys):
    assert main(["show", "dilated_conv", "--net-option", "kernel=5", "--input", "16x8x8", "-t", "tflite-int8"]) == 0
    out = capsys.readouterr().out
    assert "effective kernel   d*(k - 1) + 1" in out
    assert "25,600" in out
    assert "onnx" not in out
    assert main(["show", "swish", "--target", "onnx-fp32", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["block"], content["targets"][0]["where"]) == ("swish", "float")
    assert main(["show", "dilated_cnv"]) == 2
    assert "did you mean `dilated_conv`" in capsys.readouterr().err
    assert main(["list", "blocks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BLOCKS)
