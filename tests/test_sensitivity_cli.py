"""`edgecnn sensitivity` as a person meets it: results, messages in full, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.__main__ import main
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.pipeline.source import macs_total
from edgecnn.prune.apply import apply
from edgecnn.prune.groups import prunable
from edgecnn.prune.score import unit_scores
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import tune_graph

QUICK = TrainSettings(epochs=4, batch_size=64, lr=0.05, warmup_epochs=0.5)


@pytest.fixture(scope="module")
def learned() -> Graph:
    """A net that knows the digits."""
    return tune_graph(digits_graph(), digits(), settings=QUICK).graph


@pytest.fixture
def net(learned: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save_digits_bundle(Path("net.safetensors"), learned)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_sensitivity_as_table_json_and_plot(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sensitivity", net, "--data", "digits", "--ratios", "0.25,0.75"]
    code, said, _ = run(capsys, *command, "--json", "--plot", "s.svg")
    content = json.loads(said)
    assert code == 0
    graph = bundle.load(net)[0]
    assert content["top1"] == evaluate(GraphModule(graph), digits()).top1
    assert content["ratios"] == [0.75, 0.25]
    assert [(g["name"], g["channels"]) for g in content["groups"]] == [("c", 8), ("p", 32)]
    for group in content["groups"]:
        assert group["top1"][0] >= group["top1"][1]
        assert 1 > group["macs_left"][0] > group["macs_left"][1] > 0
    drawing = Path("s.svg").read_text()
    assert drawing.lstrip().startswith("<?xml")
    code, said, _ = run(capsys, *command)
    rows = [line.split() for line in said.splitlines()]
    assert rows[0] == ["top-1", "(%)", "layers", "channels", "0.75", "left", "0.25", "left"]
    assert rows[2] == ["c", "1", "8", *(f"{top1:.2f}" for top1 in content["groups"][0]["top1"])]
    assert rows[-1][:2] == ["unpruned", f"{content['top1']:.2f}"]


def test_sensitivity_is_the_accuracy_of_the_pruned_net(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said, _ = run(capsys, "sensitivity", net, "--data", "digits", "--ratios", "0.5", "--keep", "c", "--json")
    (row,) = json.loads(said)["groups"]
    coupling, groups = prunable(bundle.load(net)[0])
    scores = unit_scores(coupling, "l1")
    worst = sorted(groups[1].units.tolist(), key=lambda u: scores[u])[:16]
    pruned = apply(coupling, worst)
    assert row["top1"] == [evaluate(GraphModule(pruned), digits()).top1]
    assert row["macs_left"] == [pytest.approx(macs_total(pruned) / macs_total(coupling.graph))]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ratios", "0.5,a"], 2, "UsageError: `0.5,a` are no ratios\n  at       --ratios\n"),
        (["--ratios", "0.5,1"], 2, "UsageError: a ratio of 1\n  at       --ratios\n"),
        (["--plot", "s.bmp"], 2,
         "UsageError: no plot can be written to `s.bmp`\n  expected a file that ends in .png or .svg or .pdf\n"),
        (["--keep", "q*"], 2, "UsageError: `q*` matches no layer that could be pruned\n"),
        (["--data", "photos"], 3, "InputError: training needs labels\n"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)  # fmt: skip
def test_bad_input_of_sensitivity(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    got, said, told = run(capsys, "sensitivity", net, "--data", "digits", *arguments)
    assert (got, said) == (code, "")
    assert message in told
