"""What the processes of one artifact have answered so far, in a form that can be put down and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact import sha256_of_file
from edgecnn.bench.records import Measured
from edgecnn.bench.stats import Array
from edgecnn.bench.worker import Agent, Worker
from edgecnn.errors import CheckFailed, UsageError

WARM_SECONDS = 0.2
MAX_RUNS = 2000
"""Of one block: tiny artifacts need no more samples, only more rounds."""

FIGURES = ("copies", "whole")
"""Measured beside the inference itself; see `runtime.measure.Measurement.block`."""
COLD_STARTS = 5
ENERGY_SECONDS = 5.0


@dataclass
class Collected:
    """One artifact's answers.

    Args:
        path: of the artifact, as it was given.
        blocks: raw samples of the inference, one array per finished round.
        others: likewise of the other figures, by name.
        absent: of each figure that this artifact cannot give, the reason.
    """

    path: str
    blocks: list[Array] = field(default_factory=list)
    others: dict[str, list[Array]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    cpu_ns: int = 0
    wall_ns: int = 0
    first_ns: list[int] = field(default_factory=list)
    load_ns: list[int] = field(default_factory=list)
    cold_ns: list[int] = field(default_factory=list)
    energy: dict[str, Any] | None = None
    peak_bytes: int = 0
    before_bytes: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    states: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def start(self, worker: Worker, seed: int) -> None:
        """Takes the load time and the first inference of a fresh process, and warms it up.

        Raises:
            CheckFailed: the machine or the engine is another one than when the measurement began.
        """
        if self.about:
            _check_same(self.path, self.about, worker.about)
        self.about = worker.about
        self.load_ns.append(worker.about["load_ns"])
        worker.ask("feed", seed=seed)
        self.first_ns.append(worker.ask("first")["first_ns"])
        worker.ask("block", seconds=WARM_SECONDS, warm=0)

    def block(self, worker: Worker, seconds: float) -> dict[str, Any]:
        """One more block, not added yet: a round counts once every artifact has had its turn."""
        return worker.ask("block", seconds=seconds, max_runs=MAX_RUNS)

    def add(self, answer: Mapping[str, Any]) -> None:
        """Adds a block."""
        self.blocks.append(np.asarray(answer["samples_ns"], np.int64))
        self.cpu_ns += answer["cpu_ns"]
        self.wall_ns += answer["wall_ns"]
        self.states += [{"round": len(self.blocks) - 1, **state} for state in answer.get("states", ())]

    def add_others(self, worker: Worker, seconds: float) -> None:
        """A block of each of the other figures; one that the artifact cannot give is not asked for again."""
        for name in FIGURES:
            if name in self.absent:
                continue
            try:
                answer = worker.ask("block", seconds=seconds, max_runs=MAX_RUNS, of=name)
            except UsageError as problem:
                self.absent[name] = problem.what
                continue
            self.others.setdefault(name, []).append(np.asarray(answer["samples_ns"], np.int64))

    def add_cold(self, worker: Agent) -> None:
        """One more cold start."""
        self.cold_ns += worker.ask("cold", starts=1)["cold_ns"]

    def take_energy(self, worker: Agent, seconds: float, sensor: str | None) -> None:
        """Takes what an inference spends, if something there can tell."""
        seconds = min(seconds, ENERGY_SECONDS)
        self.energy = worker.ask("energy", seconds=seconds, idle_seconds=seconds, sensor=sensor)

    def end(self, worker: Agent) -> None:
        """Takes the peak memory; the largest of the processes counts."""
        answer = worker.ask("memory")
        if answer["peak_rss_bytes"] > self.peak_bytes:
            self.peak_bytes, self.before_bytes = answer["peak_rss_bytes"], answer["before_rss_bytes"]

    def finish(self) -> Measured:
        """The whole of it."""
        return Measured(
            artifact=self.path,
            blocks=tuple(self.blocks),
            cpu_share=self.cpu_ns / self.wall_ns,
            first_ns=tuple(self.first_ns),
            load_ns=tuple(self.load_ns),
            peak_bytes=self.peak_bytes,
            before_bytes=self.before_bytes,
            about=self.about,
            states=tuple(self.states),
            remarks=(*self.remarks, *(f"no `{name}` figure: {why}" for name, why in self.absent.items())),
            sha256=sha256_of_file(Path(self.path)),
            others={name: tuple(blocks) for name, blocks in self.others.items()},
            cold_ns=tuple(self.cold_ns),
            energy=self.energy,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data; `from_json` is its inverse."""
        return {
            **self.__dict__,
            "blocks": [block.tolist() for block in self.blocks],
            "others": {name: [block.tolist() for block in blocks] for name, blocks in self.others.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Collected:
        """What `to_json` gave.

        Raises:
            TypeError: it is something else.
        """
        arrays = [np.asarray(block, np.int64) for block in record["blocks"]]
        others = {name: [np.asarray(block, np.int64) for block in blocks] for name, blocks in record["others"].items()}
        return cls(**{**record, "blocks": arrays, "others": others})


def _check_same(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for what, a, b in (
        ("processor", before["machine"].get("cpu"), now["machine"].get("cpu")),
        ("engine", before["engine"], now["engine"]),
    ):
        if a != b:
            raise CheckFailed(
                f"the {what} is not the one this measurement began with",
                where=path,
                expected=str(a),
                got=str(b),
                do="begin again, without --resume",
            )
