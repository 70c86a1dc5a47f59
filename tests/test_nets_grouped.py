"""ShuffleNetV1 and IGCV1: how their groups are permuted, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.errors import UsageError
from edgecnn.nets import build_net
from edgecnn.nets.igcv1 import IgcBlock, InterleavedGroupConv
from edgecnn.nets.shufflenet_v1 import ShuffleUnit


def drawn(module: torch.nn.Module) -> torch.nn.Module:
    """The module in eval mode with drawn weights and statistics, in float64."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.25
    return module.eval()


def released_unit(unit: ShuffleUnit, x: Tensor, groups: int) -> Tensor:
    """The unit as the authors' code writes it."""
    branch = unit.branch_main_1(x)
    n, channels, height, width = branch.shape
    branch = branch.reshape(n, channels // groups, groups, height, width).permute(0, 2, 1, 3, 4)
    branch = unit.branch_main_2(branch.reshape(n, channels, height, width))
    if unit.stride == 1:
        return F.relu(x + branch)
    return torch.cat((F.avg_pool2d(x, 3, 2, 1), F.relu(branch)), 1)


def paper_unit(unit: ShuffleUnit, x: Tensor, groups: int) -> Tensor:
    """The unit of the paper's Figure 2: shuffle before the depthwise convolution, activate what is joined."""
    conv, norm, act, depthwise, depthwise_norm = unit.branch_main_1
    branch = act(norm(conv(x)))
    n, channels, height, width = branch.shape
    branch = branch.reshape(n, groups, channels // groups, height, width).permute(0, 2, 1, 3, 4)
    branch = unit.branch_main_2(depthwise_norm(depthwise(branch.reshape(n, channels, height, width))))
    return F.relu(x + branch if unit.stride == 1 else torch.cat((F.avg_pool2d(x, 3, 2, 1), branch), 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize(("layout", "direct"), [("paper", paper_unit), ("megvii", released_unit)])
def test_a_unit_is_that_of_its_source(layout, direct, groups: int, stride: int) -> None:
    out_channels = 24 if stride == 1 else 48
    unit = drawn(ShuffleUnit(24, out_channels, groups=groups, first_groups=groups, stride=stride, layout=layout))
    x = torch.rand(2, 24, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(unit(x), direct(unit, x, groups))


def test_the_two_layouts_differ_in_the_classifiers_bias_only() -> None:
    with torch.device("meta"):
        states = {layout: set(build_net("shufflenet_v1", layout=layout).state_dict()) for layout in ("paper", "megvii")}
    assert states["paper"] - states["megvii"] == {"classifier.0.bias"}
    assert states["megvii"] < states["paper"]
    assert "features.15.branch_main_2.1.running_var" in states["megvii"]


def test_the_first_pointwise_convolution_is_not_grouped() -> None:
    with torch.device("meta"):
        net = build_net("shufflenet_v1", groups=8)
    assert [unit.branch_main_1[0].groups for unit in net.features] == [1] + [8] * 15
    assert [unit.branch_main_2[0].groups for unit in net.features] == [8] * 16


@pytest.mark.parametrize(
    ("width", "groups", "reason"),
    [
        (0.5, 2, "25 in the first bottleneck"),
        (0.5, 4, "34 in the first bottleneck"),
        (0.25, 2, "12.5 in the first bottleneck"),
        (0.25, 4, "17 in the first bottleneck"),
        (0.25, 8, "84 that its unit adds"),
        (0.75, 3, "expected one of 0.25, 0.5, 1.0, 1.5, 2.0"),
    ],
)
def test_what_the_paper_does_not_define_is_refused(width: float, groups: int, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        build_net("shufflenet_v1", width=width, groups=groups)
    assert reason in " ".join(str(refusal.value).split())


def permutation(channels: int, rows: int) -> Tensor:
    """The matrix P of the paper: output channel k * rows + g reads channel g * channels / rows + k."""
    order = torch.arange(channels).reshape(rows, channels // rows).T.flatten()
    return torch.eye(channels, dtype=torch.float64)[order]


def block_diagonal(weight: Tensor, groups: int) -> Tensor:
    """The dense [O, I, kh, kw] weight of a grouped convolution."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * inputs : (g + 1) * inputs] = weight[rows]
    return dense


@pytest.mark.parametrize(("primary", "in_channels", "out_channels"), [(2, 6, 6), (6, 12, 12), (3, 6, 12)])
def test_interleaved_group_convolution_is_the_papers_product_of_matrices(
    primary: int, in_channels: int, out_channels: int
) -> None:
    layer = drawn(InterleavedGroupConv(in_channels, out_channels, primary=primary))
    secondary = out_channels // primary
    first = block_diagonal(layer.primary.weight, primary)
    second = block_diagonal(layer.secondary.weight, secondary)[:, :, 0, 0]
    swap = permutation(out_channels, primary)
    dense = torch.einsum("ab,bc,cd,deij->aeij", swap.T, second, swap, first)
    assert bool((dense != 0).all()), "an output does not see an input"
    x = torch.rand(1, in_channels, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = F.conv2d(x, dense, padding=1)
        # Two sums in another order: at most 9 * 12 + 12 products, a unit of 2**-53 each, on either side.
        assert float((layer(x) - expected).abs().max()) < 2 * 120 * 2.0**-53 * float(expected.abs().max())


def test_the_released_cifar_code_halves_the_secondary_partitions_where_channels_double() -> None:
    with torch.device("meta"):
        nets = {halved: build_net("igcv1_l24m2", halved=halved) for halved in (False, True)}
    found = {
        halved: [
            layer.igc.secondary_partitions
            for block in net.modules()
            if isinstance(block, IgcBlock)
            for layer in (block.layer1, block.layer2)
        ]
        for halved, net in nets.items()
    }
    assert found[False] == [2] * 12 + [4] * 12 + [8] * 12
    assert found[True] == [2] * 12 + [2] + [4] * 11 + [4] + [8] * 11


def test_a_depth_that_is_no_number_of_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="`depth` cannot be `36`"):
        build_net("igcv1_l24m2", depth=36)
    with torch.device("meta"):
        assert len(build_net("igcv1_l24m2", depth=38, shortcuts=False).stages[0]) == 12
