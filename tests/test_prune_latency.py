"""Latency as a function of channel counts: what is measured and kept, what lies between, and a net measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from test_prune_groups import net

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import attrs_of, macs_of
from edgecnn.pipeline.draft import compare
from edgecnn.pipeline.meter import Clock, meter_for, table_of
from edgecnn.pipeline.prune import prune
from edgecnn.pipeline.pruned import PruneOptions
from edgecnn.pipeline.source import load_source
from edgecnn.prune.apply import apply
from edgecnn.prune.cost import ledger_of
from edgecnn.prune.groups import alive, prunable
from edgecnn.prune.latency import LatencyTable, latency_costs
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets

BODY = """b = conv(a, wb[32,8,3,3], bb[32]) pad=(1,1,1,1)
r = clip(b) lo=0.0 hi=None
c = conv(r, wc[32,1,3,3]) pad=(1,1,1,1) groups=32
d = conv(c, wd[32,8,1,1]) groups=4
z = concat(d, c) axis=1"""


def small() -> Graph:
    return net(BODY, 64)


def by_macs(graphs: Mapping[str, Graph]) -> dict[str, float]:
    """A device on which an op takes as many microseconds as it has multiply-adds, and one more per value made."""
    return {
        key: float(sum(macs_of(g, op) + np.prod(g.shape(op.output)[1:]) for op in g.ops)) for key, g in graphs.items()
    }


def test_on_a_device_of_which_the_law_is_known_the_table_knows_it() -> None:
    """Linear in what is made and read, so that what lies between measured widths is exact, up to full tiles."""
    coupling, groups = prunable(small())
    costs = latency_costs(coupling, LatencyTable("here", by_macs), tile=1)
    ledger = ledger_of(coupling, lambda graph, piece: costs[piece.name])
    whole = ledger.total()
    parts = {op.output: by_macs({"k": _alone(small(), op.output)})["k"] for op in small().ops if op.kind != "flatten"}
    assert whole == pytest.approx(sum(parts.values()))
    protected = alive(coupling, np.zeros(coupling.units))
    removed = np.concatenate([g.units[~protected[g.units]][: len(g) // 3] for g in groups])
    pruned = apply(coupling, removed)
    ledger.remove(removed)
    wanted = sum(by_macs({"k": _alone(pruned, op.output)})["k"] for op in pruned.ops if op.kind != "flatten")
    # A dense layer costs reads * makes, which is bilinear, as the table is; a layer in groups reads a share of what it
    # makes, so its cost is a parabola, which the table has at three points.
    assert ledger.total() == pytest.approx(wanted, rel=0.05)
    assert wanted < 0.8 * whole


def _alone(graph: Graph, name: str) -> Graph:
    op = graph.makers[name]
    values = [graph.value(n) for n in (*op.inputs, op.output)]
    return Graph.build("one", [op], values, tuple(dict.fromkeys(graph.activations(op))), (name,))


def test_counts_are_rounded_up_to_full_tiles() -> None:
    coupling, _ = prunable(small())
    costs = latency_costs(coupling, LatencyTable("here", by_macs), tile=8)
    at = costs["b"]
    assert at(8, 17) == at(8, 24) < at(8, 25) == at(8, 32)


def test_pieces_are_measured_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    asked: list[int] = []

    def measure(graphs: Mapping[str, Graph]) -> dict[str, float]:
        asked.append(len(graphs))
        return by_macs(graphs)

    coupling, _ = prunable(small())
    first = LatencyTable("here", measure, path)
    one = latency_costs(coupling, first, tile=8)
    assert asked == [first.measured]
    assert set(json.loads(path.read_text())) == {"where", "latency_us"}
    again = LatencyTable("here", measure, path)
    other = latency_costs(coupling, again, tile=8)
    assert (len(asked), again.measured) == (1, 0)
    assert one["b"](8, 20) == other["b"](8, 20)
    elsewhere = LatencyTable("another core", measure, path)
    latency_costs(coupling, elsewhere, tile=8)
    assert elsewhere.measured == first.measured
    path.write_text("{")
    assert LatencyTable("here", measure, path).entries == {}


def test_a_fused_activation_and_the_form_of_groups_are_part_of_a_piece() -> None:
    seen: dict[str, Graph] = {}

    def measure(graphs: Mapping[str, Graph]) -> dict[str, float]:
        seen.update(graphs)
        return by_macs(graphs)

    coupling, _ = prunable(small())
    latency_costs(coupling, LatencyTable("here", measure), tile=8)
    kinds = {tuple(op.kind for op in g.ops) for g in seen.values()}
    assert ("conv", "clip") in kinds
    depthwise = [g for g in seen.values() if g.shape(g.ops[0].inputs[-1])[1:] == (1, 3, 3)]
    assert depthwise
    assert all(attrs_of(g.ops[0])["groups"] == g.shape(g.ops[0].output)[1] for g in depthwise)


def test_what_cannot_be_measured_costs_nothing() -> None:
    coupling, _ = prunable(small())
    costs = latency_costs(coupling, LatencyTable("here", lambda graphs: {}), tile=8)
    assert {cost(8, 8) for cost in costs.values()} == {0.0}


def test_a_core_that_is_not_here_cannot_be_measured() -> None:
    other = next(core for core in ("armv8", "x86") if core != local_cpu())
    with pytest.raises(UsageError, match="cannot be measured here"):
        prune(
            "resnet20", how=PruneOptions("latency", 0.5, cpu=other), weights="random", input_shape=(3, 32, 32)
        )  # fmt: skip


def test_a_net_measured_here_takes_about_what_was_predicted(tmp_path: Path) -> None:
    """Pieces alone find their data in the cache and hand nothing over; a busy machine adds noise to both sides.

    So the ratio may miss by a sixth, where it missed by a fiftieth on a busy machine. A wrong table is off by factors.
    """
    all_targets()
    target = TARGETS["tflite-int8"]
    built = load_source("mobilenet_v2", weights="random", input_shape=(3, 96, 96), options={"width": 0.5}).to_graph()
    coupling, groups = prunable(built)
    table = table_of(Clock(target, local_cpu()), folder=tmp_path)
    costs = latency_costs(coupling, table, tile=16)
    ledger = ledger_of(coupling, lambda graph, piece: costs[piece.name])
    whole = ledger.total()
    protected = alive(coupling, np.zeros(coupling.units))
    removed = np.concatenate([g.units[~protected[g.units]][: len(g) // 2 // 8 * 8] for g in groups])
    ledger.remove(removed)
    report = compare({"whole": built, "half": apply(coupling, removed)}, target, local_cpu(), min_seconds=0.5)
    times = [run.min_ms * 1e3 for run in report.runs]
    assert ledger.total() / whole == pytest.approx(times[1] / times[0], rel=1 / 6)
    assert times[1] < 0.8 * times[0]


def test_a_layer_of_less_than_two_tiles_is_known_in_parts_of_one() -> None:
    """A table that knew 16 channels only would hold a narrow net for one that cannot get faster."""
    coupling, _ = prunable(small())
    costs = latency_costs(coupling, LatencyTable("here", by_macs), tile=16)
    assert costs["b"](4, 32) < 0.75 * costs["b"](8, 32)


def test_pieces_are_timed_on_a_device_as_here(tmp_path: Path) -> None:
    all_targets()
    (tmp_path / "dev.toml").write_text(f'transport = "local"\nwork_folder = "{tmp_path}"\n')
    meter = meter_for(TARGETS["tflite-int8"], cpu=None, device=str(tmp_path / "dev.toml"))
    assert meter is not None
    assert (meter.unit, meter.cpu) == ("us", local_cpu())
    assert meter.where().startswith(f"tflite-int8 for {local_cpu()}, 1 thread(s), dev: ")
    table = table_of(meter, folder=tmp_path / "tables")
    coupling, _ = prunable(load_source("resnet20", weights="random", input_shape=(3, 32, 32)).to_graph())
    costs = latency_costs(coupling, table, tile=16)
    assert table.measured == len(table.entries) > 20
    assert costs["conv1"](3, 16) > 0
    # Twice the channels in and out are four times the work; a table that mixed its pieces up would not know.
    wide, narrow = (costs["layer3.2.conv2"](n, n) for n in (64, 32))
    assert wide > 1.5 * narrow > 0
    assert not list(tmp_path.glob("edgecnn.*"))


def test_an_emulated_device_needs_a_core_it_emulates(tmp_path: Path) -> None:
    all_targets()
    (tmp_path / "arm.toml").write_text('transport = "ssh"\nhost = "nowhere"\nemulated = true\n')
    with pytest.raises(UsageError, match="unknown core `cortex-a77`"):
        meter_for(TARGETS["tflite-int8"], cpu="cortex-a77", device=str(tmp_path / "arm.toml"))
    meter = meter_for(TARGETS["tflite-int8"], cpu="cortex-a72", device=str(tmp_path / "arm.toml"))
    assert meter is not None
    assert (meter.unit, meter.cpu) == ("instructions", "armv8")
