"""Local response normalisation is found in any spelling that means it, and in none that does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.errors import UnsupportedOp
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.reference import run

SHAPE = (6, 5, 7)


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def caffe(x: Tensor) -> Tensor:
    """The layer that nets of before `nn.LocalResponseNorm` brought along."""
    return x.div(F.avg_pool3d(x.pow(2).unsqueeze(1), (5, 1, 1), 1, (2, 0, 0)).squeeze(1).mul(1e-2).add(1.0).pow(0.75))


def by_rows(x: Tensor) -> Tensor:
    """Channels as rows of a map, in two dimensions; the mean becomes the sum by a factor."""
    n, c, h, w = x.shape
    rows = F.avg_pool2d(F.pad((x * x).reshape(n, 1, c, h * w), (0, 0, 1, 1)), (3, 1), 1) * 3
    return x * (2.0 + 1e-2 * rows.view(n, c, h, w)) ** -0.5


FOUND: dict[str, tuple[nn.Module, dict[str, float]]] = {
    "layer": (nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2}),
    "defaults": (nn.LocalResponseNorm(3), {"size": 3, "alpha": 1e-4, "beta": 0.75, "k": 1}),
    "even": (nn.LocalResponseNorm(4, alpha=1.0, beta=0.5), {"size": 4, "alpha": 1, "beta": 0.5, "k": 1}),
    "wider_than_the_channels": (nn.LocalResponseNorm(15), {"size": 15, "alpha": 1e-4, "beta": 0.75, "k": 1}),
    "caffe": (Calls(caffe), {"size": 5, "alpha": 1e-2, "beta": 0.75, "k": 1}),
    "by_rows": (Calls(by_rows), {"size": 3, "alpha": 3e-2, "beta": 0.5, "k": 2}),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_one_op(name: str) -> None:
    module, attrs = FOUND[name]
    graph = import_module(module, SHAPE, name="net")
    assert [op.kind for op in graph.ops] == ["lrn"]
    assert graph.ops[0].attrs == pytest.approx(attrs, rel=1e-12)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 10
    # The same formula but for the order of at most 15 additions, a power and a division.
    np.testing.assert_allclose(run(graph, x.numpy())[0], module(x).numpy(), rtol=20 * np.finfo(np.float32).eps)


def test_it_is_named_after_its_layer_and_the_rest_of_the_net_stays() -> None:
    net = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.LocalResponseNorm(3), nn.MaxPool2d(2))
    graph = import_module(net, SHAPE, name="net")
    assert [op.kind for op in graph.ops] == ["conv", "clip", "lrn", "max_pool"]
    assert graph.ops[2].name == "2"


def test_a_block_without_gradient() -> None:
    class Guarded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return F.local_response_norm(x + 1.0, 3)

    graph = import_module(Guarded(), SHAPE, name="net")
    assert [op.kind for op in graph.ops] == ["add", "lrn"]


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    # The window lies one channel higher than that of an even size.
    "shifted": lambda x: (
        x / (F.avg_pool3d(F.pad((x * x).unsqueeze(1), (0, 0, 0, 0, 1, 2)), (4, 1, 1), 1).squeeze(1) + 1.0).pow(0.75)
    ),
    "within_a_channel": lambda x: x / (F.avg_pool2d(x * x, 3, 1, 1) + 1.0).pow(0.75),
    "of_another_value": lambda x: (
        x / (F.avg_pool3d((F.relu(x) ** 2).unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1) + 1.0).pow(0.75)
    ),
    "without_the_zeros_of_the_border": lambda x: (
        x
        / (F.avg_pool3d((x * x).unsqueeze(1), (3, 1, 1), 1, (1, 0, 0), count_include_pad=False).squeeze(1) + 1.0).pow(
            0.75
        )
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_it_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(UnsupportedOp, match="cannot import"):
        import_module(Calls(OTHERS[name]), SHAPE, name="net")
