"""The HetConv layer is the paper's: shifted 3x3 kernels, 1x1 elsewhere, and parameters for nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgecnn.nets.hetconv import HetConv2d, residue_order


def papers_kernel(out_channels: int, in_channels: int, p: int, seed: int) -> torch.Tensor:
    """[N, M, 3, 3]: filter f has a full kernel on channel c where (c - f) mod P is 0, and a centre tap elsewhere."""
    kernel = torch.randn(out_channels, in_channels, 3, 3, dtype=torch.float64, generator=torch.manual_seed(seed))
    full = (torch.arange(in_channels)[None] - torch.arange(out_channels)[:, None]) % p == 0
    centre = torch.zeros(3, 3, dtype=torch.bool)
    centre[1, 1] = True
    return kernel * (full[:, :, None, None] | centre)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("m", "n", "p"), [(16, 32, 4), (32, 16, 8), (64, 64, 64), (12, 12, 3), (8, 8, 2), (12, 18, 6), (4, 6, 1)]
)
def test_the_layer_is_the_papers_shifted_convolution(m: int, n: int, p: int, stride: int) -> None:
    kernel = papers_kernel(n, m, p, seed=m + n + p)
    ins, outs = residue_order(m, p), residue_order(n, p)
    sorted_kernel = kernel[outs][:, ins]
    layer = HetConv2d(m, n, p, stride=stride, bias=True).double()
    with torch.no_grad():
        for f in range(n):
            own = range(f // (n // p) * (m // p), (f // (n // p) + 1) * (m // p))
            layer.weight_3x3[f] = sorted_kernel[f, own.start : own.stop]
            if layer.weight_1x1 is not None:
                layer.weight_1x1[f] = sorted_kernel[f, [c for c in range(m) if c not in own], 1, 1]
        layer.bias.normal_()
    assert torch.equal(layer.dense_kernel(), sorted_kernel)

    x = torch.randn(2, m, 9, 7, dtype=torch.float64)
    unsorted_bias = torch.empty_like(layer.bias)
    unsorted_bias[outs] = layer.bias
    theirs = F.conv2d(x, kernel, unsorted_bias, stride, padding=1)[:, outs]
    ours = layer(x[:, ins])
    # Both sum the same at most 9 M + 1 products in some order; each order is off by at most that many roundings of
    # the sum of magnitudes.
    terms = 9 * m + 2
    magnitude = F.conv2d(x.abs(), kernel.abs(), unsorted_bias.abs(), stride, padding=1)[:, outs]
    assert bool(((ours - theirs).abs() <= 2 * terms * 2.0**-53 * magnitude).all())


@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_parameters_exist_only_where_kernels_do(p: int) -> None:
    m, n = 16, 24
    layer = HetConv2d(m, n, p)
    assert sum(w.numel() for w in layer.parameters()) == n * (9 * m // p + m - m // p)
    layer.weight_3x3.data.fill_(1.0)
    if layer.weight_1x1 is not None:
        layer.weight_1x1.data.fill_(1.0)
    assert int(layer.dense_kernel().count_nonzero()) == sum(w.numel() for w in layer.parameters())


def test_training_never_fills_the_zeros() -> None:
    layer = HetConv2d(8, 8, 4)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = layer.pointwise().detach().clone()
    for _ in range(3):
        optimiser.zero_grad()
        layer(torch.randn(4, 8, 6, 6)).square().mean().backward()
        optimiser.step()
    after = layer.pointwise()[:, :, 0, 0]
    assert not after[~layer.pointwise_mask].any()
    assert bool((after != before[:, :, 0, 0])[layer.pointwise_mask].all())


def test_gradients_are_those_of_the_dense_kernel() -> None:
    layer = HetConv2d(6, 9, 3).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w3, w1: torch.func.functional_call(layer, {"weight_3x3": w3, "weight_1x1": w1}, (x,)),
        (layer.weight_3x3, layer.weight_1x1),
    )


def test_the_state_holds_the_parameters_and_nothing_else() -> None:
    assert set(HetConv2d(8, 8, 4, bias=True).state_dict()) == {"weight_3x3", "weight_1x1", "bias"}
    assert set(HetConv2d(8, 8, 1).state_dict()) == {"weight_3x3"}


@pytest.mark.parametrize("p", [1, 2, 8])
def test_initialisation_is_he_by_the_taps_that_leave_an_input_channel(p: int) -> None:
    layer = HetConv2d(64, 96, p)
    fan_out = int(layer.dense_kernel().count_nonzero()) / 64
    layer.reset_parameters(torch.Generator().manual_seed(0))
    for weight in layer.parameters():
        # The standard deviation of n normal numbers is off by about 1 / sqrt(2 n) of itself; five times that.
        assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=5 / (2 * weight.numel()) ** 0.5)


def test_p_must_divide_both_channel_numbers() -> None:
    with pytest.raises(ValueError, match=r"^HetConv with P = 4 needs multiples of it, not 8 and 6 channels$"):
        HetConv2d(8, 6, 4)
