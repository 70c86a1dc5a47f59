"""Importing a module gives a graph that computes the same, in the simplest ops, with names of the module's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.ir.reference import run
from edgecnn.ir.text import dumps, parse

SHAPE = (8, 9, 12)
Kinds = list[str]


class Calls(nn.Module):
    """`function` of the image and the given layers."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.layers)


def kinds(graph: Graph) -> Kinds:
    return [op.kind for op in graph.ops]


def imported(module: nn.Module, shape: tuple[int, ...] = SHAPE) -> Graph:
    """The graph of `module`, proved equal to it at two batch sizes."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    graph = import_module(module, shape, name="net")
    module.eval()
    for batch in (1, 4):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            theirs = module(x.clone()).numpy()
        mine = run(graph, x.numpy())[0]
        assert mine.shape == theirs.shape
        # The same functions; only the order of a few additions and 1/6 against /6 may differ: some ten roundings.
        assert np.abs(mine - theirs).max() <= 10 * np.finfo(np.float32).eps * max(1.0, np.abs(theirs).max())
    return graph


LAYERS: dict[str, tuple[nn.Module, Kinds]] = {
    "conv": (nn.Conv2d(8, 6, 3, stride=2, padding=(1, 0), dilation=2, groups=2), ["conv"]),
    "conv_same": (nn.Conv2d(8, 6, (2, 4), padding="same", bias=False), ["conv"]),
    "conv_valid": (nn.Conv2d(8, 6, 3, padding="valid"), ["conv"]),
    "batch_norm": (nn.BatchNorm2d(8, eps=1e-3), ["batch_norm"]),
    "batch_norm_plain": (nn.BatchNorm2d(8, affine=False), ["batch_norm"]),
    "relu": (nn.ReLU(inplace=True), ["clip"]),
    "relu6": (nn.ReLU6(), ["clip"]),
    "hardtanh": (nn.Hardtanh(-0.5, 0.25), ["clip"]),
    "hardswish": (nn.Hardswish(inplace=True), ["hard_swish"]),
    "hardsigmoid": (nn.Hardsigmoid(), ["hard_sigmoid"]),
    "sigmoid": (nn.Sigmoid(), ["sigmoid"]),
    "silu": (nn.SiLU(inplace=True), ["silu"]),
    "tanh": (nn.Tanh(), ["tanh"]),
    "gelu": (nn.GELU(), ["gelu"]),
    "leaky_relu": (nn.LeakyReLU(0.1), ["leaky_relu"]),
    "prelu": (nn.PReLU(init=0.3), ["leaky_relu"]),
    "prelu_per_channel": (nn.PReLU(8), ["clip", "mul", "clip", "add"]),
    "softmax": (nn.Softmax(1), ["softmax"]),
    "max_pool": (nn.MaxPool2d(3, 2, 1), ["max_pool"]),
    "max_pool_ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), ["max_pool"]),
    "max_pool_ceil_2": (nn.MaxPool2d(2, 3, 0, ceil_mode=True), ["max_pool"]),
    "max_pool_dilated": (nn.MaxPool2d(2, 1, dilation=2), ["max_pool"]),
    "avg_pool": (nn.AvgPool2d(3, 1, 1), ["avg_pool"]),
    "avg_pool_inside": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), ["avg_pool"]),
    "avg_pool_ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), ["avg_pool"]),
    "avg_pool_ceil_inside": (nn.AvgPool2d((2, 5), 2, 0, ceil_mode=True, count_include_pad=False), ["avg_pool"]),
    "adaptive_1": (nn.AdaptiveAvgPool2d(1), ["global_pool"]),
    "adaptive_3x4": (nn.AdaptiveAvgPool2d((3, 4)), ["avg_pool"]),
    "adaptive_overlapping": (nn.AdaptiveAvgPool2d((8, 11)), ["avg_pool"]),
    "adaptive_uneven": (
        nn.AdaptiveAvgPool2d((2, 5)),
        ["slice", "avg_pool", "slice", "avg_pool", "concat", *["slice", "avg_pool"] * 5, "concat"],
    ),
    "adaptive_enlarging": (
        nn.AdaptiveMaxPool2d((10, 12)),
        ["slice", *["slice", "max_pool"] * 8, "slice", "concat"],
    ),
    "adaptive_max": (nn.AdaptiveMaxPool2d(1), ["max_pool"]),
    "zero_pad": (nn.ZeroPad2d((1, 2, 0, 3)), ["pad"]),
    "constant_pad": (nn.ConstantPad2d((1, -2, 0, 3), 0.5), ["slice", "pad"]),
    "shuffle": (nn.ChannelShuffle(4), ["channel_shuffle"]),
    "flatten": (nn.Flatten(), ["flatten"]),
    "head": (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5), nn.BatchNorm1d(5)),
        ["global_pool", "flatten", "linear", "batch_norm"],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    layer, expected = LAYERS[name]
    assert kinds(imported(Calls(lambda x, f: f(x * 1.5), layer)))[1:] == expected


def shuffle_by_view(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def shuffle_by_permute(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h * w).permute(0, 2, 1, 3).flatten(1, 2).view(n, c, h, w)


def shuffle_through_the_batch(x: Tensor) -> Tensor:
    """As in the ShuffleNetV2 of its authors: the batch is merged with the channels and split off again."""
    n, c, h, w = x.shape
    y = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
    return torch.cat((F.relu(y[0]), y[1]), 1)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Kinds]] = {
    "shuffle_by_view": (shuffle_by_view, ["channel_shuffle"]),
    "shuffle_by_permute": (shuffle_by_permute, ["channel_shuffle"]),
    "shuffle_through_the_batch": (
        shuffle_through_the_batch,
        ["channel_shuffle", "slice", "clip", "slice", "concat"],
    ),
    "shuffle_then_split": (
        lambda x: torch.cat([F.relu(part) for part in shuffle_by_view(x).chunk(2, 1)], 1),
        ["channel_shuffle", "slice", "clip", "slice", "clip", "concat"],
    ),
    "split": (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), ["slice", "slice", "concat"]),
    "narrow": (lambda x: x.narrow(1, 2, 3).narrow(2, 1, 4), ["slice", "slice"]),
    "every_second_pixel": (lambda x: x[:, :, ::2, ::2], ["max_pool"]),
    "crop": (lambda x: x[:, 1:5, 2:-1, 1::3], ["slice", "slice", "slice", "max_pool"]),
    "select": (lambda x: x[:, 3].unsqueeze(1) * 2.0, ["slice", "mul"]),
    "unbind": (lambda x: x.unbind(1)[2], ["slice", "reshape"]),
    "view_flatten": (lambda x: x.view(x.size(0), -1), ["flatten"]),
    "channels_last": (lambda x: x.permute(0, 2, 3, 1).flatten(1), ["transpose", "flatten"]),
    "there_and_back": (lambda x: F.relu(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)), ["clip"]),
    "reshape": (lambda x: x.reshape(x.shape[0], 4, 18, 12), ["reshape"]),
    "zero_channels": (
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
        ["max_pool", "slice", "mul", "concat"],
    ),
    "hard_swish": (lambda x: x * F.relu6(x + 3) / 6, ["hard_swish"]),
    "hard_swish_2": (lambda x: x * (F.relu6(x + 3, inplace=True) / 6), ["hard_swish"]),
    "hard_swish_3": (lambda x: x / 6 * torch.clamp(x + 3, 0, 6), ["hard_swish"]),
    "hard_swish_4": (lambda x: F.hardsigmoid(x) * x, ["hard_swish"]),
    "hard_sigmoid": (lambda x: F.relu6(x + 3) / 6, ["hard_sigmoid"]),
    "hard_sigmoid_2": (lambda x: torch.clamp(x / 6 + 0.5, 0, 1), ["hard_sigmoid"]),
    "silu": (lambda x: torch.sigmoid(x) * x, ["silu"]),
    "no_silu": (lambda x: x * torch.sigmoid(2 * x), ["mul", "sigmoid", "mul"]),
    "shared_gate": (lambda x: (lambda s: x * s + s)(torch.sigmoid(x)), ["sigmoid", "mul", "add"]),
    "no_hard_swish": (lambda x: x * F.relu6(x + 3) / 5, ["add", "clip", "mul", "mul"]),
    "written_then_read": (lambda x: (lambda y: F.relu_(y) + y)(x + 1), ["add", "clip", "add"]),
    "statement": (lambda x: (lambda y: (F.relu(y, inplace=True), y * 2)[1])(x + 1), ["add", "clip", "mul"]),
    "add_in_place": (lambda x: F.relu(x).add_(x), ["clip", "add"]),
    "one_minus": (lambda x: 1 - x, ["mul", "add"]),
    "constant_minus": (lambda x: torch.full((8, 1, 1), 2.0) - x, ["mul", "add"]),
    "negative": (lambda x: -x, ["mul"]),
    "alpha": (lambda x: torch.add(x, F.relu(x), alpha=0.5), ["clip", "mul", "add"]),
    "divide": (lambda x: x / torch.full((1, 8, 1, 1), 3.0), ["mul"]),
    "square": (lambda x: x**2, ["mul"]),
    "clamp_min": (lambda x: x.clamp(min=0.1), ["clip"]),
    "channel_attention": (
        lambda x: x * F.conv1d(x.mean((2, 3)).unsqueeze(1), torch.ones(1, 1, 3), padding=1).view(-1, 8, 1, 1).sigmoid(),
        ["global_pool", "reshape", "conv", "reshape", "sigmoid", "mul"],
    ),
    "split_attention": (
        lambda x: (x.view(-1, 2, 4, 9, 12) * x.mean((2, 3)).view(-1, 2, 4, 1, 1)).sum(1),
        ["global_pool", "reshape", "reshape", "mul", "slice", "reshape", "slice", "reshape", "add"],
    ),
    "selective_kernel": (
        lambda x: torch.stack([x, F.relu(x)], dim=1).sum(dim=1),
        ["clip", "reshape", "reshape", "concat", "slice", "reshape", "slice", "reshape", "add"],
    ),
    "sum_of_branches_kept": (lambda x: x[:, :3].sum(1, keepdim=True), ["slice", "slice", "add", "slice", "add"]),
    "nearest": (lambda x: F.interpolate(F.relu(x), size=(18, 36)), ["clip", "upsample"]),
    "nearest_exact": (lambda x: F.interpolate(x, scale_factor=3, mode="nearest-exact"), ["upsample"]),
    "mean": (lambda x: x.mean((-1, -2)), ["global_pool"]),
    "mean_keep": (lambda x: x.mean([2, 3], keepdim=True), ["global_pool"]),
    "mean_by_axis": (lambda x: x.mean(3).mean(2), ["avg_pool", "avg_pool", "flatten"]),
    "mean_of_rows": (lambda x: x.mean(2, keepdim=True), ["avg_pool"]),
    "matmul": (lambda x: x.mean((2, 3)) @ torch.ones(8, 3), ["global_pool", "linear"]),
    "addmm": (
        lambda x: torch.addmm(torch.ones(3), x.mean((2, 3)), torch.ones(8, 3)),
        ["global_pool", "linear"],
    ),
    "gate": (lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x), ["global_pool", "mul"]),
    "no_ops": (lambda x: F.relu(F.dropout(x, 0.5, False)).contiguous().clone().to(torch.float32), ["clip"]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert kinds(imported(Calls(function))) == expected


class Guarded(nn.Module):
    """A net with a block that export wraps in a function of its own."""

    def __init__(self, guard: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.conv, self.guard = nn.Conv2d(8, 8, 1), guard

    def forward(self, x: Tensor) -> Tensor:
        with self.guard():
            y = self.conv(x)
        return F.relu(y) + x


@pytest.mark.parametrize(
    "guard",
    [torch.no_grad, torch.enable_grad, lambda: torch.autocast("cpu", enabled=False)],
    ids=["no_grad", "enable_grad", "no_autocast"],
)
def test_blocks_without_effect_on_the_numbers(guard: Callable[[], AbstractContextManager[None]]) -> None:
    assert [op.output for op in imported(Guarded(guard)).ops] == ["conv", "clip", "add"]


def test_parametrised_weights() -> None:
    graph = imported(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)), nn.ReLU()))
    assert kinds(graph) == ["conv", "clip"]


def test_a_buffer_that_counts_calls_is_ignored() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return F.relu(x)

    assert kinds(imported(Counting())) == ["clip"]


@pytest.mark.parametrize("wrap", [lambda y: [y], lambda y: {"out": y}, lambda y: (y,)], ids=["list", "dict", "tuple"])
def test_one_tensor_in_a_container_is_one_output(wrap: Callable[[Tensor], Any]) -> None:
    graph = import_module(Calls(lambda x: wrap(F.relu(x))), SHAPE, name="net")
    assert graph.outputs == ("clip",)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)) + x  # the line of the test below


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("offset", torch.randn(1, 8, 1, 1))
        self.free = nn.Parameter(torch.randn(4, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.block(x))
        kernel = self.free - self.free.mean((1, 2, 3), keepdim=True)
        return F.conv2d(y * self.scale + self.offset, kernel)


def test_names_sources_and_shared_weights() -> None:
    graph = imported(Net())
    assert [(op.output, op.inputs) for op in graph.ops] == [
        ("block.conv", ("x", "block.conv.weight", "block.conv.bias")),
        ("block.act", ("block.conv",)),
        ("block.add", ("block.act", "x")),
        ("block.conv_2", ("block.add", "block.conv.weight", "block.conv.bias")),
        ("block.act_2", ("block.conv_2",)),
        ("block.add_2", ("block.act_2", "block.add")),
        ("mul", ("block.add_2", "scale")),
        ("add", ("mul", "offset")),
        ("conv", ("add", "conv2d.weight")),
    ]
    assert graph.shape("scale") == (1, 8, 1, 1)
    lines = Path(__file__).read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if "# the line of the test below" in line)
    for name, module in {"block.conv": "block.conv", "block.act": "block.act", "block.add": "block"}.items():
        source = graph.makers[name].source
        assert (source.module, source.line) == (module, f"{Path(__file__).name}:{number}")


def test_a_moved_value_belongs_to_where_it_is_moved() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(x.mean((2, 3), keepdim=True).flatten(1))

    assert [op.output for op in imported(Head()).ops] == ["global_pool", "flatten", "classifier"]


def test_an_assembled_weight_is_a_constant() -> None:
    net = Net()
    graph = imported(net)
    expected = (net.free - net.free.mean((1, 2, 3), keepdim=True)).detach().numpy()
    assert np.array_equal(graph.const("conv2d.weight"), expected)
    assert "free" not in graph.values


def test_importing_twice_gives_the_same_text() -> None:
    net = Net()
    assert dumps(import_module(net, SHAPE, name="net")) == dumps(import_module(net, SHAPE, name="net"))


def test_any_names_make_legal_text() -> None:
    net = nn.Sequential()
    net.add_module("first layer-1", nn.Conv2d(8, 4, 1))
    net.add_module("first layer_1", nn.Conv2d(4, 4, 1))
    graph = import_module(net, SHAPE, name="my net (small)")
    assert graph.name == "my_net__small)"
    assert [op.output for op in graph.ops] == ["first_layer_1", "first_layer_1_2"]
    assert dumps(parse(dumps(graph))) == dumps(graph)


def test_the_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU())
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    import_module(net, SHAPE, name="net")
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_graph_does_not_share_memory_with_the_module() -> None:
    net = nn.Conv2d(8, 4, 1)
    graph = import_module(net, SHAPE, name="net")
    before = graph.const("weight").copy()
    nn.init.zeros_(net.weight)
    assert np.array_equal(graph.const("weight"), before)


def test_importing_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_module(Net(), SHAPE, name="net")
    assert capfd.readouterr() == ("", "")


def test_weights_in_half_precision_become_float32() -> None:
    net = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU()).to(torch.bfloat16)
    graph = import_module(net, SHAPE, name="net")
    assert np.array_equal(graph.const("0.weight"), net[0].weight.detach().float().numpy())
