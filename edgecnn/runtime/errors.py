"""What can go wrong beside an engine; plain enough to cross a pipe as JSON and be explained by the host.

The host has its own errors with exit codes; `edgecnn.targets.engine` maps these to them.
"""

from __future__ import annotations

from typing import Any, Dict, Optional


class RuntimeProblem(Exception):
    """A failure with a reason and, where there is one, advice.

    Args:
        what: one line, the offending name in backticks.
        where: the file or the tensor it is about.
        do: what the reader can do next.
    """

    def __init__(self, what: str, *, where: Optional[str] = None, do: Optional[str] = None) -> None:
        super().__init__(what)
        self.what, self.where, self.do = what, where, do

    def to_json(self) -> Dict[str, Any]:
        """The failure as plain data; `from_json` is its inverse."""
        return {"kind": type(self).__name__, "what": self.what, "where": self.where, "do": self.do}


class EngineMissing(RuntimeProblem):
    """The engine that runs such files is not installed here."""


class BadArtifact(RuntimeProblem):
    """The file is missing, damaged, or of a kind no engine here runs."""


class BadRequest(RuntimeProblem):
    """The caller asked for something that cannot be: a thread count, an input of the wrong shape or type."""


class EngineFailed(RuntimeProblem):
    """The engine refused a file that looks whole, or failed while running it."""


KINDS = {kind.__name__: kind for kind in (EngineMissing, BadArtifact, BadRequest, EngineFailed)}


def from_json(record: Dict[str, Any]) -> RuntimeProblem:
    """The failure that `RuntimeProblem.to_json` described."""
    kind = KINDS.get(record.get("kind", ""), RuntimeProblem)
    return kind(record["what"], where=record.get("where"), do=record.get("do"))
