"""One emitter per runtime, one record per target."""

from __future__ import annotations

from edgecnn.targets.target import TARGETS, Target

__all__ = ["TARGETS", "Target", "all_targets"]


def all_targets() -> dict[str, Target]:
    """Every target by name; loads the emitters, which register themselves."""
    from edgecnn.targets import ort, tflite  # noqa: F401 - imported for their records

    return dict(TARGETS.items())
