"""A measurement put down after every round, so that a lost device or a full disk costs no more than one round."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact import atomic_write
from edgecnn.bench.collect import Collected
from edgecnn.errors import EdgecnnError, InputError, UsageError

SCHEMA = 1


class Checkpoint:
    """A file with the rounds that are done.

    Args:
        path: of the file.
        asked: what was asked for, plain data; a resumed measurement must ask for the same.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path, self.asked = path, dict(asked)

    def load(self) -> list[Collected]:
        """What was measured so far.

        Raises:
            UsageError: there is no such file, or it is of a measurement that asked for something else.
            InputError: it cannot be read.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            asked = content["asked"]
            collected = [Collected.from_json(record) for record in content["collected"]]
            if content["schema"] != SCHEMA or not collected:
                raise ValueError("of another schema")
        except FileNotFoundError:
            raise UsageError("there is nothing to resume", where=str(self.path), do="leave --resume out") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                "this is no interrupted measurement", where=str(self.path), got=str(error), do="begin without --resume"
            ) from None
        apart = [key for key in self.asked if asked.get(key) != self.asked[key]]
        if apart:
            raise UsageError(
                "the interrupted measurement asked for something else",
                where=str(self.path),
                expected="\n".join(f"{key}: {asked.get(key)}" for key in apart),
                got="\n".join(f"{key}: {self.asked[key]}" for key in apart),
                do="resume with the same options and files, or begin again without --resume",
            )
        return collected

    def save(self, collected: Sequence[Collected]) -> None:
        """Puts down what was measured so far.

        Raises:
            EnvironmentFailure: the file cannot be written.
        """
        content = {"schema": SCHEMA, "asked": self.asked, "collected": [item.to_json() for item in collected]}
        atomic_write(self.path, json.dumps(content).encode())

    def remove(self) -> None:
        """Takes the file away: the measurement is whole."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def advise(failure: EdgecnnError, checkpoint: Checkpoint | None, rounds: int) -> EdgecnnError:
    """`failure` with a line on what is kept of the measurement."""
    if rounds == 0:
        return failure
    if checkpoint is None:
        kept = f"{rounds} rounds are lost; with --save FILE they are kept and --resume goes on from there"
    else:
        kept = f"{rounds} rounds are kept in {checkpoint.path}: the same command with --resume goes on from there"
    failure.do = f"{failure.do}\n{kept}" if failure.do else kept
    failure.args = (str(failure),)
    return failure


def partial_path(save: Path, device: str | None) -> Path:
    """Where a measurement that will be saved to `save` is put down meanwhile."""
    return save.with_name(f"{save.name}.{device or 'here'}.partial")
