"""Every net has exactly the published net's parameters and multiply-adds; nothing is computed to find out."""

from __future__ import annotations

from math import prod

import pytest
import torch
from net_counts import Count, count, expected_counts, on_meta
from torch import nn

from edgecnn.nets import NETS
from edgecnn.nets.hetconv import HetConv2d

COUNTS = expected_counts()


def test_every_net_has_its_counts_asserted() -> None:
    default = {c.net: c for c in COUNTS if not c.options and c.input == NETS[c.net].input_shape}
    assert set(default) == set(NETS)
    for name, expected in default.items():
        assert (NETS[name].params, NETS[name].macs) == (expected.params, expected.macs), name


@pytest.mark.parametrize("expected", COUNTS, ids=str)
def test_counts(expected: Count) -> None:
    assert count(expected.net, expected.input, **dict(expected.options)) == (expected.params, expected.macs)


# P: parameters; multiply-adds of kernels that exist; multiply-adds that execute; the paper's MFLOPs, truncated.
HETCONV_VGG16 = {
    1: (14_987_786, 313.4638, 348.07, "313.74"),
    2: (8_450_570, 175.0518, 192.35, "175.23"),
    4: (5_181_962, 105.8458, 114.50, "105.98"),
    8: (3_547_658, 71.2428, 75.57, "71.35"),
    16: (2_730_506, 53.9412, 56.10, "54.04"),
    32: (2_321_930, 45.2905, 46.37, "45.38"),
    64: (2_117_642, 40.9651, 41.51, "41.05"),
}


def hetconv_outputs(net: nn.Module) -> list[tuple[nn.Module, int]]:
    """Every layer with weights and the number of positions it is applied at."""
    seen: list[tuple[nn.Module, int]] = []
    handles = [
        m.register_forward_hook(lambda m, i, out: seen.append((m, prod(out.shape[2:]))))
        for m in net.modules()
        if isinstance(m, (HetConv2d, nn.Conv2d, nn.Linear))
    ]
    net(torch.empty(1, 3, 32, 32, device="meta"))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("p", HETCONV_VGG16)
def test_hetconv_vgg16_is_the_papers(p: int) -> None:
    params, kernel_mmacs, executed_mmacs, printed = HETCONV_VGG16[p]
    counted_params, executed = count("vgg16_hetconv", (3, 32, 32), p=p)
    assert counted_params == params

    layers = hetconv_outputs(on_meta("vgg16_hetconv", (("p", p),))[0])
    kernels = sum(_weights(layer) * positions for layer, positions in layers)
    assert round(kernels / 1e6, 4) == kernel_mmacs
    # With P = 1 there is no 1x1 to execute; the code of the published figure runs a dense one over all channels.
    assert round(executed / 1e6, 2) == (313.46 if p == 1 else executed_mmacs)

    # The paper counts one addition per output of a convolution, and scales the additions of HetConv layers too.
    flops = 0
    for layer, positions in layers:
        if isinstance(layer, HetConv2d):
            dense = (layer.in_channels * 9 + 1) * layer.out_channels * positions
            flops += dense * _weights(layer) // (layer.in_channels * 9 * layer.out_channels)
        elif isinstance(layer, nn.Conv2d):
            flops += (_weights(layer) + layer.out_channels) * positions
        else:
            flops += _weights(layer)
    assert f"{flops // 10_000 / 100:.2f}" == printed


def _weights(layer: nn.Module) -> int:
    return sum(p.numel() for name, p in layer.named_parameters() if name != "bias")
