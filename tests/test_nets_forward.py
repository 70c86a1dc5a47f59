"""Every net computes: with the stem for small images, image by image, trainably, and without touching its input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.nets import NETS, build_net, init_random
from edgecnn.nets.auxiliary import TrainingOutputs
from edgecnn.nets.layers import StochasticDepth, channel_shuffle
from edgecnn.nets.resnet_cifar import add_padded

NARROW: dict[str, dict[str, object]] = {
    name: {"width": 0.25} for name in NETS if any(o.name == "width" for o in NETS[name].options)
}
# The wider or deeper nets of a family are the same code; the slowest net is seen at a smaller size.
SAME_CODE = {
    *("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("igcv1_l16m16", "igcv1_l4m32"),
    *(f"efficientnet_b{i}" for i in (1, 2, 3, 4, 5, 6, 7)),
    *(f"efficientnet_lite{i}" for i in (1, 2, 3, 4)),
    *("efficientnet_v2_m", "efficientnet_v2_l"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_3"),
    *("resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("seresnet101", "seresnet152", "seresnext101_32x4d"),
    *("resnet32", "resnet38", "resnet44", "resnet56", "resnet74", "resnet110", "resnet152_cifar"),
    *("densenet161", "densenet169", "densenet201"),
    *("vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
}
DISTINCT = sorted(set(NETS) - SAME_CODE)
SIDE = {"resnet18": 16}


def small(name: str, **options: object) -> tuple[nn.Module, int]:
    """A net for small images with random weights, and the side of its images."""
    net, side = (
        build_net(name, stem="small", num_classes=5, seed=0, **NARROW.get(name, {}), **options),
        SIDE.get(name, 32),
    )
    init_random(net, 0, (3, side, side))
    return net, side


@pytest.mark.parametrize("name", DISTINCT)
def test_small_images(name: str) -> None:
    net, side = small(name)
    net.double()
    x = torch.randn(3, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    with torch.no_grad():
        whole = net(x)
        singles = torch.cat([net(image[None]) for image in x])
    assert whole.shape == (3, 5)
    assert torch.equal(x, kept)
    # A batch may be summed in another order than a single image. A sum of at most 9 * 512 products is off by 1e-12 of
    # its magnitude at most, sixty of them in a row by 6e-11; a hundred times that leaves room for cancellation.
    assert float((whole - singles).abs().max()) < 6e-9 * float(whole.abs().max())
    assert float((whole[0] - whole[1]).abs().max()) > 1e-3 * float(whole.abs().max()), "the image does not matter"


@pytest.mark.parametrize("name", DISTINCT)
def test_every_parameter_is_trained(name: str) -> None:
    net, side = small(name, dropout=0.0)
    net.train()
    x = torch.randn(6, 3, side, side, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    TrainingOutputs.of(net(x)).loss(nn.CrossEntropyLoss(), torch.arange(6) % 5).backward()
    without = [k for k, p in net.named_parameters() if p.grad is None]
    assert without == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", sorted(NETS))
def test_nothing_works_in_place(name: str) -> None:
    with torch.device("meta"):
        assert [k for k, m in build_net(name).named_modules() if getattr(m, "inplace", False)] == []


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "shufflenet_v2_x0_5", "mobilenet_v2", "hetconv_small"])
def test_the_stems_differ_in_resolution_only_where_said(name: str) -> None:
    with torch.device("meta"):
        stems = {stem: build_net(name, stem=stem) for stem in ("imagenet", "small")}
    shapes = {stem: {k: tuple(v.shape) for k, v in net.state_dict().items()} for stem, net in stems.items()}
    differing = {k for k in shapes["small"] if shapes["small"][k] != shapes["imagenet"][k]}
    assert set(shapes["small"]) == set(shapes["imagenet"])
    assert differing <= {"conv1.weight"}


def test_adding_to_the_middle_channels_is_adding_padded_zeros() -> None:
    branch, x = torch.randn(2, 12, 4, 4), torch.randn(2, 6, 4, 4)
    padded = nn.functional.pad(x, (0, 0, 0, 0, 3, 3))
    assert torch.equal(add_padded(branch, x), branch + padded)


def test_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(channel_shuffle(channel_shuffle(x, 2), 3), x)


def test_stochastic_depth_drops_whole_images_and_only_in_training() -> None:
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2, 1, 1)
    assert layer.eval()(x) is x
    torch.manual_seed(0)
    out = layer.train()(x)
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) / torch.tensor(0.75))}
    assert torch.equal(out[:, 0], out[:, 1])
    # 4000 draws of probability 1/4 have a standard deviation of 27.4; five of them.
    assert abs(int((out[:, 0] == 0).sum()) - 1000) < 137
