"""A bundle whose graph has codes: what for, so that `export` takes it as it is and nothing else by mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecnn.errors import UsageError
from edgecnn.ir.graph import Graph

_TARGET, _CPU, _SETTINGS, _METHOD = "coded.target", "coded.cpu", "coded.settings", "coded.method"
_CALIBRATION = "coded.calibration"


@dataclass(frozen=True)
class Coding:
    """What a graph was rewritten and quantised for.

    Args:
        target: a name in `TARGETS`.
        cpu: the core.
        settings: of the target's passes.
        method: how the codes were found, for the manifest, such as `qat`.
        calibration: which images the codes were chosen on, for the manifest; None: not recorded.
    """

    target: str
    cpu: str
    settings: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    calibration: Mapping[str, Any] | None = None

    def to_provenance(self) -> dict[str, str]:
        """The entries of a bundle's provenance."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        found = {_TARGET: self.target, _CPU: self.cpu, _SETTINGS: settings, _METHOD: self.method}
        if self.calibration is not None:
            found[_CALIBRATION] = json.dumps(dict(self.calibration), sort_keys=True)
        return found

    @staticmethod
    def of(provenance: Mapping[str, str]) -> Coding | None:
        """What a bundle says; None if its graph has no codes."""
        if _TARGET not in provenance:
            return None
        settings = json.loads(provenance.get(_SETTINGS, "{}"))
        calibration = json.loads(provenance.get(_CALIBRATION, "null"))
        return Coding(provenance[_TARGET], provenance.get(_CPU, ""), settings, provenance.get(_METHOD, ""), calibration)

    def require(self, target: str, cpu: str, settings: Mapping[str, str], *, where: str) -> None:
        """Refuses another target, core or setting: its rewrites were made, and its codes chosen, for this one.

        Raises:
            UsageError: what differs, and both values.
        """
        ours = {"target": self.target, "cpu": self.cpu, **{f"--set {k}": v for k, v in self.settings.items()}}
        theirs = {"target": target, "cpu": cpu, **{f"--set {k}": v for k, v in settings.items()}}
        for key in (*ours, *theirs):
            if ours.get(key) != theirs.get(key):
                raise UsageError(
                    f"the bundle was quantised for another {key}",
                    where=where,
                    expected=ours.get(key, "the default"),
                    got=theirs.get(key, "the default"),
                    do="export it for what it was made for, or quantise the float net again",
                )


def is_coded(graph: Graph) -> bool:
    """Whether some activation of `graph` has quantisation parameters."""
    return any(value.q is not None and not value.is_const for value in graph.values.values())
