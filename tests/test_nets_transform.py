"""Other forms of convolution in any net: what is replaced, the published counts, and that nothing else changes."""

from __future__ import annotations

from math import prod

import pytest
import torch
from net_counts import on_meta
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from edgecnn.cli.app import app, spread_pairs
from edgecnn.errors import UsageError
from edgecnn.nets import NETS, build_net
from edgecnn.nets.hetconv import HetConv2d
from edgecnn.nets.layers import SqueezeExcitation

IMAGE = (3, 224, 224)
SMALL = (3, 32, 32)


def layers(net: str, shape: tuple[int, ...], **options: object) -> list[tuple[nn.Module, int]]:
    """Every layer with weights and the number of positions it is applied at."""
    seen: list[tuple[nn.Module, int]] = []
    module, _ = on_meta(net, tuple(options.items()))
    handles = [
        m.register_forward_hook(lambda m, i, out: seen.append((m, prod(out.shape[2:]))))
        for m in module.modules()
        if isinstance(m, (HetConv2d, nn.Conv2d, nn.Linear))
    ]
    module(torch.empty(1, *shape, device="meta"))
    for handle in handles:
        handle.remove()
    return seen


def weights(layer: nn.Module) -> int:
    return sum(p.numel() for name, p in layer.named_parameters() if name != "bias")


def kernels(net: str, shape: tuple[int, ...], **options: object) -> int:
    """Multiply-adds of kernels that exist: without the zeros of HetConv's 1x1 convolution."""
    return sum(weights(layer) * positions for layer, positions in layers(net, shape, **options))


def paper_flops(net: str, shape: tuple[int, ...], **options: object) -> float:
    """The paper's FLOPs: one addition more per output of a convolution, those of HetConv layers scaled as they are."""
    flops = 0.0
    for layer, positions in layers(net, shape, **options):
        flops += weights(layer) * positions
        if isinstance(layer, HetConv2d):
            dense = layer.in_channels * 9 * layer.out_channels
            flops += layer.out_channels * positions * weights(layer) / dense
        elif isinstance(layer, nn.Conv2d):
            flops += layer.out_channels * positions
    return flops


@pytest.mark.parametrize(
    ("p", "mmacs"),
    [(1, 313.4638), (2, 175.0518), (4, 105.8458), (8, 71.2428), (16, 53.9412), (32, 45.2905), (64, 40.9651)],
)
def test_vgg16_has_the_papers_kernels_and_squeeze_excite_its_cost(p: int, mmacs: float) -> None:
    plain = kernels("vgg16_cifar", SMALL, conv="hetconv", p=p)
    assert round(plain / 1e6, 4) == mmacs
    assert plain == kernels("vgg16_hetconv", SMALL, p=p)
    # Two 1x1 convolutions of C * C / 8 after each of the 13 convolutions.
    channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert kernels("vgg16_cifar", SMALL, conv="hetconv", p=p, se=8) - plain == sum(2 * c * c // 8 for c in channels)


# As its figures do, these count the additions of the first convolution and no other: 64 outputs at 32x32.
@pytest.mark.parametrize(("options", "mmacs"), [({"conv": "gwc_pwc", "p": 4}, 107.48), ({"conv": "dwc_pwc"}, 38.35)])
def test_vgg16_in_the_forms_compared_with(options: dict[str, object], mmacs: float) -> None:
    assert round((kernels("vgg16_cifar", SMALL, **options) + 64 * 32 * 32) / 1e6, 2) == mmacs


@pytest.mark.parametrize(("p", "mflops"), [(2, 70.214), (4, 42.312)])
def test_resnet56(p: int, mflops: float) -> None:
    assert round(paper_flops("resnet56", SMALL, conv="hetconv", p=p) / 1e6, 3) == mflops


@pytest.mark.parametrize(
    ("net", "p", "gmacs"),
    [
        ("vgg16", 4, 5.297),
        ("resnet18", 4, 0.697),
        ("resnet34", 4, 1.313),
        ("resnet50", 4, 2.856),
        ("mobilenet_v1", 32, 0.6862),
        ("mobilenet_v1", 0, 0.573),
    ],
)
def test_imagenet_nets(net: str, p: int, gmacs: float) -> None:
    digits = len(str(gmacs).split(".")[1])
    assert round(kernels(net, IMAGE, conv="hetconv", p=p) / 1e9, digits) == gmacs


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("padding", "dilation"), [(1, 1), (0, 1), (2, 2), (2, 1), (0, 2), (1, 3)])
@pytest.mark.parametrize("p", [1, 3, 6])
def test_the_layer_is_its_dense_kernel(p: int, padding: int, dilation: int, stride: int) -> None:
    layer = HetConv2d(6, 12, p, stride=stride, padding=padding, dilation=dilation, bias=True).double()
    generator = torch.Generator().manual_seed(p)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-9, 10, parameter.shape, generator=generator))
    x = torch.randint(-9, 10, (2, 6, 13, 10), generator=generator).double()
    # Whole numbers this small add up without rounding, so the order of the sum does not matter.
    assert torch.equal(layer(x), F.conv2d(x, layer.dense_kernel(), layer.bias, stride, padding, dilation))


def test_p_1_is_the_standard_net_itself() -> None:
    standard, same = build_net("resnet20", seed=4), build_net("resnet20", seed=4, conv="hetconv", p=1)
    assert list(standard.state_dict()) == list(same.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(standard.parameters(), same.parameters(), strict=True))


def test_what_stays_has_the_weights_of_the_standard_net_and_a_seed_repeats_the_rest() -> None:
    standard = build_net("resnet20", seed=4).state_dict()
    first, second = (build_net("resnet20", seed=4, conv="hetconv", p=4).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    shared = [name for name in first if name in standard]
    assert {"conv1.weight", "linear.weight"} <= set(shared)
    assert all(torch.equal(first[name], standard[name]) for name in shared)


NOTHING = {"efficientnet", "igcv1", "nasnet", "resnext", "shufflenet_v1"}
"""Families without a dense 3x3 convolution or a depthwise one that a dense 1x1 one follows directly."""
GROUPED = {"seresnext50_32x4d", "seresnext101_32x4d"}


@pytest.mark.parametrize("name", [n for n, entry in NETS.items() if entry.transform_options])
def test_every_net_of_the_zoo_takes_it_or_says_why_not(name: str) -> None:
    try:
        with torch.device("meta"):
            net = build_net(name, conv="hetconv", p=0)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
    if NETS[name].family in NOTHING or name in GROUPED:
        assert "`conv=hetconv` finds nothing to replace" in message
        return
    assert message == ""
    replaced = [m for m in net.modules() if isinstance(m, HetConv2d)]
    assert {m.in_channels != 3 for m in replaced} == {True}
    if name != next(n for n, entry in NETS.items() if entry.family == NETS[name].family):
        return  # one net of a family runs
    side = 32 if NETS[name].input_shape == SMALL else 96
    assert net(torch.empty(2, 3, side, side, device="meta")).shape == (2, 10 if side == 32 else 1000)


def test_the_rest_of_the_convolution_stays() -> None:
    with torch.device("meta"):
        standard = {n: m for n, m in build_net("resnet18_dilated").named_modules() if isinstance(m, nn.Conv2d)}
        het = dict(build_net("resnet18_dilated", conv="hetconv", p=2).named_modules())
    changed = {n: m for n, m in het.items() if isinstance(m, HetConv2d)}
    assert set(changed) == {n for n, m in standard.items() if m.kernel_size == (3, 3)}
    for name, layer in changed.items():
        plain = standard[name]
        assert (layer.stride, layer.padding, layer.dilation) == (
            plain.stride[0],
            plain.padding[0],
            plain.dilation[0],
        )


def test_a_depthwise_pair_becomes_one_layer() -> None:
    with torch.device("meta"):
        net = build_net("mobilenet_v2", conv="hetconv", p=8)
        blocks = [m for m in net.modules() if isinstance(m, HetConv2d)]
        depthwise = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert (len(blocks), depthwise) == (17, [])
    assert [b.stride for b in blocks].count(2) == 4


def test_the_offsets_of_a_deformable_convolution_stay() -> None:
    with torch.device("meta"):
        net = build_net("resnet18_deform", conv="hetconv", p=4)
        plain = build_net("resnet18_deform")
    offsets = [n for n, _ in plain.named_modules() if n.endswith(".offset")]
    assert offsets
    assert all(type(net.get_submodule(n)) is nn.Conv2d for n in offsets)


def test_squeeze_excite_follows_the_norm() -> None:
    with torch.device("meta"):
        net = build_net("resnet20", conv="hetconv", p=4, se=8)
    gates = [n for n, m in net.named_modules() if isinstance(m, SqueezeExcitation)]
    assert gates[:3] == ["bn1.1", "layer1.0.bn1.1", "layer1.0.bn2.1"]
    assert len(gates) == 19


def refused(name: str, **options: object) -> str:
    with torch.device("meta"), pytest.raises(UsageError) as caught:
        build_net(name, **options)
    return str(caught.value)


def test_a_p_that_does_not_divide() -> None:
    assert refused("resnet20", conv="hetconv", P="3") == (
        "UsageError: P = 3 does not divide the channels of `layer1.0.conv1`\n"
        "  at       net resnet20\n"
        "  expected one of 1, 2, 4, 8, 16\n"
        "  got      16 input and 16 output channels\n"
        "  do       give such a P, or p=0 for as many as each layer's channels allow"
    )


def test_nothing_to_replace() -> None:
    assert refused("mobilenet_v1", conv="dwc_pwc") == (
        "UsageError: `conv=dwc_pwc` finds nothing to replace\n"
        "  at       net mobilenet_v1\n"
        "  expected a dense 3x3 convolution that does not read the image\n"
        "  got      1 3x3 on the image, 13 depthwise 3x3, 13 dense 1x1"
    )


@pytest.mark.parametrize("options", [{"p": 4}, {"P": "4"}, {"se": 8}])
def test_options_of_a_form_need_the_form(options: dict[str, object]) -> None:
    assert "options of another form of convolution" in refused("resnet20", **options)


def test_names_and_words_in_capitals_and_no_name_twice() -> None:
    with torch.device("meta"):
        layer = build_net("resnet20", CONV="HetConv", P="2").layer1[0].conv1
    assert layer.p == 2
    assert "option `p` is given twice" in refused("resnet20", conv="hetconv", p=2, P=4)


def test_several_pairs_after_one_option() -> None:
    assert spread_pairs(["show", "--net-option", "conv=hetconv", "P=4", "resnet20", "a=b"]) == [
        *("show", "--net-option", "conv=hetconv", "--net-option", "P=4", "resnet20", "a=b")
    ]
    done = CliRunner().invoke(app, ["show", "resnet20", "--net-option", "conv=hetconv", "P=4", "se=8", "--json"])
    assert done.exit_code == 0
    assert "multiply-adds grouped" in done.stdout


def test_official_weights_are_refused() -> None:
    done = CliRunner().invoke(app, ["export", "resnet18", "--net-option", "conv=hetconv", "P=4"])
    assert "the official weights are for standard convolutions, not for conv=hetconv" in str(done.exception)
