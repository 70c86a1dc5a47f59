"""The options of training, each against its formula; and that without them training is what it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_cases import digits, digits_graph

from edgecnn.data.preprocessing import normalize
from edgecnn.errors import EnvironmentFailure, UsageError
from edgecnn.ir.module import GraphModule
from edgecnn.nets import build_net
from edgecnn.nets.auxiliary import TrainingOutputs
from edgecnn.nets.layers import StochasticDepth, channel_shuffle
from edgecnn.train.augment import AUGMENTATIONS
from edgecnn.train.device import Compute
from edgecnn.train.ema import Ema
from edgecnn.train.loop import train_net
from edgecnn.train.loss import TrainingLoss, distillation
from edgecnn.train.regularize import Drops, Stage, check_sizes, cutout, mixup, resized, stage_of
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import tune_graph


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip


def test_without_options_training_is_the_plain_loop_to_the_bit() -> None:
    """What the loop does by default, written out: order, augmentation, schedule, clipping, SGD."""
    settings = TrainSettings(epochs=2, batch_size=64, warmup_epochs=0.5, augment="digits")
    ours, data = tiny_net(), digits()
    train_net(ours, data, settings=settings, seed=3)

    plain = tiny_net().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    parts = list(data.raw_batches(256, split="calibration"))
    pixels, labels = np.concatenate([p for p, _ in parts]), np.concatenate([y for _, y in parts if y is not None])
    weights = [p for p in plain.parameters() if p.ndim > 1]
    vectors = [p for p in plain.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.1, momentum=0.9, nesterov=True, foreach=False,
    )  # fmt: skip
    draw, steps, done = generator(3), len(labels) // 64, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for _ in range(2):
            order = torch.randperm(len(labels), generator=draw)
            for chosen in order[: steps * 64].view(steps, 64):
                done += 1
                warmup, total = 0.5 * steps, 2 * steps
                falling = 0.1 * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (total - warmup + 1)))
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 * done / warmup if done <= warmup else falling
                x = torch.from_numpy(normalize(pixels[chosen.numpy()], data.preprocessing))
                x = AUGMENTATIONS["digits"](x, draw).contiguous(memory_format=torch.channels_last)
                target = torch.from_numpy(labels[chosen.numpy()])
                optimizer.zero_grad()
                F.cross_entropy(plain(x), target, label_smoothing=0.1).backward()
                nn.utils.clip_grad_norm_(plain.parameters(), 2.0)
                optimizer.step()
    for (name, got), wanted in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(got, wanted), name


def test_mixup_blends_images_and_labels_in_the_same_shares() -> None:
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 4, 4)
    labels = torch.arange(8)
    mixed, targets = mixup(x, labels, 10, alpha=0.4, generator=generator())
    assert targets.shape == (8, 10)
    # Image k is full of k and has label k, so the mean label is the pixel: 8 products and sums below 8 in float32.
    torch.testing.assert_close(mixed[:, 0, 0, 0], targets @ torch.arange(10.0), rtol=0, atol=16 * 8 * 2**-24)
    torch.testing.assert_close(targets.sum(1), torch.ones(8), rtol=0, atol=2**-23)
    # An image that is its own partner keeps its label; any other has the larger share at its greatest.
    drawn = [mixup(x, labels, 10, alpha=0.4, generator=generator(seed))[1] for seed in range(300)]
    larger = [float(targets.amax(1).min()) for targets in drawn]
    # Beta(a, a) has variance 1 / (4 (2 a + 1)). Squares below 1/4 have a deviation of at most 1/8, and the mean of
    # 300 of them is within 5 / 8 / sqrt(300) = 0.036 of theirs.
    assert np.mean([(share - 0.5) ** 2 for share in larger]) == pytest.approx(1 / (4 * 1.8), abs=0.036)


def test_cutout_blanks_a_square_of_its_size_anywhere() -> None:
    x = torch.ones(400, 2, 16, 12)
    cut = cutout(x, share=0.5, generator=generator())
    holes = (cut == 0).all(1)
    assert torch.equal(holes, (cut == 0).any(1)), "the same in every channel"
    rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(rows * columns, holes.sum((1, 2))), "a rectangle"
    # Side 6 of 12; a centre near the border leaves 3 to 6 of it in the image.
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (3, 6, 3, 6)
    # Every pixel is hit at times: one in the middle by 36 of 192 centres, so of 400 images 75, and a corner by 9.
    assert int(holes.sum(0).min()) > 0


def test_images_and_regularisation_grow_linearly_by_stage() -> None:
    settings = TrainSettings(
        epochs=8, progressive_stages=4, progressive_size=0.25, progressive_strength=0.1, warmup_epochs=0
    )
    stages = [stage_of(epoch, settings, (32, 48)) for epoch in range(8)]
    assert [s.size for s in stages] == [(8, 12)] * 2 + [(16, 24)] * 2 + [(24, 36)] * 2 + [(32, 48)] * 2
    assert [s.strength for s in stages[::2]] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert stage_of(0, TrainSettings(), (32, 48)) == Stage((32, 48), 1.0)
    x = torch.rand(2, 3, 32, 48)
    assert resized(x, (32, 48)) is x
    # A filter's weights sum to 1, so an even image stays as it is, within the roundings of a dozen products.
    torch.testing.assert_close(
        resized(x * 0 + 0.3, (16, 24)), torch.full((2, 3, 16, 24), 0.3), rtol=12 * 2**-24, atol=0
    )


def test_smaller_images_reach_the_net_in_the_first_stage() -> None:
    seen: list[tuple[int, ...]] = []
    module = tiny_net()
    module.register_forward_pre_hook(
        lambda part, inputs: seen.append(tuple(inputs[0].shape)) if part.training else None
    )
    settings = TrainSettings(epochs=2, batch_size=256, progressive_stages=2, progressive_size=0.5)
    train_net(module, digits(), settings=settings)
    assert seen[:5] == [(256, 1, 4, 4)] * 5
    assert seen[5:10] == [(256, 1, 8, 8)] * 5


def test_dropout_and_stochastic_depth_follow_the_strength_and_end_as_built() -> None:
    net = build_net("efficientnet_b0", num_classes=10, width=0.25, depth=0.3, stem="small", drop_path=0.4, dropout=0.5)
    drops = Drops(net)
    built = [m.drop for m in net.modules() if isinstance(m, StochasticDepth)]
    assert max(built) > 0.2
    drops.scale(0.25)
    assert [m.drop for m in net.modules() if isinstance(m, StochasticDepth)] == pytest.approx([d / 4 for d in built])
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.125]
    drops.scale(1.0)
    assert [m.drop for m in net.modules() if isinstance(m, StochasticDepth)] == built
    module = tiny_net()
    train_net(module, digits(), settings=TrainSettings(epochs=2, batch_size=512, progressive_stages=2))
    assert module[3].p == 0.2


def test_a_net_of_one_size_is_refused_before_training() -> None:
    settings = TrainSettings(epochs=2, progressive_stages=2)
    check_sizes(tiny_net(), settings, (1, 8, 8))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UsageError, match="the net takes images of one size only"):
        check_sizes(flat, settings, (1, 8, 8))
    check_sizes(flat, settings.model_copy(update={"progressive_size": 1.0}), (1, 8, 8))


def test_the_average_of_weights_forgets_its_start_first() -> None:
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module, 0.5)
    expected = value = module.weight.item()
    for step in range(1, 13):
        with torch.no_grad():
            module.weight += 1
        value += 1
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        ema.update()
    ema.apply()
    # Twelve steps in float32 of numbers below 16.
    assert module.weight.item() == pytest.approx(expected, abs=12 * 16 * 2**-24)


def test_the_average_is_the_result_and_its_batch_norm_is_measured() -> None:
    def weights(ema: float) -> tuple[Tensor, float]:
        settings = TrainSettings(epochs=3, batch_size=64, lr=0.05, ema=ema)
        result = tune_graph(digits_graph(), digits(), settings=settings)
        return torch.tensor(result.graph.const("w3")), result.accuracy.top1

    plain, _ = weights(0.0)
    averaged, top1 = weights(0.9)
    assert not torch.equal(plain, averaged)
    assert top1 > 85


def test_distillation_is_the_divergence_of_softened_answers() -> None:
    ours, theirs = (torch.randn(5, 7, generator=generator(seed), dtype=torch.float32) * 3 for seed in (0, 1))
    p, q = (np.exp(z.double().numpy() / 4) for z in (theirs, ours))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = 16 * (p * np.log(p / q)).sum(1).mean()
    # 35 terms of a few units in float32, by factor 16.
    assert float(distillation(ours, theirs, 4.0)) == pytest.approx(expected, abs=35 * 16 * 4 * 2**-24)
    labels = torch.tensor([0, 1, 2, 3, 4])
    settings = TrainSettings(distill_weight=0.25, distill_temperature=4.0, label_smoothing=0.0)
    got = TrainingLoss(settings)(TrainingOutputs(ours), labels, theirs)
    wanted = 0.75 * F.cross_entropy(ours, labels) + 0.25 * distillation(ours, theirs, 4.0)
    assert float(got) == pytest.approx(float(wanted), rel=1e-6)  # three roundings
    assert float(distillation(ours, ours, 4.0)) == pytest.approx(0, abs=1e-5)


def test_the_gradient_of_distillation_keeps_its_size_at_any_temperature() -> None:
    """Hinton et al., section 2.1: at high temperature T^2 KL has the gradient of matching centred logits, over N."""
    ours = torch.randn(1, 6, generator=generator(), dtype=torch.float64).requires_grad_()
    theirs = torch.randn(1, 6, generator=generator(1), dtype=torch.float64)
    ours_wide = ours * 1.0
    loss = 1e4**2 * F.kl_div(
        F.log_softmax(ours_wide / 1e4, 1), F.log_softmax(theirs / 1e4, 1), log_target=True, reduction="batchmean"
    )
    (gradient,) = torch.autograd.grad(loss, ours)
    centred = (ours - ours.mean()) - (theirs - theirs.mean())
    torch.testing.assert_close(gradient, (centred / 6).detach(), rtol=1e-3, atol=1e-4)  # first order in 1 / T
    (float32,) = torch.autograd.grad(distillation(ours, theirs, 100.0), ours)
    torch.testing.assert_close(float32, gradient, rtol=0.1, atol=0.02)  # first order in 3 / 100


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns(precision: str) -> None:
    settings = TrainSettings(epochs=3, batch_size=64, lr=0.05, precision=precision, device="cpu")  # type: ignore[arg-type]
    result = tune_graph(digits_graph(), digits(), settings=settings)
    assert result.accuracy.top1 > 90
    assert Compute.of(settings).scaler().is_enabled() == (precision == "float16")


def test_the_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Compute.of(TrainSettings()) == Compute(torch.device("cpu"), torch.float32)
    with pytest.raises(EnvironmentFailure, match="there is no GPU that PyTorch can use"):
        Compute.of(TrainSettings(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert Compute.of(TrainSettings()) == Compute(torch.device("cuda", 1), dtype)
    assert Compute.of(TrainSettings(device="cpu")).device.type == "cpu"


def test_channels_stay_last_through_a_shuffle() -> None:
    x = torch.rand(2, 12, 5, 7, generator=generator())
    last = x.contiguous(memory_format=torch.channels_last)
    for groups in (2, 3, 12):
        shuffled = channel_shuffle(last, groups)
        assert torch.equal(shuffled, channel_shuffle(x, groups))
        assert shuffled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("clip", ["lo=0.0 hi=None", "lo=0.0 hi=6.0", "lo=-1.0 hi=None", "lo=None hi=0.5"])
def test_bounded_activations_and_their_gradients(clip: str) -> None:
    from edgecnn.ir.text import parse

    graph = parse(f"graph g(x: [N,4,3,3]) {{\n  y = clip(x) {clip}\n  return y\n}}")
    bounds = dict(part.split("=") for part in clip.split())
    lo, hi = (None if bounds[k] == "None" else float(bounds[k]) for k in ("lo", "hi"))
    x = (torch.randn(8, 4, 3, 3, generator=generator()) * 5).requires_grad_()
    y = GraphModule(graph)(x)
    assert torch.equal(y, x.clamp(lo, hi))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (wanted,) = torch.autograd.grad(x.clamp(lo, hi).sum(), x)
    assert torch.equal(gradient, wanted)
