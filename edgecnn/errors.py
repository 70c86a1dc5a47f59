"""Every error a person can meet: where it happened, what is wrong, what was expected and what came, what to do.

The class decides the exit code, so that scripts can tell a failed check from a wrong option or a missing runtime.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class EdgecnnError(Exception):
    """A failure that is explained to the user; subclasses carry the exit code.

    Args:
        what: one line that says what is wrong, with the offending name in backticks.
        where: file, module path, key or value the error is about.
        expected: what would have been right.
        got: what came instead.
        do: what the reader can do next.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        do: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.do = what, where, expected, got, do
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self.what}"]
        for label, text in (("at", self.where), ("expected", self.expected), ("got", self.got), ("do", self.do)):
            if text is not None:
                # Continuation lines stand under the first, so that lists stay readable.
                lines.append(f"  {label:<9}" + text.replace("\n", "\n" + " " * 11))
        return "\n".join(lines)


class CheckFailed(EdgecnnError):
    """A proof or a gate said no: parity, coverage, accuracy, an assertion of `bench`."""

    exit_code = 1


class UsageError(EdgecnnError):
    """An unknown name, option, key or an option value that is not legal."""

    exit_code = 2


class InputError(EdgecnnError):
    """A file or data set that is missing, damaged, or not what it was said to be."""

    exit_code = 3


class DeviceFailed(EdgecnnError):
    """A device that cannot be reached, was lost, or does not do its part."""

    exit_code = 3


class UnsupportedOp(EdgecnnError):
    """An operation that cannot be imported or lowered to the chosen target."""

    exit_code = 4


class EnvironmentFailure(EdgecnnError):
    """The machine lacks something: a runtime, the network, disk space."""

    exit_code = 5


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a check failed (parity, coverage, accuracy, bench --assert)",
    2: "wrong usage (unknown net, target, option or recipe key)",
    3: "bad input (weights, images, artifacts), or a device that failed",
    4: "an op that cannot be imported or lowered",
    5: "the environment lacks something (runtime, network, disk)",
    70: "a bug in edgecnn",
    130: "interrupted",
}


def nearest(name: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """The known names closest to `name`, best first; empty if none is close."""
    pool = {k.lower(): k for k in known}
    return [pool[m] for m in difflib.get_close_matches(name.lower(), list(pool), n=limit, cutoff=0.5)]


def unknown(kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> UsageError:
    """A `UsageError` for an unknown `name` that offers the nearest known ones.

    Example:
        >>> print(unknown("target", "tflite-int9", ["tflite-int8", "onnx-int8"]))
        UsageError: unknown target `tflite-int9`
          expected one of onnx-int8, tflite-int8
          do       did you mean `tflite-int8`?
    """
    names = sorted(known)
    close = nearest(name, names)
    return UsageError(
        f"unknown {kind} `{name}`",
        where=where,
        expected="one of " + ", ".join(names) if names else f"(no {kind} is registered)",
        do="did you mean " + " or ".join(f"`{c}`" for c in close) + "?" if close else None,
    )
