"""`edgecnn prune` as a person meets it: results, messages in full, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_laws import constants
from train_cases import digits, digits_graph, save_digits_bundle

from edgecnn.__main__ import main
from edgecnn.ir import bundle
from edgecnn.ir.graph import Graph
from edgecnn.ir.module import GraphModule
from edgecnn.ir.text import parse
from edgecnn.pipeline.prune import prune
from edgecnn.pipeline.prune_line import ROUNDS
from edgecnn.pipeline.pruned import PruneOptions, Timing
from edgecnn.pipeline.relearn import Relearning
from edgecnn.pipeline.source import macs_total
from edgecnn.pipeline.sparsify import SparseOptions, sparsify
from edgecnn.prune.latency import LatencyTable
from edgecnn.prune.sparse import sparsity_of
from edgecnn.runtime.cpu import local_cpu
from edgecnn.train.evaluate import evaluate
from edgecnn.train.settings import TrainSettings
from edgecnn.train.tune import tune_graph

QUICK = TrainSettings(epochs=4, batch_size=64, lr=0.05, warmup_epochs=0.5)
FINE = ["--round-to", "1", "--min-channels", "2", "--no-bench"]


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


def test_prune_halves_a_net_and_fine_tuning_brings_it_back(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", net, "--macs", 0.5, *FINE, "--data", "digits", "-o", "half.safetensors", "--json"]
    code, said, told = run(capsys, *command, "--steps", 2, "--epochs", 2, "--lr", 0.03)
    content = json.loads(said)
    assert code == 0
    stages = [line.split()[0] for line in told.splitlines()]
    assert [s for s in stages if s != "epoch"] == [
        *("load", "couple", "eval"),
        *("score", "loss", "prune") * ROUNDS,
        "tune",
        *("score", "loss", "prune") * ROUNDS,
        *("eval", "tune"),
    ]
    graph, provenance = bundle.load("half.safetensors")
    whole, _ = bundle.load(net)
    assert content["macs"] == [macs_total(whole), macs_total(graph)]
    assert 0.4 < content["macs"][1] / content["macs"][0] <= 0.5
    found = {when: a["top1"] for when, a in content["accuracy"].items()}
    assert evaluate(GraphModule(graph), digits()).top1 == found["after"]
    assert found["before"] > 90  # what a linear classifier reaches is about 95 %
    assert found["pruned"] < found["after"]
    assert found["after"] > found["before"] - 5
    record = json.loads(provenance["prune"])
    assert (record["what"], record["ratio"], record["steps"], record["tune"]["epochs"]) == ("macs", 0.5, 2, 2)
    assert provenance["labels"].split("\n") == [str(i) for i in range(10)]
    assert "untrained" not in provenance
    # It is an ordinary bundle, and is not overwritten unasked.
    code, _, told = run(capsys, *command)
    assert (code, told.splitlines()[0]) == (2, "UsageError: `half.safetensors` exists already")
    code, said, _ = run(capsys, "eval", "half.safetensors", "--data", "digits", "--json")
    assert code == 0


@pytest.mark.parametrize("goal", ["macs", "unstructured"])
def test_fine_tuning_goes_on_after_an_interrupt(net: Path, goal: str) -> None:
    """In the second step; the first is not learned again, and the result is that of a run without a break."""
    settings = QUICK.model_copy(update={"epochs": 1, "checkpoint_seconds": 0.0})
    common = {"steps": 2, "relearning": Relearning(settings), "time_it": False}
    seen: list[int] = []

    def go(output: str, *, stop_at: int = 10**6, restart: bool = False) -> Graph:
        def on_step(report) -> None:
            seen.append(report.done)
            if len(seen) == stop_at:
                raise KeyboardInterrupt

        seen.clear()
        where = {"output": Path(output), "restart": restart, "data": digits(), "on_step": on_step}
        if goal == "macs":
            return prune(str(net), how=PruneOptions("macs", 0.6, round_to=1, min_channels=2, **common), **where).graph
        return sparsify(str(net), how=SparseOptions(0.6, **common), **where).graph

    whole = go("whole.safetensors")
    steps = len(seen)
    with pytest.raises(KeyboardInterrupt):
        go("cut.safetensors", stop_at=steps - 3)
    assert len(list(Path().glob("cut.step*.checkpoint.safetensors"))) == 2
    again = go("cut.safetensors")
    assert len(seen) == 3
    assert all(
        np.array_equal(value.data, again.value(name).data) for name, value in whole.values.items() if value.is_const
    )
    assert sorted(p.name for p in Path().iterdir()) == ["cut.safetensors", "net.safetensors", "whole.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        go("fresh.safetensors", stop_at=5)
    go("fresh.safetensors", restart=True)
    assert len(seen) == steps


def test_tables(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "prune", net, "--params", 0.6, *FINE, "--data", "digits", "-o", "p.safetensors")
    lines = [line.split() for line in said.splitlines()]
    assert code == 0
    assert lines[0] == ["group", "layers", "before", "after", "left"]
    (params,) = [line for line in lines if line[:1] == ["parameters"]]
    graph, _ = bundle.load("p.safetensors")
    running = sum(graph.value(n).data.size for op in graph.ops if op.kind == "batch_norm" for n in op.inputs[3:])
    assert int(params[2].replace(",", "")) == constants(graph) - running
    assert float(params[3]) <= 0.6
    assert any(line[:2] == ["top-1", "(%)"] for line in lines)
    assert lines[-1] == ["bundle", "p.safetensors"]


def test_groups_are_shown_with_what_stays(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "prune", net, "--show-groups", "--round-to", 4, "--json")
    assert code == 0
    assert json.loads(said) == {
        "groups": [
            {"name": "c", "units": 8, "channels": 8, "layers": {"c": 1}, "minimum": 8, "step": 4},
            {"name": "p", "units": 32, "channels": 32, "layers": {"p": 1}, "minimum": 8, "step": 4},
        ],
        "stay": [{"at": "y", "why": "the net's answer"}],
    }
    code, said, _ = run(capsys, "prune", net, "--show-groups")
    assert said.splitlines()[0].split() == ["group", "layers", "channels", "minimum", "step", "made", "by"]
    assert said.splitlines()[-1] == "stays      y: the net's answer"
    assert sorted(p.name for p in Path().iterdir()) == ["net.safetensors"]


def test_tiles_differ_by_core_and_kind_of_layer(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A core that computes 8 channels together computes 16 of a depthwise layer; `b` has none behind it."""
    bundle.save(parse(WIDE), "wide.safetensors", provenance={})

    def steps(*options: str) -> dict[str, int]:
        _, said, _ = run(capsys, "prune", "wide.safetensors", "--show-groups", "--json", *options)
        return {row["name"]: row["step"] for row in json.loads(said)["groups"]}

    assert steps("--cpu", "armv8") == {"a": 16, "b": 8}
    assert steps("--cpu", "armv8-dot") == {"a": 16, "b": 16}
    assert steps("--cpu", "x86-amx") == {"a": 64, "b": 64}
    assert steps("--cpu", "x86-amx", "--target", "tflite-fp32") == {"a": 16, "b": 16}
    assert steps("--cpu", "armv8", "--round-to", "12") == {"a": 12, "b": 12}


WIDE = """graph wide(x: [N,3,8,8]) {
  a = conv(x, wa[128,3,3,3]) pad=(1,1,1,1)
  c = conv(a, wc[128,1,3,3]) pad=(1,1,1,1) groups=128
  b = conv(c, wb[192,128,1,1])
  p = global_pool(b) keepdims=False
  y = linear(p, wy[5,192])
  return y
}"""


def test_layers_that_are_kept_are_as_they_were(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", net, "--params", 0.99, *FINE, "--keep", "p", "-o", "o.safetensors", "--json"]
    code, said, _ = run(capsys, *command)
    assert code == 0
    assert [row["name"] for row in json.loads(said)["groups"]] == ["c"]
    assert bundle.load("o.safetensors")[0].shape("p")[1] == 32
    assert "batch norm's statistics are still those of the unpruned net: give --data" in json.loads(said)["notes"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--macs", "1.5"], 2,
         "UsageError: a ratio of 1.5\n  at       --macs\n  expected more than 0 and less than 1\n"),
        (["--params", "0"], 2,
         "UsageError: a ratio of 0\n  at       --params\n  expected more than 0 and less than 1\n"),
        (["--unstructured", "1"], 2,
         "UsageError: a share of 1\n  at       --unstructured\n  expected more than 0 and less than 1\n"),
        (["--macs", "0.1", "--round-to", "16", "--epochs", "1", "--data", "digits", "--steps", "3"], 2,
         "UsageError: the net cannot be pruned to 0.100 of its multiply-adds\n"
         "  expected a ratio from 0.693 to 1\n"
         "  got      0.100\n"
         "  do       allow smaller counts (--round-to, --min-channels), or fewer layers in --keep\n"),
        ([], 2, "UsageError: one goal is needed\n"
         "  expected one of --macs, --params, --latency, --unstructured\n  got      none\n"),
        (["--macs", "0.5", "--latency", "0.5"], 2, "  got      --macs, --latency\n"),
        (["--macs", "0.5", "--keep", "pp"], 2,
         "UsageError: `pp` matches no layer that could be pruned\n"
         "  at       --keep\n"
         "  expected a name or pattern such as p\n"
         "  do       see the names with --show-groups\n"),
        (["--macs", "0.5", "--keep", "*"], 3, "InputError: nothing is left to prune\n  at       --keep\n"),
        (["--macs", "0.5", "--score", "l3"], 2, "UsageError: unknown score `l3`\n"),
        (["--macs", "0.7", "--score", "taylor"], 2,
         "UsageError: the score `taylor` needs images\n  do       give --data\n"),
        (["--macs", "0.7", "--loss", "measured"], 2,
         "UsageError: what the net loses is measured on images\n  at       --loss\n  do       give --data\n"),
        (["--macs", "0.7", "--blocks"], 2, "  at       --blocks\n  do       give --data\n"),
        (["--macs", "0.7", "--blocks", "--loss", "score", "--data", "digits"], 2,
         "  at       --blocks\n  do       leave out --loss score and --scope layer\n"),
        (["--macs", "0.7", "--epochs", "1"], 2,
         "UsageError: fine-tuning needs images\n  do       give --data, or leave out --epochs\n"),
        (["--macs", "0.7", "--epochs", "1", "--data", "photos"], 3, "InputError: training needs labels\n"),
        (["--macs", "0.7", "--teacher", "net.safetensors"], 2, "UsageError: a teacher without lessons\n"),
        (["--macs", "0.7", "--epochs", "1", "--data", "digits", "--teacher", "seven.safetensors"], 3,
         "InputError: the teacher and the data have different classes\n"
         "  expected 10 classes, as the data have\n  got      7 classes, as the teacher has\n"),
        (["--macs", "0.7", "--round-to", "x"], 2, "UsageError: `x` is no multiple\n  at       --round-to\n"),
        (["--macs", "0.7", "--target", "tflite-int9"], 2, "UsageError: unknown target `tflite-int9`\n"),
        (["--macs", "0.7", "-o", "x"], 2, "UsageError: `x` is not the name of a bundle\n"),
        (["--unstructured", "0.99", "--keep", "p"], 3, "InputError: too many weights are kept\n"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)  # fmt: skip
def test_bad_input_of_prune(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    bundle.save(SEVEN, "seven.safetensors", provenance={})
    before = sorted(p.name for p in Path().iterdir())
    got, said, told = run(capsys, "prune", net, "--no-bench", "-o", "o.safetensors", *arguments)
    assert (got, said) == (code, "")
    assert message in told
    assert "epoch" not in told.replace("--epochs", "")  # nothing is learned for a goal that cannot be reached
    assert "Traceback" not in told
    assert sorted(p.name for p in Path().iterdir()) == before


SEVEN = parse("graph g(x: [N,1,8,8]) {\n  f = flatten(x)\n  y = linear(f, w[7,64])\n  return y\n}")


def test_nets_that_cannot_be_pruned(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle.save(SEVEN, "seven.safetensors", provenance={})
    code, _, told = run(capsys, "prune", "seven.safetensors", "--macs", 0.5, "-o", "o.safetensors")
    assert code == 3
    assert "InputError: the net has nothing to prune\n  at       g\n  got      y: the net's answer" in told
    coded = ["--data", "digits", "--epochs", 1, "-o", "coded.safetensors"]
    assert run(capsys, "qat", net, *coded)[0] == 0
    code, _, told = run(capsys, "prune", "coded.safetensors", "--macs", 0.5, "-o", "o.safetensors")
    assert code == 2
    assert told.endswith(
        "UsageError: the bundle is quantised for tflite-int8\n  at       coded.safetensors\n"
        "  do       prune the float net, and quantise what is left\n"
    )
    other = bundle.load(net)[1] | {"labels": "\n".join("abcdefghij")}
    bundle.save(digits_graph(), "letters.safetensors", provenance=other)
    code, _, told = run(
        capsys, "prune", "letters.safetensors", "--macs", 0.7, "--data", "digits", "-o", "o.safetensors"
    )
    assert code == 3
    assert "expected class 0 is `a`, as in the net\n" in told


# --- latency ---


def known_device(graphs):
    """A device that takes as many microseconds as an op has values and weights, and no time for starting."""
    return {
        key: float(sum(np.prod(g.shape(op.output)[1:]) for op in g.ops) + constants(g)) for key, g in graphs.items()
    }


def test_a_goal_of_latency_is_met_as_measured(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole net takes a time that no piece shows, so the table is too hopeful; the plan is corrected for it."""
    monkeypatch.setattr("edgecnn.pipeline.prune_line.Line._compare", timed_with_overhead)
    how = PruneOptions("latency", 0.75, round_to=1, min_channels=2, cpu=local_cpu())
    found = prune(str(net), how=how, table=LatencyTable("a known device", known_device))
    assert timed_ratio(bundle.load(net)[0], found.graph) == pytest.approx(0.75, abs=0.02)
    before, after = found.predicted
    assert after / before < 0.75  # more had to go than the table alone would have said


def total_us(graph: Graph) -> float:
    return sum(known_device({"": graph}).values())


def timed_ratio(whole: Graph, part: Graph) -> float:
    overhead = 0.4 * total_us(whole)
    return (total_us(part) + overhead) / (total_us(whole) + overhead)


def timed_with_overhead(line, pruned: Graph, *, min_seconds: float) -> Timing:
    ratio = timed_ratio(line.original, pruned)
    return Timing((1.0, ratio), (1.0, ratio), (ratio, ratio))


def test_latency_is_predicted_and_measured(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a table that is known and on this machine, where starting so small a net takes most of the time."""
    table = LatencyTable("a known device", known_device)
    monkeypatch.setattr("edgecnn.pipeline.prune_line.table_of", lambda *_, **__: table)
    monkeypatch.setattr("edgecnn.pipeline.prune_line.ATTEMPTS", 1)
    command = ["prune", net, "--latency", 0.8, "--round-to", 8, "-o", "o.safetensors", "--json"]
    code, said, told = run(capsys, *command)
    content = json.loads(said)
    assert code == 0
    assert {"table", "time", "bench"} <= {line.split()[0] for line in told.splitlines()}
    timing = content["timing"]
    assert all(us > 0 for us in (*content["predicted_us"], *timing["median_us"], *timing["fastest_us"]))
    assert content["predicted_us"][1] <= 0.8 * content["predicted_us"][0]
    low, high = timing["ratio_ci95"]
    assert 0 < low <= high


# --- single weights ---


def test_unstructured(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", net, "--unstructured", 0.8, "--data", "digits", "--no-bench", "-o", "s.safetensors", "--json"]
    code, said, _ = run(capsys, *command, "--steps", 2, "--epochs", 2, "--lr", 0.03)
    content = json.loads(said)
    assert code == 0
    graph, provenance = bundle.load("s.safetensors")
    assert sparsity_of(graph) == content["sparsity"] == pytest.approx(0.8, abs=0.001)
    assert evaluate(GraphModule(graph), digits()).top1 == content["accuracy"]["after"]["top1"]
    assert content["accuracy"]["after"]["top1"] > content["accuracy"]["before"]["top1"] - 5
    assert content["file_bytes"][0] == content["file_bytes"][1]
    assert content["packed_bytes"][1] < 0.75 * content["packed_bytes"][0]
    assert content["notes"][-1].endswith("smaller when packed, and not faster")
    assert json.loads(provenance["prune"])["sparsity"] == 0.8
    code, _, _ = run(capsys, "tune", "s.safetensors", "--epochs", 1, "--data", "digits", "-o", "tuned.safetensors")
    assert code == 0
    tuned, provenance = bundle.load("tuned.safetensors")
    assert sparsity_of(tuned) == content["sparsity"]
    assert any((tuned.const(name) != graph.const(name)).any() for name in ("w1", "w2", "w3"))
    assert json.loads(provenance["prune"])["what"] == "unstructured"
    command = ["prune", net, "--unstructured", 0.5, "--scope", "layer", "--keep", "[cd]", "-o", "t.safetensors"]
    code, said, told = run(capsys, *command)
    assert code == 0
    zeros = {line.split()[0]: line.split()[1] for line in said.splitlines() if line.endswith("%")}
    # Of 5520 weights 144 are kept; half of all are 2760, of the 5376 others.
    assert zeros == {"c": "0.0%", "d": "0.0%", "p": "51.2%", "y": "51.3%"}
    assert "not faster" in told


def test_a_teacher_of_ones_own_is_followed(net: Path) -> None:
    """With all weight on a teacher that never says 3, the pruned net does not either."""
    teacher = bundle.load(net)[0]
    never = {"bl": teacher.const("bl") - 1e4 * (np.arange(10) == 3).astype(np.float32)}
    values = [v if v.name not in never else type(v)(v.name, v.shape, never[v.name]) for v in teacher.values.values()]
    silent = Graph.build(teacher.name, teacher.ops, values, teacher.inputs, teacher.outputs)
    save_digits_bundle(Path("teacher.safetensors"), silent)
    settings = QUICK.model_copy(update={"distill_weight": 1.0, "distill_temperature": 2.0, "epochs": 2})
    how = PruneOptions(
        "macs", 0.8, round_to=1, min_channels=2, time_it=False,
        relearning=Relearning(settings, teacher="teacher.safetensors"),
    )  # fmt: skip
    found = prune(str(net), how=how, data=digits())
    answers = [GraphModule(found.graph)(torch.from_numpy(x)).argmax(1) for x, _ in digits().batches(256)]
    assert 3 not in torch.cat(answers)
