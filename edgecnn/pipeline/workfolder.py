"""The work folder: each stage's output under the hash of its inputs, so that what is up to date is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn import __version__
from edgecnn.artifact import atomic_write, canonical_json, sha256_of

STAMPS = "stamps.json"


def key_of(*inputs: Any) -> str:
    """The hash of a stage's inputs: plain data; edgecnn's version counts as one of them."""
    return sha256_of(canonical_json([__version__, *inputs]))


@dataclass(frozen=True)
class WorkFolder:
    """A folder whose `stamps.json` says from which inputs each output was made."""

    path: Path

    def up_to_date(self, stage: str, key: str, outputs: Sequence[Path]) -> bool:
        """Whether `stage` ran with these inputs and its outputs are all there."""
        return self._stamps().get(stage) == key and all(o.is_file() for o in outputs)

    def stamp(self, stage: str, key: str) -> None:
        """Notes that the outputs of `stage` are now those of the inputs behind `key`."""
        atomic_write(self.path / STAMPS, canonical_json({**self._stamps(), stage: key}))

    def read_json(self, name: str) -> Any:
        """The content of a JSON file of the folder."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def write_json(self, name: str, content: Any) -> Path:
        """Writes a JSON file of the folder and returns its path."""
        atomic_write(self.path / name, canonical_json(content))
        return self.path / name

    def _stamps(self) -> dict[str, str]:
        try:
            content = json.loads((self.path / STAMPS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # a missing or damaged note only means that stages run again
        return {str(k): str(v) for k, v in content.items()} if isinstance(content, dict) else {}
