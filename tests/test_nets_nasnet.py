"""NASNet-A is the net of the ports: the same weights give the same outputs as timm's, at even and odd sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision_import import declare_torchvision_ops

from edgecnn.nets import build_net
from edgecnn.nets.nasnet import NasNetA, same_padding

SMALL = {"drop_path": 0.0, "num_classes": 7, "stem": "imagenet", "dropout": 0.0}


class AverageWithoutPadding(nn.Module):
    """TensorFlow's average over what is inside of the map; timm's counts the zeros it pads with at stride 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = [pad for size in (x.shape[3], x.shape[2]) for pad in same_padding(size, 3, 2)]
        inside = F.avg_pool2d(F.pad(torch.ones_like(x), pads), 3, 2)
        return F.avg_pool2d(F.pad(x, pads), 3, 2) / inside


def timm_net(width: int, stem_channels: int) -> nn.Module:
    """timm's net of 6 cells a stage, with averages as TensorFlow has them."""
    declared = declare_torchvision_ops()
    nasnet = pytest.importorskip("timm.models.nasnet", reason="timm is not installed", exc_type=ImportError)
    del declared
    net = nasnet.NASNetALarge(num_classes=7, num_features=24 * width, stem_size=stem_channels, pad_type="same")
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "AvgPool2dSame":
                setattr(module, name, AverageWithoutPadding())
    return net.double().eval()


@pytest.mark.parametrize("side", [64, 75, 99])
def test_the_large_net_is_timms(side: int) -> None:
    theirs = timm_net(8, 6)
    ours = NasNetA(6, 8, stem_channels=6, skips_reduction=True, **SMALL).double().eval()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
        if "bn" in name and not name.endswith(("bias", "num_batches_tracked"))
        else torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.is_floating_point()
        else value
        for name, value in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    x = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    # The same operations on the same numbers; only averages at the border are divided in another order, which is a few
    # units of 2**-53 each; sixty layers of at most 200 products leave 60 * 200 of them, and ten times that for chance.
    assert float((found - expected).abs().max()) < 60 * 200 * 10 * 2.0**-53 * float(expected.abs().max())


def test_the_mobile_net_has_the_names_of_the_port() -> None:
    with torch.device("meta"):
        state = build_net("nasnet_a_mobile").state_dict()
    cells = ["cell_stem_0", "cell_stem_1", *(f"cell_{i}" for i in (0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15))]
    assert {name.split(".")[0] for name in state} == {
        "conv0",
        *cells,
        "reduction_cell_0",
        "reduction_cell_1",
        "last_linear",
    }
    assert tuple(state["cell_stem_0.comb_iter_0_right.separable_1.depthwise_conv2d.weight"].shape) == (32, 1, 7, 7)
    assert tuple(state["cell_stem_1.path_2.conv.weight"].shape) == (11, 32, 1, 1)
    assert tuple(state["cell_6.final_path_bn.weight"].shape) == (88,)
    assert tuple(state["reduction_cell_1.conv_prev_1x1.conv.weight"].shape) == (176, 528, 1, 1)
    assert tuple(state["last_linear.weight"].shape) == (1000, 1056)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 2)])
def test_same_padding_fits_as_many_windows_as_strides(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1
    windows = (size + before + after - kernel) // stride + 1
    assert windows == -(-size // stride)


def test_paths_are_dropped_in_training_only_and_later_ones_more_often() -> None:
    with torch.device("meta"):
        net = build_net("nasnet_a_mobile", drop_path=0.3)
    rates = [getattr(net, name).drop.drop for name in ("cell_stem_0", "cell_0", "reduction_cell_0", "cell_15")]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(0.3 / 16)
    assert rates[-1] == pytest.approx(0.3)
