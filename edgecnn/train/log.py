"""The course of a run: a line of JSON for every few steps and every epoch, and the same for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecnn.errors import EnvironmentFailure
from edgecnn.train.trainer import EpochReport, StepReport

EVERY_STEPS = 10


class TrainingLog:
    """Writes the reports of a run as they come; a run that goes on from a checkpoint goes on in its log.

    Args:
        path: the .jsonl file. Lines of an earlier run from the first reported step on are dropped.
        tensorboard: a folder for TensorBoard's event files; None: none are written.

    Raises:
        EnvironmentFailure: event files are asked for and the `tensorboard` package is missing.
    """

    def __init__(self, path: Path, *, tensorboard: Path | None = None) -> None:
        self.path, self._tensorboard = path, tensorboard
        self._writer: Any = None
        self._done = 0
        self._file: Any = None
        if tensorboard is not None:
            _summary_writer()

    def step(self, report: StepReport) -> None:
        """Notes a step, if its turn has come."""
        if self._file is None:
            self._open(report.done)
        self._done = report.done
        if report.done % EVERY_STEPS == 0:
            self._write({"loss": report.loss, "lr": report.lr})
            self._scalars({"step/loss": report.loss, "step/lr": report.lr})

    def epoch(self, report: EpochReport) -> None:
        """Notes an epoch."""
        self._write(asdict(report))
        self._scalars(
            {"epoch/loss": report.loss, "epoch/train_top1": report.train_top1, "epoch/seconds": report.seconds}
        )

    def result(self, **values: float) -> None:
        """Notes what the run came to."""
        self._write(values)
        self._scalars({f"result/{name}": value for name, value in values.items()})

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for opened in (self._file, self._writer):
            if opened is not None:
                opened.close()

    def _open(self, first: int | None = None) -> None:
        """Opens the log for step `first`; None: behind whatever an earlier run has written."""
        kept = [line for line in _lines(self.path) if first is None or line["step"] < first]
        self._done = max((line["step"] for line in kept), default=0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8", buffering=1)  # a line at a time, for who looks on
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        if self._tensorboard is not None:
            self._writer = _summary_writer()(str(self._tensorboard), purge_step=first)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:  # no step was left to do after the interrupt
            self._open()
        self._file.write(json.dumps({"step": self._done, **line}) + "\n")

    def _scalars(self, values: dict[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, self._done)


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break  # cut off by a kill; what stood behind it will be written again
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                found.append(line)
    return found


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise EnvironmentFailure(
            "a log for TensorBoard needs the package `tensorboard`",
            do="pip install 'edgecnn[tensorboard]', or leave out --tensorboard: the .jsonl log is always written",
        ) from None
    return SummaryWriter
