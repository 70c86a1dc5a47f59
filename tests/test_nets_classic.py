"""What AlexNet and VGG have of their own: the paper's normalisation and groups, and stems for small images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.nets import build_net
from edgecnn.nets.alexnet import AlexNet2012


def alexnet_2012() -> AlexNet2012:
    net = build_net("alexnet_2012", stem="small", num_classes=5, seed=0)
    assert isinstance(net, AlexNet2012)
    return net


def test_the_normalisation_is_the_papers() -> None:
    # b_i = a_i / (k + alpha * sum over j of a_j^2) ** beta, over channels i - n/2 to i + n/2 (n = 5: two each side).
    norms = [m for m in alexnet_2012().modules() if isinstance(m, nn.LocalResponseNorm)]
    a = 30 * torch.rand(2, 9, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.empty_like(a)
    for i in range(9):
        squares = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(8, i + 2) + 1))
        expected[:, i] = a[:, i] / (2 + 1e-4 * squares) ** 0.75
    assert len(norms) == 2
    # Float64 throughout; a mean of five times five differs from a sum in the last place of each.
    torch.testing.assert_close(norms[0](a), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(norms[1](a), expected, rtol=1e-14, atol=0)
    # The constants matter here: without alpha's factor n the largest would be off by several percent.
    assert float((nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)(a) / expected - 1).max()) > 0.05


def test_groups_weights_and_biases_are_the_papers() -> None:
    net = alexnet_2012()
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.groups) for c in convs] == [(96, 1), (256, 2), (384, 1), (384, 2), (256, 2)]
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    biases = [float(layer.bias.detach()[0]) for layer in layers if layer.bias is not None]
    assert biases == [0, 1, 0, 1, 1, 1, 1, 0]
    hidden = next(m for m in net.modules() if isinstance(m, nn.Linear))
    # A million numbers: their deviation is known to 1 / sqrt(2 million) of itself; five times that.
    assert float(hidden.weight.detach().std()) == pytest.approx(0.01, rel=5 * 2e6**-0.5)


@pytest.mark.parametrize(("name", "first"), [("alexnet", "classifier.1"), ("vgg11", "classifier.0")])
def test_the_small_net_reads_the_global_mean(name: str, first: str) -> None:
    with torch.device("meta"):
        small, published = (build_net(name, stem=stem).state_dict() for stem in ("small", "imagenet"))
    differing = {k for k in small if small[k].shape != published[k].shape}
    assert set(small) == set(published)
    assert differing == {f"{first}.weight"} | ({"features.0.weight"} if name == "alexnet" else set())
    assert small[f"{first}.weight"].shape[1] == small[f"features.{10 if name == 'alexnet' else 18}.weight"].shape[0]


def test_googlenet_as_published_differs_from_torchvisions_where_said() -> None:
    with torch.device("meta"):
        paper, torchvisions = build_net("googlenet_paper"), build_net("googlenet")
    large = {k: m.kernel_size for k, m in paper.named_modules() if k.endswith("branch3.1.conv")}
    assert set(large.values()) == {(5, 5)}
    assert {m.kernel_size for k, m in torchvisions.named_modules() if k in large} == {(3, 3)}
    assert not [m for m in paper.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = {k: (m.size, m.alpha, m.beta, m.k) for k, m in paper.named_modules() if isinstance(m, nn.LocalResponseNorm)}
    assert norms == dict.fromkeys(("norm1", "norm2"), (5, 1e-4, 0.75, 1.0))
    assert (paper.maxpool4.kernel_size, torchvisions.maxpool4.kernel_size) == (3, 2)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in paper.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    with torch.no_grad():
        paper(torch.empty(1, 3, 224, 224, device="meta"))
    # The output sizes of the paper's Table 1.
    table = {"maxpool1": (64, 56), "maxpool2": (192, 28), "maxpool3": (480, 14), "maxpool4": (832, 7)}
    assert {k: shapes[k][1:] for k in table} == {k: (c, side, side) for k, (c, side) in table.items()}
