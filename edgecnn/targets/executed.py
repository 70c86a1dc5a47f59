"""What a runtime really executes for an artifact: its operators after the runtime's own rewrites, each judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Place = Literal["fast", "border", "outside"]
"""`fast`: in the runtime's fast path. `border`: conversion or layout at an input or output of the artifact, or done
once when loading; no miss. `outside`: anything else."""

Precision = Literal["int8", "int16", "float"]


@dataclass(frozen=True)
class ExecutedOp:
    """One operator as the runtime executes it.

    Args:
        name: of its first output or of its node, as near to the artifact's names as the runtime keeps them.
        kind: in the runtime's own terms (`CONV_2D`, `QLinearConv`).
        macs: multiply-adds for one image; channels that a lowering or the runtime padded count, as they execute.
        codes: whether it computes on 8-bit codes.
        place: see `Place`.
        reason: why it is not `fast`; empty if it is.
    """

    name: str
    kind: str
    macs: int
    codes: bool
    place: Place
    reason: str = ""


@dataclass(frozen=True)
class Execution:
    """All operators of an artifact in one runtime.

    Args:
        engine: name and version of the runtime.
        precision: what the artifact is meant to compute in.
        ops: in execution order.
        partitions: how many pieces the delegate made of it; None where there is no delegate.
        remarks: slow shapes inside of the fast path.
    """

    engine: str
    precision: Precision
    ops: tuple[ExecutedOp, ...]
    partitions: int | None = None
    remarks: tuple[str, ...] = ()
