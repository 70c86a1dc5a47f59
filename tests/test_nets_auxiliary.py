"""Auxiliary classifiers help a net to train, with the weight that is stated, and no artifact has them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecnn.data import load_profile
from edgecnn.errors import InputError
from edgecnn.ir.from_torch import import_module
from edgecnn.nets import build_net
from edgecnn.nets.auxiliary import AuxiliaryClassifier, TrainingOutputs, drop_auxiliary
from edgecnn.nets.inception_layers import InputTransform
from edgecnn.nets.weights import put_tensors
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.loop import train_net
from edgecnn.train.settings import TrainSettings

WEIGHTS = {"googlenet": 0.3, "googlenet_paper": 0.3, "inception_v3": 0.4}
CLASSIFIERS = {"googlenet": 2, "googlenet_paper": 2, "inception_v3": 1}


class TwoHeads(nn.Module):
    """A linear classifier, and an auxiliary one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.aux: Head | None = Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor | TrainingOutputs:
        logits: torch.Tensor = self.fc(x)
        if self.training and self.aux is not None:
            return TrainingOutputs(logits, (self.aux(x),), 0.25)
        return logits


class Head(AuxiliaryClassifier):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.norm(x))
        return logits


def test_the_loss_is_the_weighted_sum() -> None:
    main, first, second = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(8) % 5

    def nll(logits: torch.Tensor) -> float:
        return float(-logits.log_softmax(1)[torch.arange(8), labels].mean())

    loss = TrainingOutputs(main, (first, second), 0.3).loss(nn.CrossEntropyLoss(), labels)
    # Three means of eight float64 numbers below 10: their order of summation is worth 1e-14 at most.
    assert float(loss) == pytest.approx(nll(main) + 0.3 * nll(first) + 0.3 * nll(second), abs=1e-13)
    assert float(TrainingOutputs.of(main).loss(nn.CrossEntropyLoss(), labels)) == pytest.approx(nll(main), abs=1e-13)


@pytest.mark.parametrize("name", WEIGHTS)
def test_in_training_mode_only_a_net_gives_auxiliary_logits_with_the_stated_weight(name: str) -> None:
    net = build_net(name, stem="small", num_classes=5, seed=0)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(x).shape == (2, 5)
        outputs = net.train()(x)
    assert isinstance(outputs, TrainingOutputs)
    assert outputs.weight == WEIGHTS[name]
    assert [logits.shape for logits in outputs.auxiliary] == [(2, 5)] * CLASSIFIERS[name]
    without = build_net(name, stem="small", num_classes=5, aux=False).train()
    with torch.no_grad():
        assert without(x).shape == (2, 5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_published_images_fit_the_auxiliary_classifiers(name: str) -> None:
    side = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        net = build_net(name).train()
        outputs = net(torch.empty(2, 3, side, side))
    assert [logits.shape for logits in outputs.auxiliary] == [(2, 1000)] * CLASSIFIERS[name]


@pytest.mark.parametrize("name", WEIGHTS)
def test_dropped_classifiers_change_nothing_but_the_parameters(name: str) -> None:
    net = build_net(name, stem="small", num_classes=5, seed=0)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        drop_auxiliary(net)
        assert torch.equal(net(x), before)
        assert net.train()(x).shape == (2, 5)
    bare = build_net(name, stem="small", num_classes=5, aux=False)
    assert list(net.state_dict()) == list(bare.state_dict())


def test_no_auxiliary_classifier_is_in_the_graph() -> None:
    net = build_net("googlenet", stem="small", num_classes=5, seed=0)
    graph = import_module(net, (3, 32, 32), name="googlenet")
    assert [op.name for op in graph.ops if "aux" in op.source.module] == []


def test_weights_without_auxiliary_ones_are_for_the_net_without() -> None:
    bare = build_net("googlenet", stem="small", num_classes=5, aux=False, seed=1)
    with pytest.raises(InputError, match="the weights are not this net's"):
        put_tensors(build_net("googlenet", stem="small", num_classes=5), bare.state_dict(), where="here")
    other = build_net("googlenet", stem="small", num_classes=5, aux=False, seed=2)
    put_tensors(other, bare.state_dict(), where="here")
    assert torch.equal(other.state_dict()["fc.weight"], bare.state_dict()["fc.weight"])


def test_training_moves_the_auxiliary_classifier_and_adds_its_loss() -> None:
    class Scans(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)
            self.aux = ScanHead()

        def forward(self, x: torch.Tensor) -> torch.Tensor | TrainingOutputs:
            flat = torch.flatten(x, 1)
            logits: torch.Tensor = self.fc(flat)
            return TrainingOutputs(logits, (self.aux(flat),), 0.25) if self.training else logits

    class ScanHead(AuxiliaryClassifier):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(x)
            return logits

    net = Scans()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    # One step from equal logits, so that every classifier's loss is ln 10 whatever the images.
    digits = load_profile("digits", input_shape=(1, 8, 8))
    settings = TrainSettings(epochs=1, batch_size=1024, lr=0.1, warmup_epochs=0, weight_decay=0, label_smoothing=0)
    result = train_net(net, digits, settings=settings)
    assert result.history[0].loss == pytest.approx(1.25 * torch.tensor(10.0).log().item(), rel=1e-6)
    # Both classifiers are alike and saw the same; the gradient of one has a quarter of the other's weight.
    assert float(net.fc.weight.detach().abs().max()) > 0
    torch.testing.assert_close(net.aux.fc.weight, 0.25 * net.fc.weight, rtol=1e-5, atol=1e-9)


def test_batch_norm_of_auxiliary_classifiers_keeps_its_statistics() -> None:
    net = TwoHeads().train()
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) + 3
    net(x)
    assert net.aux is not None
    before = {k: v.clone() for k, v in net.aux.norm.state_dict().items()}
    assert float(before["running_mean"].min()) > 0
    recalibrate_batch_norm(net, [x.numpy()])
    assert all(torch.equal(v, before[k]) for k, v in net.aux.norm.state_dict().items())


def test_the_input_transform_is_from_imagenets_normalisation_to_halves() -> None:
    p = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = torch.tensor((0.485, 0.456, 0.406), dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225), dtype=torch.float64).view(1, 3, 1, 1)
    # Scale and shift are float32 numbers below 1: 2^-25 each, on inputs below 3.
    torch.testing.assert_close(InputTransform()((p - mean) / std), 2 * p - 1, rtol=0, atol=4 * 2**-25)
