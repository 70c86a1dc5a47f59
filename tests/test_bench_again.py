"""Measurements that were cut short and go on, that are repeated, and that last: --resume, replay, --sustained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
import tiny_models
from test_bench_saved import saved

from edgecnn.__main__ import main
from edgecnn.bench.checkpoint import partial_path
from edgecnn.bench.collect import Collected
from edgecnn.bench.replay import replay
from edgecnn.bench.run import bench
from edgecnn.bench.saved import SavedReport
from edgecnn.bench.stats import trend
from edgecnn.bench.sustained import Curve, Point, parse_duration, sustained
from edgecnn.bench.worker import Worker
from edgecnn.errors import CheckFailed, DeviceFailed, InputError, UsageError


@pytest.fixture
def nets(tmp_path: Path) -> list[Path]:
    return [tiny_models.tflite(tmp_path / f"{name}.tflite", size=size) for name, size in (("a", 8), ("b", 16))]


def lose_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """From the given timed block on the device is gone."""
    done = 0
    ask = Worker.ask

    def lost(self: Worker, request: str, **arguments: Any) -> dict[str, Any]:
        nonlocal done
        done += request == "block" and "max_runs" in arguments and "of" not in arguments
        if done > blocks:
            raise DeviceFailed("no connection to `board`", do="look at it")
        return ask(self, request, **arguments)

    monkeypatch.setattr(Worker, "ask", lost)


def test_a_lost_device_costs_one_round(nets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "run.json.here.partial"
    whole: dict[str, Any] = {"blocks": 8, "min_seconds": 0.08, "checkpoint": kept}
    with monkeypatch.context() as lossy:
        lose_after(lossy, 11)  # rounds 0 to 4 are whole, the sixth is half done
        with pytest.raises(DeviceFailed) as caught:
            bench(nets, **whole)
    assert caught.value.do is not None
    assert caught.value.do.startswith("look at it\n5 rounds are kept in")
    assert "--resume" in str(caught.value)
    before = json.loads(kept.read_text())["collected"]
    assert [len(item["blocks"]) for item in before] == [5, 5]
    report = bench(nets, **whole, resume=True)
    assert report.notes == ("resumed after 5 of 8 rounds",)
    for run, item in zip(report.runs, before, strict=True):
        assert [block.tolist() for block in run.blocks[:5]] == item["blocks"]
        assert len(run.blocks) == 8
        assert {state["round"] for state in run.states} == set(range(8))
        assert run.cold_ms is not None
    assert not kept.exists()


def test_another_measurement_is_not_resumed(nets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "partial"
    with pytest.raises(UsageError, match="nothing to resume"):
        bench(nets, checkpoint=kept, resume=True)
    with monkeypatch.context() as lossy:
        lose_after(lossy, 4)
        with pytest.raises(DeviceFailed):
            bench(nets, blocks=6, min_seconds=0.06, checkpoint=kept)
    with pytest.raises(UsageError, match="asked for something else") as caught:
        bench(nets, blocks=6, min_seconds=0.06, threads=2, checkpoint=kept, resume=True)
    assert (caught.value.expected, caught.value.got) == ("threads: 1", "threads: 2")
    tiny_models.tflite(nets[0], channels=8)
    with pytest.raises(UsageError, match="artifacts"):
        bench(nets, blocks=6, min_seconds=0.06, checkpoint=kept, resume=True)
    for content in ("", "[]", "{}", '{"schema": 1, "asked": {}, "collected": [{"x": 1}]}'):
        kept.write_text(content)
        with pytest.raises((InputError, UsageError)):
            bench(nets, blocks=6, min_seconds=0.06, checkpoint=kept, resume=True)


def test_another_machine_is_not_the_one_it_began_on(nets: list[Path]) -> None:
    item = Collected(str(nets[0]))
    with Worker(str(nets[0]), threads=1) as worker:
        item.start(worker, 0)
        item.about = {**item.about, "machine": {**item.about["machine"], "cpu": "another"}}
        with pytest.raises(CheckFailed, match="the processor is not the one this measurement began with"):
            item.start(worker, 0)


def test_without_a_file_the_loss_is_told(nets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lose_after(monkeypatch, 5)
    with pytest.raises(DeviceFailed, match="2 rounds are lost; with --save FILE they are kept"):
        bench(nets, blocks=6, min_seconds=0.06)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    if loopback.missing() is not None:
        pytest.skip(str(loopback.missing()))
    server = loopback.Loopback(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


def test_a_connection_that_is_cut_and_resumed(
    board: loopback.Loopback, nets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real thing: sshd's sessions are killed in the middle, and the command is given again."""
    device, save = str(board.device(work_folder=f'"{tmp_path}"')), tmp_path / "run.json"
    blocks: list[int] = []
    ask = Worker.ask

    def cut(self: Worker, request: str, **arguments: Any) -> dict[str, Any]:
        if request == "block" and "max_runs" in arguments and "of" not in arguments:
            blocks.append(1)
            if len(blocks) == 6:
                board.cut()
        return ask(self, request, **arguments)

    command = ["bench", str(nets[0]), "--device", device, "--blocks", "8", "--min-seconds", "0.08", "--save", str(save)]
    with monkeypatch.context() as cutting:
        cutting.setattr(Worker, "ask", cut)
        assert main(command) == 3
    assert not save.exists()
    assert len(json.loads(partial_path(save, "board").read_text())["collected"][0]["blocks"]) == 5
    assert main([*command, "--resume"]) == 0
    assert len(json.loads(save.read_text())["runs"][0]["blocks_ns"]) == 8
    assert not partial_path(save, "board").exists()
    assert not list(tmp_path.glob("edgecnn.*"))
    assert main(["bench", str(nets[0]), "--resume"]) == 2


def test_a_replay_is_the_same_or_says_why(nets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    report = bench(nets, blocks=6, min_seconds=0.3, extras=False)
    then = report.to_json(samples=True)
    again = replay(SavedReport.model_validate(then), device=None, within=100.0)
    assert all(one.same for one in again)
    slow = json.loads(json.dumps(then))
    slow["machine"]["cpu"], slow["versions"]["numpy"] = "another", "1.0"
    slow["runs"][0]["blocks_ns"] = [[1000 * ns for ns in block] for block in slow["runs"][0]["blocks_ns"]]
    one, two = replay(SavedReport.model_validate(slow), device=None, within=0.5)
    assert not one.same
    assert one.ratio < 0.01
    assert any(text.startswith("processor: another then") for text in one.because)
    assert any(text.startswith("numpy: 1.0 then") for text in one.because)
    assert two.ratio > 0.05


def test_replay_from_the_command_line(nets: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    short = ["--blocks", "6", "--min-seconds", "0.1"]
    assert main(["bench", str(nets[0]), *short, "--save", str(file)]) == 0
    capsys.readouterr()
    assert main(["replay", str(file), "--within", "100", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["artifact"] == str(nets[0])
    record = json.loads(file.read_text())
    for block in record["runs"][0]["blocks_ns"]:
        block[:] = [50 * ns for ns in block]
    file.write_text(json.dumps(record))
    assert main(["replay", str(file)]) == 1
    assert "DIFFERENT" in capsys.readouterr().out
    tiny_models.tflite(nets[0], channels=8)
    assert main(["replay", str(file)]) == 1
    assert "has changed since it was measured" in capsys.readouterr().err
    nets[0].unlink()
    assert main(["replay", str(file)]) == 3


def curve(values: list[float], **states: Callable[[int], Any]) -> Curve:
    def state(name: str, i: int, otherwise: Any) -> Any:
        return states[name](i) if name in states else otherwise

    points = [
        Point(float(i + 1), ms, 10, state("clock_mhz", i, None), None, state("throttled", i, ()))
        for i, ms in enumerate(values)
    ]
    return Curve("net", tuple(points))


def test_when_throttling_set_in() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(1, 0.01, 300)
    assert curve(list(noise)).throttling is None
    step = np.where(np.arange(300) < 120, 1.0, 1.3)
    found = curve(list(noise * step)).throttling
    assert found is not None
    assert 118 <= found[0] <= 123
    assert found[1] in ("30% slower from then on", "31% slower from then on", "29% slower from then on")
    bump = np.where((np.arange(300) > 100) & (np.arange(300) < 130), 1.3, 1.0)
    assert curve(list(noise * bump)).throttling is None  # another program, for a while
    told = curve(list(noise), throttled=lambda i: ("clock capped",) if i >= 50 else ())
    assert told.throttling == (51.0, "the device said: clock capped")
    fallen = curve(list(noise), clock_mhz=lambda i: 2400.0 if i < 70 else 1800.0)
    assert fallen.throttling == (71.0, "the clock fell from 2400 to 1800 MHz")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 10 s", 10)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "-5m", "1s", "1e3s", "99h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        parse_duration(text)


def test_a_curve_of_real_seconds_and_one_that_breaks(nets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.bench.sustained.BLOCK_S", 0.05)
    found = sustained(nets, seconds=0.3)
    assert [len(c.points) >= 5 for c in found.curves] == [True, True]
    assert found.curves[0].points[-1].at_s >= 0.3
    assert json.loads(json.dumps(found.to_json()))["kind"] == "sustained"
    lose_after(monkeypatch, 3)
    broken = sustained(nets, seconds=10).curves
    assert [(len(c.points), c.broken) for c in broken] == [(3, "no connection to `board`")]


def test_the_trend_sees_a_slow_drift_and_no_outliers() -> None:
    flat = [np.array([100]) for _ in range(20)]
    assert trend(flat) == 0
    rising = [np.array([100 + i]) for i in range(21)]
    assert trend(rising) == pytest.approx(20 / 110)
    flat[3], flat[17] = np.array([900]), np.array([5])
    assert trend(flat) == 0


def counts(*entries: tuple[str, str, str, int]) -> dict[str, Any]:
    rows = [
        {"artifact": a, "sha256": sha, "core": core, "instructions_per_inference": n, "engine": {"name": "x"}}
        for a, sha, core, n in entries
    ]
    return {"schema": 1, "kind": "emulated, instructions, not time", "counts": rows}


def test_counts_stand_beside_times_as_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times, first, second = (tmp_path / name for name in ("times.json", "a53.json", "a76.json"))
    times.write_text(json.dumps(saved(1.0)))
    known = "0" * 64
    first.write_text(json.dumps(counts(("net0.tflite", known, "cortex-a53", 4_000_000), ("b", "1", "cortex-a53", 1))))
    second.write_text(json.dumps(counts(("net0.tflite", known, "cortex-a76", 2_000_000))))
    assert main(["compare", str(times), str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["instructions"][0]["instructions"] == {"cortex-a53": 4_000_000, "cortex-a76": 2_000_000}
    assert found["instructions"][1]["ratios"] == {"cortex-a53": 0.25e-6}
    assert main(["compare", str(times), str(first), str(second)]) == 0
    out = capsys.readouterr()
    assert "4.00 M (1.000)" in out.out
    assert "EMULATED columns" in out.err
    assert main(["compare", str(first)]) == 0
    second.write_text(json.dumps(counts(("net0.tflite", known, "cortex-a53", 5))))
    assert main(["compare", str(first), str(second)]) == 3
    second.write_text('{"counts": []}')
    assert main(["compare", str(first), str(second)]) == 3
