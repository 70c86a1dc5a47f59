"""MobileNetV3, MnasNet and the EfficientNets beyond torchvision: timm's outputs, stochastic depth, official images."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from torchvision_import import declare_torchvision_ops

from edgecnn.nets import NETS, build_net, init_random
from edgecnn.nets.efficientnet_blocks import MBConv
from edgecnn.pipeline.source import official_preprocessing

TIMM_TWINS = {
    "efficientnet_lite0": ("efficientnet_lite0", {}),
    "efficientnet_lite2": ("efficientnet_lite2", {}),
    "mnasnet_a1": ("semnasnet_100", {}),
    "mobilenet_v3_large": ("mobilenetv3_large_075", {"width": 0.75, "scaling": "paper"}),
    "mobilenet_v3_small": ("mobilenetv3_small_050", {"width": 0.5, "scaling": "paper"}),
}
MINIMAL_TWINS = {
    "mobilenet_v3_large": ("tf_mobilenetv3_large_minimal_100", {"minimalistic": True}),
    "mobilenet_v3_small": ("tf_mobilenetv3_small_minimal_100", {"minimalistic": True}),
}
TWINS = [(ours, *twin) for twins in (TIMM_TWINS, MINIMAL_TWINS) for ours, twin in twins.items()]


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    declared = declare_torchvision_ops()
    import timm

    del declared
    return timm


@pytest.mark.parametrize(("name", "twin", "options"), TWINS)
def test_same_weights_same_outputs_as_in_timm(
    name: str, twin: str, options: dict[str, object], timm: ModuleType
) -> None:
    # TensorFlow's padding of its own checkpoints is asymmetric at stride 2; eps is that of the authors' code.
    theirs, ours = timm.create_model(twin, bn_eps=1e-3, pad_type=""), build_net(name, **options)
    init_random(theirs, 3, (3, 64, 64))
    # The layers stand in the same order under other names.
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(
        {k: v.reshape(ours.state_dict()[k].shape) for k, v in state.items()}  # the head is a 1x1 convolution there
    )
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found, expected = ours.double()(x), theirs.double().eval()(x)
    # In float64 the longest sum here, of 1280 products, is off by 1280 * 2**-53 = 1.4e-13 of its magnitude at most;
    # a hundred layers in a row by 1.4e-11.
    assert float((found - expected).abs().max()) < 2e-11 * float(expected.abs().max())


def test_stochastic_depth_rises_over_the_blocks() -> None:
    with torch.device("meta"):
        net = build_net("efficientnet_b0", drop_path=0.2)
    drops = [m.stochastic_depth.drop for m in net.modules() if isinstance(m, MBConv)]
    assert drops == [0.2 * i / 16 for i in range(16)]


def test_official_weights_keep_their_preprocessing_at_any_size() -> None:
    official = NETS["efficientnet_v2_l"].pretrained
    assert official is not None
    small = official_preprocessing(official, (3, 240, 320))
    assert (small.mean, small.std, small.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert (small.resize, small.crop) == ((240, 320), (240, 320))

    official = NETS["efficientnet_b3"].pretrained
    assert official is not None
    assert official_preprocessing(official, (3, 300, 300)).resize == (320, 320)
    assert official_preprocessing(official, (3, 150, 150)).resize == (160, 160)
