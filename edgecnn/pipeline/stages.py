"""The stages of a run as they happen: name, seconds, one line about the outcome. The CLI prints them, a library may."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """One finished stage; `skipped` if its result was up to date and was taken as it is."""

    name: str
    seconds: float
    outcome: str = ""
    skipped: bool = False


@dataclass
class Open:
    """A stage under way: set `outcome` (and `skipped`) before it ends."""

    outcome: str = ""
    skipped: bool = False


OnStage = Callable[[Stage], None]
OnStart = Callable[[str], None]


@dataclass
class Stages:
    """Times stages and tells a watcher about each.

    Args:
        on_stage: called as a stage ends.
        on_start: called with the name as a stage begins.
        on_note: called with anything the user should read.
        on_bytes: called with (bytes so far, bytes in all or None) during a download.
    """

    on_stage: OnStage | None = None
    on_start: OnStart | None = None
    on_note: Callable[[str], None] | None = None
    on_bytes: Callable[[int, int | None], None] | None = None
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Open]:
        """Times the block; a stage that raises is not reported as done."""
        if self.on_start:
            self.on_start(name)
        start, opened = time.perf_counter(), Open()
        yield opened
        finished = Stage(name, time.perf_counter() - start, opened.outcome, opened.skipped)
        self.done.append(finished)
        if self.on_stage:
            self.on_stage(finished)

    def note(self, text: str) -> None:
        """Passes on a remark for the user."""
        if self.on_note:
            self.on_note(text)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order, rounded to milliseconds."""
        return {s.name: round(s.seconds, 3) for s in self.done}
