"""What share of an artifact runs in its runtime's fast path, and which operators do not: a gate of every export.

The artifact is opened in the runtime that is installed here and the runtime is asked what it made of it, because that
is what decides the speed. For an int8 artifact the fast path is computation on 8-bit codes (in LiteRT: by XNNPACK,
tables included); for a float one it is the delegate, or in ONNX Runtime everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgecnn.errors import CheckFailed
from edgecnn.targets.engine import check_artifact
from edgecnn.targets.executed import ExecutedOp, Execution


@dataclass(frozen=True)
class Coverage:
    """The judgement of one artifact; shares are 0...1."""

    artifact: str
    execution: Execution

    @property
    def precision(self) -> str:
        """`int8` or `float`: what the artifact is meant to compute in."""
        return self.execution.precision

    @property
    def partitions(self) -> int | None:
        """How many pieces XNNPACK made of the net; 1 is best. None in ONNX Runtime."""
        return self.execution.partitions

    @property
    def counted(self) -> tuple[ExecutedOp, ...]:
        """The operators that count: all but those at the borders."""
        return tuple(op for op in self.execution.ops if op.place != "border")

    @property
    def outside(self) -> tuple[ExecutedOp, ...]:
        """The operators outside of the fast path."""
        return tuple(op for op in self.execution.ops if op.place == "outside")

    @property
    def borders(self) -> tuple[ExecutedOp, ...]:
        """Conversions and moves at the inputs and outputs: listed, never a miss."""
        return tuple(op for op in self.execution.ops if op.place == "border")

    @property
    def macs(self) -> int:
        """Multiply-adds of one image, as executed."""
        return sum(op.macs for op in self.execution.ops)

    @property
    def macs_share(self) -> float:
        """The share of the multiply-adds in the fast path; 1 if there are none."""
        missed = sum(op.macs for op in self.outside)
        return 1 - missed / self.macs if self.macs else 1.0

    @property
    def int8_share(self) -> float:
        """The share of the multiply-adds that are computed on 8-bit codes, fast or not."""
        return sum(op.macs for op in self.execution.ops if op.codes) / self.macs if self.macs else 0.0

    @property
    def ops_share(self) -> float:
        """The share of the operators in the fast path, borders not counted; 1 if there are none."""
        return 1 - len(self.outside) / len(self.counted) if self.counted else 1.0

    def to_json(self) -> dict[str, Any]:
        """The judgement as plain data."""
        return {
            "precision": self.precision,
            "engine": self.execution.engine,
            "macs": self.macs,
            "macs_share": self.macs_share,
            "int8_share": self.int8_share,
            "operators": len(self.execution.ops),
            "ops_share": self.ops_share,
            "partitions": self.partitions,
            "outside": [_label(op) for op in self.outside],
            "borders": [_label(op) for op in self.borders],
            "details": [
                {"name": op.name, "kind": op.kind, "macs": op.macs, "place": op.place, "reason": op.reason}
                for op in self.execution.ops
                if op.place != "fast"
            ],
            "remarks": list(self.execution.remarks),
        }


def _label(op: ExecutedOp) -> str:
    return f"{op.name} ({op.kind})"


def coverage_of(path: str | os.PathLike[str]) -> Coverage:
    """The coverage of the .tflite or .onnx file at `path`, ours or not, in the runtime installed here.

    Raises:
        InputError: the file is missing, damaged, of an unknown kind, or the runtime refuses it.
        EnvironmentFailure: the runtime is not installed.
    """
    inspect: dict[str, Callable[[str], Execution]] = {"litert": _tflite, "ort": _onnx}
    return Coverage(os.fspath(path), inspect[check_artifact(path)](os.fspath(path)))


def _tflite(path: str) -> Execution:
    from edgecnn.targets.tflite_inspect import executed_ops

    return executed_ops(path)


def _onnx(path: str) -> Execution:
    from edgecnn.targets.onnx_inspect import executed_ops  # onnx takes a third of a second to import.

    return executed_ops(path)


def gate(coverage: Coverage, *, threshold: float = 0.9, limit: int = 8) -> None:
    """Checks that at least `threshold` of the multiply-adds run in the fast path.

    Raises:
        CheckFailed: they do not; the message names the operators outside (the `limit` largest) and why.
    """
    if coverage.macs_share >= threshold:
        return
    missed = sorted(coverage.outside, key=lambda op: op.macs, reverse=True)
    lines = [f"{_label(op)}: {op.reason}" for op in missed[:limit]]
    if len(missed) > limit:
        lines.append(f"and {len(missed) - limit} more")
    kind = "int8 path" if coverage.precision == "int8" else "fast path"
    raise CheckFailed(
        f"only {coverage.macs_share:.1%} of the multiply-adds run in the {kind} of {coverage.execution.engine}",
        where=coverage.artifact,
        expected=f"at least {threshold:.1%}",
        got="\n".join(lines),
        do="choose another activation or target, update the runtime, or lower the threshold with --min-coverage",
    )
