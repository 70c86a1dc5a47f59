"""A finding: which rule, where, what was seen, what it costs and how that is known, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgecnn.ir.graph import Graph

Severity = Literal["error", "warning", "info"]
Basis = Literal["measured", "estimated"]

RULES: dict[str, str] = {
    "G1-channel-widths": "1x1 convolutions whose input and output widths differ move more memory than equal ones",
    "G2-groups": "grouped convolutions move more memory and fill fewer lanes than dense ones of equal multiply-adds",
    "G3-fragmentation": "many small operators in one block cost a start each, and leave little to do in parallel",
    "G4-element-wise": "element-wise operators have next to no multiply-adds, but read and write every activation",
    "channel-tile": "channels that do not fill the last tile of the kernel are computed all the same",
    "fast-path": "operators that the runtime does not run in its fast path",
    "no-int8-form": "operators that compute in float inside an int8 net",
    "data-movement": "transposes, paddings, copies: bytes moved, nothing computed",
    "left-by-rewrite": "places that a rewrite left as they are",
    "not-expressible": "operators that the target has no form for",
}
"""Every rule with what it is about. G1 to G4: Ma et al. 2018, "ShuffleNet V2", arXiv:1807.11164, section 2."""


@dataclass(frozen=True)
class Cost:
    """What a finding costs in one inference.

    Args:
        share: of the whole net's time (or, if estimated, of its modelled work), 0...1.
        basis: `measured` on this machine, or `estimated` by a model.
        latency_us: of the ops concerned, in microseconds; None if estimated.
        avoidable_share: how much of the whole the same work would save in the form that was timed (or modelled)
            beside it; None if there is none. What cannot be avoided is still worth knowing.
    """

    share: float
    basis: Basis
    latency_us: float | None = None
    avoidable_share: float | None = None

    @property
    def weight(self) -> float:
        """By which findings are ordered: what can be saved, or where that is unknown the whole share."""
        return self.share if self.avoidable_share is None else self.avoidable_share

    def __str__(self) -> str:
        time = "" if self.latency_us is None else f"{self.latency_us:.1f} us, "
        whole = "the time" if self.basis == "measured" else "the work"
        saved = "" if self.avoidable_share is None else f"; {self.avoidable_share:.1%} avoidable"
        return f"{time}{self.share:.1%} of {whole}{saved} ({self.basis})"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "share": round(self.share, 6),
            "basis": self.basis,
            "latency_us": None if self.latency_us is None else round(self.latency_us, 3),
            "avoidable_share": None if self.avoidable_share is None else round(self.avoidable_share, 6),
        }


@dataclass(frozen=True)
class Finding:
    """One finding.

    Args:
        rule: a key of `RULES`.
        severity: `error`: the target cannot run it; `warning`: it costs over a hundredth of the time; `info`: less.
        where: the modules concerned, as the user names them.
        what: what was seen, with numbers.
        do: what to do.
        cost: None where nothing could be said.
        facts: the numbers of `what`, for machines.
    """

    rule: str
    severity: Severity
    where: tuple[str, ...]
    what: str
    do: str
    cost: Cost | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "where": list(self.where),
            "what": self.what,
            "do": self.do,
            "cost": None if self.cost is None else self.cost.to_json(),
            "facts": dict(self.facts),
        }


@dataclass(frozen=True)
class Candidate:
    """A finding before its cost is known.

    Args:
        rule: a key of `RULES`.
        ops: the names of the ops concerned, all alike.
        what: see `Finding`.
        do: see `Finding`.
        alternative: an op of the same kind in the form the rule wants; timed beside the first of `ops`, all of which
            have its shape.
        scale: how much more work each of `ops` has than `alternative`.
        waste: by the rule's own model, the share of the ops' cost that their form wastes; for where nothing is timed.
        facts: see `Finding`.
    """

    rule: str
    ops: tuple[str, ...]
    what: str
    do: str
    alternative: Graph | None = None
    scale: float = 1.0
    waste: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
