"""What can go wrong beside an engine; plain enough to cross a pipe as JSON and be explained by the host.

The host has its own errors with exit codes; `edgecnn.targets.engine` maps these to them.
"""

from __future__ import annotations

from typing import Any, Dict, Optional


class RuntimeFailure(Exception):
    """A failure with a reason and, where there is one, advice.

    Args:
        message: one line, the offending name in backticks.
        where: the file or the tensor it is about.
        do: what the reader can do next.
    """

    def __init__(self, message: str, *, where: Optional[str] = None, do: Optional[str] = None) -> None:
        super().__init__(message)
        self.message, self.where, self.do = message, where, do

    def to_json(self) -> Dict[str, Any]:
        """The failure as plain data; `from_json` is its inverse."""
        return {"kind": type(self).__name__, "message": self.message, "where": self.where, "do": self.do}


class EngineMissing(RuntimeFailure):
    """The engine that runs such files is not installed here."""


class BadArtifact(RuntimeFailure):
    """The file is missing, damaged, or of a kind no engine here runs."""


class BadRequest(RuntimeFailure):
    """The caller asked for something that cannot be: a thread count, an input of the wrong shape or type."""


class EngineFailed(RuntimeFailure):
    """The engine refused a file that looks whole, or failed while running it."""


KINDS = {kind.__name__: kind for kind in (EngineMissing, BadArtifact, BadRequest, EngineFailed)}


def from_json(record: Dict[str, Any]) -> RuntimeFailure:
    """The failure that `RuntimeFailure.to_json` described."""
    kind = KINDS.get(record.get("kind", ""), RuntimeFailure)
    return kind(record["message"], where=record.get("where"), do=record.get("do"))
