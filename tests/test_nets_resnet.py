"""What the residual nets' options promise, and the nets that timm has and torchvision has not."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torchvision_import import declare_torchvision_ops

from edgecnn.nets import build_net, init_random
from edgecnn.nets.resnet import ResNet

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("output_stride", "every"), [(8, 4), (16, 2)])
def test_dilated_resnet18_sees_the_pixels_that_resnet18_sees(output_stride: int, every: int) -> None:
    plain = build_net("resnet18", seed=0)
    dilated = build_net("resnet18_dilated", output_stride=output_stride)
    assert isinstance(plain, ResNet)
    assert isinstance(dilated, ResNet)
    init_random(plain, 0, (3, 96, 96))
    dilated.load_state_dict(plain.state_dict(), strict=True)
    with torch.no_grad():
        expected = plain.double().features(images(96))
        dense = dilated.double().features(images(96))
    assert dense.shape[2:] == (96 // output_stride, 96 // output_stride)
    # Sums of 9 * 512 products, at most, in another order: 1e-12 of their magnitude each, seventeen in a row.
    assert float((dense[:, :, ::every, ::every] - expected).abs().max()) < 2e-11 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet152"])
def test_the_two_strides_have_the_same_tensors_and_differ(name: str) -> None:
    strides = {}
    with torch.device("meta"):
        for at in ("3x3", "1x1"):
            net = build_net(name, stride_at=at)
            strides[at] = [
                (m.kernel_size, k)
                for k, m in net.named_modules()
                if isinstance(m, nn.Conv2d) and m.stride == (2, 2) and "downsample" not in k and k != "conv1"
            ]
    assert [(k, n.rsplit(".", 1)[1]) for k, n in strides["3x3"]] == [((3, 3), "conv2")] * 3
    assert [(k, n.rsplit(".", 1)[1]) for k, n in strides["1x1"]] == [((1, 1), "conv1")] * 3


LEGACY_NAMES = (("layer0.", ""), ("se_module.", "se."), ("last_linear.", "fc."))


@needs_timm
@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("seresnet50", {}, "seresnet50"),
        ("seresnet50", {"layout": "caffe"}, "legacy_seresnet50"),
        ("seresnext50_32x4d", {}, "seresnext50_32x4d"),
        ("seresnext50_32x4d", {"layout": "caffe"}, "legacy_seresnext50_32x4d"),
        ("resnext101_32x4d", {}, "resnext101_32x4d"),
        ("xception", {"norm_eps": 1e-5}, "legacy_xception"),
    ],
)
def test_same_weights_same_outputs_as_timm(name: str, options: dict[str, object], theirs: str) -> None:
    declared = declare_torchvision_ops()  # timm imports torchvision
    import timm

    del declared
    other = timm.create_model(theirs).eval()
    init_random(other, 3, (3, 75, 75))
    state = other.state_dict()
    if theirs.startswith("legacy_se"):
        for old, new in LEGACY_NAMES:
            state = {k.replace(old, new): t for k, t in state.items()}
    ours = build_net(name, **options)
    ours.load_state_dict(state, strict=True)
    x = images(75)
    with torch.no_grad():
        expected = other.double()(x)
        got = ours.double()(x)
    # The same operators in the same order, but for the mean over H and W, which timm takes otherwise: a rounding each.
    assert float((got - expected).abs().max()) < 1e-12 * float(expected.abs().max())
