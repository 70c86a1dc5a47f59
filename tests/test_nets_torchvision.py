"""Where torchvision has the same net, its weights load and give its outputs, and its official files are the ones used.

torchvision is no dependency: the test runs where it is installed beside torch (`pip install --no-deps torchvision`).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchvision_import import declare_torchvision_ops

from edgecnn.nets import NETS, build_net, init_random
from edgecnn.pipeline.source import load_source

pytestmark = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")

WITH_TORCHVISION = sorted(name for name in NETS if NETS[name].pretrained is not None)

# What torchvision sets when it loads the official weights, and with `init_weights` a choice that it wants made.
OFFICIAL = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}
SIDE = {"inception_v3": 75}


@pytest.fixture(scope="module")
def models() -> ModuleType:
    declared = declare_torchvision_ops()
    import torchvision.models

    del declared
    return torchvision.models


@pytest.mark.parametrize("name", WITH_TORCHVISION)
def test_same_seed_same_initial_weights(name: str, models: ModuleType) -> None:
    torch.manual_seed(5)
    theirs = models.get_model(name, weights=None, **OFFICIAL.get(name, {})).state_dict()
    ours = build_net(name, seed=5).state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("name", WITH_TORCHVISION)
def test_same_weights_same_outputs(name: str, models: ModuleType) -> None:
    theirs, ours = models.get_model(name, weights=None, **OFFICIAL.get(name, {})), build_net(name)
    side = SIDE.get(name, 64)
    init_random(theirs, 3, (3, side, side))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # The same operators on the same numbers in the same order.
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_a_file_with_auxiliary_weights_gives_torchvisions_deployed_net(
    name: str, models: ModuleType, tmp_path: Path
) -> None:
    theirs = models.get_model(name, weights=None, **OFFICIAL[name])
    init_random(theirs, 3, (3, 75, 75))
    path = tmp_path / "official.pth"
    torch.save(theirs.state_dict(), path)
    source = load_source(name, weights=str(path))
    assert source.module is not None
    assert source.params == sum(p.numel() for k, p in theirs.named_parameters() if not k.lower().startswith("aux"))
    x = torch.randn(2, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(source.module(x), theirs(x))


@pytest.mark.parametrize("name", WITH_TORCHVISION)
def test_the_official_file_is_torchvisions_default(name: str, models: ModuleType) -> None:
    default = models.get_model_weights(name).DEFAULT
    pretrained = NETS[name].pretrained
    assert pretrained is not None
    assert pretrained.url == default.url
    accuracy = default.meta["_metrics"]["ImageNet-1K"]
    assert (pretrained.top1, pretrained.top5) == (accuracy["acc@1"], accuracy["acc@5"])
    prepare = default.transforms()
    assert [pretrained.resize] == prepare.resize_size
    assert [pretrained.crop] == prepare.crop_size
    assert pretrained.interpolation == prepare.interpolation.value
    assert (list(pretrained.mean), list(pretrained.std)) == (list(prepare.mean), list(prepare.std))


@pytest.mark.filterwarnings("ignore:A new version of MNASNet")
@pytest.mark.parametrize(("stem_width", "version"), [("scaled", 2), ("fixed", 1)])
def test_mnasnets_of_both_versions_go_to_torchvision_and_back(
    stem_width: str, version: int, models: ModuleType
) -> None:
    ours, theirs = build_net("mnasnet0_5", stem_width=stem_width, seed=0), models.mnasnet0_5()
    theirs.load_state_dict(ours.state_dict())  # it reads the version and rebuilds its stem for the first
    assert theirs.state_dict()._metadata[""]["version"] == version
    back = build_net("mnasnet0_5", stem_width=stem_width)
    back.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(back(x), theirs.eval()(x))
        assert torch.equal(back(x), ours(x))
