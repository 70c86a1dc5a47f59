"""Fine-tuning a graph, by the library and the command: it learns, the graph stays, and what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.__main__ import main
from edgecnn.data import Preprocessing
from edgecnn.errors import InputError, UsageError
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.ir.text import parse
from edgecnn.pipeline.tune import load_teacher
from edgecnn.train.batchnorm import recalibrate_batch_norm
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import FINE_TUNING, TrainSettings
from edgecnn.train.tune import tune_graph

QUICK = TrainSettings(epochs=3, batch_size=64, lr=0.05, warmup_epochs=0.5)


@pytest.fixture(scope="module")
def tuned() -> Graph:
    return tune_graph(digits_graph(), digits(), settings=QUICK).graph


def test_a_graph_learns_the_digits_and_stays_the_graph_it_was(tuned: Graph) -> None:
    result = tune_graph(digits_graph(), digits(), settings=QUICK)
    # Chance is 10 %; a linear classifier reaches about 95 % on this set.
    assert result.accuracy.top1 > 90
    assert evaluate(GraphModule(result.graph), digits()) == result.accuracy
    assert [report.epoch for report in result.history] == [1, 2, 3]
    assert [(op.kind, op.inputs, op.output) for op in result.graph.ops] == [
        (op.kind, op.inputs, op.output) for op in digits_graph().ops
    ]
    assert all(np.array_equal(result.graph.const(n), tuned.const(n)) for n in ("w1", "m2", "v3", "bl"))


def test_batch_norm_of_a_graph_is_measured_afresh() -> None:
    graph = digits_graph()
    module, x = GraphModule(graph), next(digits().batches(256))[0]
    recalibrate_batch_norm(module, [x[:128], x[128:]])
    assert not module.training or module.momentum == 0.1
    c = nn.functional.conv2d(torch.from_numpy(x), torch.tensor(graph.const("w1")), padding=1)
    halves = [c[:128], c[128:]]
    mean = torch.stack([h.mean((0, 2, 3)) for h in halves]).mean(0)
    var = torch.stack([h.var((0, 2, 3)) for h in halves]).mean(0)
    # Means over 8192 values below 4 in float32, in another order: 13 levels of a sum's tree, 13 * 4 * 2^-24 < 1e-5.
    torch.testing.assert_close(module.constant("m1"), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(module.constant("v1"), var, rtol=1e-5, atol=1e-5)


def test_batch_norm_in_training_mode_again_finds_its_mode_and_momentum() -> None:
    module = GraphModule(digits_graph(), momentum=0.3).train()
    recalibrate_batch_norm(module, [next(digits().batches(64))[0]])
    assert (module.training, module.momentum) == (True, 0.3)


def test_only_what_make_module_trains_is_trained() -> None:
    class OnlyTheClassifier(GraphModule):
        def __init__(self, graph: Graph) -> None:
            super().__init__(graph)
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.endswith("l"))

    before = digits_graph()
    after = tune_graph(
        before, digits(), settings=QUICK.model_copy(update={"epochs": 1}), make_module=OnlyTheClassifier
    ).graph
    assert np.array_equal(before.const("w1"), after.const("w1"))
    assert not np.array_equal(before.const("wl"), after.const("wl"))


def test_a_net_learns_from_its_teacher_alone(tuned: Graph) -> None:
    """With all weight on the teacher, the labels have no say: the net agrees with the teacher where that is wrong."""
    teacher = GraphModule(tuned)
    with torch.no_grad():
        teacher.constant("bl")[3] -= 1e4  # never says 3
    settings = QUICK.model_copy(update={"distill_weight": 1.0, "distill_temperature": 2.0})
    result = tune_graph(digits_graph(seed=5), digits(), settings=settings, teacher=teacher)
    answers = [GraphModule(result.graph)(torch.from_numpy(x)).argmax(1) for x, _ in digits().batches(256)]
    assert 3 not in torch.cat(answers)
    assert result.accuracy.top1 > 80  # nine classes of ten


def test_classes_that_do_not_match(tuned: Graph) -> None:
    seven = parse("graph g(x: [N,1,8,8]) {\n  f = flatten(x)\n  y = linear(f, w[7,64])\n  return y\n}")
    with pytest.raises(InputError) as caught:
        tune_graph(seven, digits(), settings=QUICK)
    assert str(caught.value) == (
        "InputError: the net and the data have different classes\n"
        "  expected 10 classes, as the data have\n"
        "  got      7 classes, as the net has\n"
        "  do       use the data it was trained on, or train a net for these (`edgecnn train`)"
    )
    with pytest.raises(InputError) as caught:
        tune_graph(tuned, digits(), settings=QUICK, teacher=GraphModule(seven))
    assert str(caught.value) == (
        "InputError: the teacher and the data have different classes\n"
        "  expected 10 classes, as the data have\n"
        "  got      7 classes, as the teacher has\n"
        "  do       use the data it was trained on, or another teacher"
    )


def test_a_teacher_used_to_another_normalisation_sees_its_own(tmp_path: Path, tuned: Graph) -> None:
    data = digits()
    theirs = Preprocessing(channels="gray", resize=(8, 8), crop=(8, 8), mean=(0.25,), std=(0.125,))
    bundle.save(tuned, tmp_path / "t.safetensors", provenance={"preprocessing": theirs.model_dump_json()})
    teacher = load_teacher(str(tmp_path / "t.safetensors"), data, data.classes or ())
    pixels, _ = data.decoded("test")
    ours = torch.from_numpy(next(data.batches(len(pixels), split="test"))[0])
    raw = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 255
    with torch.no_grad():
        got, wanted = teacher(ours), GraphModule(tuned).eval()((raw - 0.25) / 0.125)
    # Inputs differ by a few roundings, 8 * 4 * 2^-24 absolute; the net passes on at most the product of its layers'
    # gains, measured here by its answer to inputs moved that far.
    with torch.no_grad():
        moved = GraphModule(tuned).eval()((raw - 0.25) / 0.125 + 1e-3)
    assert (got - wanted).abs().max() <= (moved - wanted).abs().max() * (8 * 4 * 2**-24 / 1e-3) * 16


# --- the command ---


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_tune_writes_a_bundle_that_says_how_it_was_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tuned: Graph
) -> None:
    net = save_digits_bundle(tmp_path / "net.safetensors")
    teacher = save_digits_bundle(tmp_path / "big.safetensors", tuned)
    out = tmp_path / "better.safetensors"
    command = ["tune", net, "--data", "digits", "--teacher", teacher, "-o", out, "--epochs", 2, "--lr", 0.05]
    code, said, told = run(capsys, *command, "--set", "ema=0.9", "warmup_epochs=0", "--json")
    content = json.loads(said)
    assert code == 0
    assert content["accuracy"]["top1"] > content["before"]["top1"] + 20
    assert [line.split()[:2] for line in told.splitlines()] == [["epoch", "1/2"], ["epoch", "2/2"]]
    graph, provenance = bundle.load(out)
    assert evaluate(GraphModule(graph), digits()).top1 == content["accuracy"]["top1"]
    assert TrainSettings.model_validate_json(provenance["tune"]) == FINE_TUNING.model_copy(
        update={"epochs": 2, "lr": 0.05, "ema": 0.9, "warmup_epochs": 0}
    )
    assert provenance["tune.teacher"] == "big.safetensors"
    assert provenance["preprocessing"] == digits().preprocessing.model_dump_json()
    log = [json.loads(line) for line in (tmp_path / "better.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [10, 20, 21, 30, 40, 42, 42]
    assert log[2]["loss"] == content["history"][0]["loss"]
    assert log[-1]["top1"] == content["accuracy"]["top1"]
    assert not list(tmp_path.glob("*checkpoint*"))
    # It is an ordinary bundle: it is tuned further, and not overwritten unasked.
    code, _, told = run(capsys, *command)
    assert (code, told.splitlines()[0]) == (2, f"UsageError: `{out}` exists already")
    code, said, _ = run(capsys, "tune", out, "--data", "digits", "--epochs", 1, "-o", tmp_path / "again.safetensors")
    assert code == 0
    assert said.splitlines()[0].split() == ["bundle", "before", "%", "top-1", "%", "top-5", "%", "images", "seconds"]


def test_train_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.safetensors"
    net = ["mobilenet_v1", "--input", "3x16x16", "--net-option", "width=0.25", "stem=small"]
    code, said, _ = run(capsys, "train", *net, "--data", "digits", "--epochs", 1, "-o", out, "--json")
    content = json.loads(said)
    assert code == 0
    graph, provenance = bundle.load(out)
    assert graph.shape(graph.outputs[0])[1:] == (10,), "as many classes as the data have"
    assert (content["before"], content["accuracy"]["n"]) == (None, 450)
    assert json.loads(provenance["options"]) == {"num_classes": "10", "stem": "small", "width": "0.25"}
    assert provenance["labels"].split("\n") == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "emma=0.9", "lr=x"], 2,
         "UsageError: 2 mistakes in the settings\n"
         "  at       --set\n"
         "  got      lr: Input should be a valid number\n"
         "           emma: no such key; did you mean `ema`?\n"),
        (["--set", "progressive_stages=99"], 2,
         "UsageError: 1 mistake in the settings\n"
         "  at       --set\n"
         "  got      (whole): progressive_stages = 99 do not fit into epochs = 10\n"),
        (["--set", "progressive_stages=2"], 2,
         "UsageError: the net takes images of one size only\n"
         "  at       progressive_stages = 2\n"
         "  expected a net that ends in global pooling\n"
         "  got      4x4: "),
        (["-o", "x"], 2,
         "UsageError: `x` is not the name of a bundle\n"
         "  at       --output\n"
         "  expected a file that ends in .safetensors\n"
         "  do       write -o x.safetensors\n"),
        (["--teacher", "nowhere.safetensors"], 3, "cannot read the bundle `nowhere.safetensors`"),
        (["--teacher", "mobilenet_v1"], 2, "there are no official weights for `mobilenet_v1`"),
        (["--teacher", "untrained.safetensors"], 3,
         "InputError: the teacher is untrained\n"
         "  at       untrained.safetensors\n"
         "  do       give a bundle that has learned these classes\n"),
        (["--teacher", "seven.safetensors"], 3,
         "InputError: the teacher and the data have different classes\n"
         "  expected 10 classes, as the data have\n"
         "  got      7 classes, as the teacher has\n"
         "  do       use the data it was trained on, or another teacher\n"),
        (["--data", "photos"], 3, "training needs labels"),
        (["--data", "letters.npz"], 3,
         "InputError: the net and the data have different classes\n"
         "  expected class 1 is `1`, as in the net\n"
         "  got      class 1 is `b`, as in the data\n"
         "  do       name the data's folders as the net's classes are named\n"),
        (["--batch-size", "5000"], 3, "1347 training images do not fill one batch"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)  # fmt: skip
def test_bad_input_of_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_digits_bundle(Path("net.safetensors"))
    bundle.save(digits_graph(), "untrained.safetensors", provenance={"untrained": "true"})
    seven = parse("graph g(x: [N,1,8,8]) {\n  f = flatten(x)\n  y = linear(f, w[7,64])\n  return y\n}")
    bundle.save(seven, "seven.safetensors", provenance={})
    x = np.zeros((20, 8, 8), np.uint8)
    np.savez("letters.npz", x_train=x, y_train=np.arange(20) % 10, x_test=x, y_test=np.arange(20) % 10,
             classes=np.array(list("0bcdefghij")))  # fmt: skip
    before = sorted(p.name for p in tmp_path.iterdir())
    got, said, told = run(capsys, "tune", "net.safetensors", "--data", "digits", "-o", "out.safetensors", *arguments)
    assert (got, said) == (code, "")
    assert message in told
    assert "Traceback" not in told
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_train_refuses_what_it_cannot_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = save_digits_bundle(tmp_path / "net.safetensors")
    out = ["--data", "digits", "-o", tmp_path / "x.safetensors"]
    code, _, told = run(capsys, "train", net, *out)
    assert code == 2
    assert told == (
        "UsageError: a bundle has its weights already\n"
        f"  at       {net}\n"
        "  do       train it further with `edgecnn tune`\n"
    )
    code, _, told = run(capsys, "train", "resnet20", "--net-option", "num_classes=7", *out)
    assert code == 3
    assert told.startswith(
        "InputError: the net and the data have different classes\n"
        "  expected 10 classes, as the data have\n"
        "  got      7 classes, as the net has\n"
    )
    assert run(capsys, "train", "resnet21", *out)[0] == 2


def test_a_log_for_tensorboard_needs_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    net = save_digits_bundle(tmp_path / "net.safetensors")
    code, _, told = run(
        capsys, "tune", net, "--data", "digits", "-o", tmp_path / "o.safetensors", "--tensorboard", tmp_path / "t"
    )
    assert code == 5
    assert told == (
        "EnvironmentFailure: a log for TensorBoard needs the package `tensorboard`\n"
        "  do       pip install 'edgecnn[tensorboard]', or leave out --tensorboard: the .jsonl log is always written\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_progressive_sizes_need_a_net_that_takes_them() -> None:
    settings = QUICK.model_copy(update={"progressive_stages": 2})
    with pytest.raises(UsageError, match="the net takes images of one size only"):
        tune_graph(digits_graph(), digits(), settings=settings)
