"""The `--set` choices of a target: legal values with the default first, their meaning, and the check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgecnn.errors import unknown


@dataclass(frozen=True)
class Settings:
    """Named choices; `values` has the legal ones, the default first, `meaning` says what they are about."""

    values: Mapping[str, tuple[str, ...]]
    meaning: Mapping[str, str]

    def chosen(self, given: Mapping[str, str], name: str) -> str:
        """The value of a setting, its default if it is not given.

        Raises:
            UsageError: the value is not legal.
        """
        legal = self.values[name]
        value = given.get(name, legal[0])
        if value not in legal:
            raise unknown(f"value of the setting {name}", value, legal)
        return value

    def check(self, given: Mapping[str, str]) -> None:
        """Raises a UsageError if any given value is not legal, also one that only emitting needs."""
        for name in self.values:
            self.chosen(given, name)

    def described(self, names: Iterable[str]) -> dict[str, str]:
        """For `Target.settings`: what each of `names` means, its values and its default."""
        return {
            name: f"{self.meaning[name]} ({' | '.join(self.values[name])}; default {self.values[name][0]})"
            for name in names
        }
