"""Bounds of a clip, and the one clip that does what several do."""

from __future__ import annotations

from edgecnn.ir.ops import Clip


def compose(inner: Clip, outer: Clip) -> Clip:
    """The clip that equals `inner` followed by `outer`.

    min(max(., lo), hi) is monotone, so the outer clip acts on the inner bounds as on any other number; a bound that the
    inner one lacks is the outer's.

    Example:
        >>> compose((0.0, None), (None, 6.0))
        (0.0, 6.0)
        >>> compose((0.0, 1.0), (2.0, 3.0))
        (2.0, 2.0)
    """
    lo, hi = (outer[at] if bound is None else _clip(bound, outer) for at, bound in enumerate(inner))
    return lo, hi


def scale(clip: Clip, factor: float) -> Clip:
    """The clip that follows a multiplication by a positive `factor` as `clip` goes before it."""
    lo, hi = (None if bound is None else bound * factor for bound in clip)
    return lo, hi


def of_attrs(lo: float | None, hi: float | None) -> Clip:
    """Bounds as floats, so that equal clips compare and print alike."""
    return (None if lo is None else float(lo), None if hi is None else float(hi))


def _clip(number: float, clip: Clip) -> float:
    lo, hi = clip
    number = number if lo is None else max(number, lo)
    return number if hi is None else min(number, hi)
