"""A named collection that refuses duplicates and answers an unknown name with the nearest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edgecnn.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind; filled by decorators at import.

    Example:
        >>> scores: Registry[int] = Registry("score")
        >>> scores.add("l1", 1)
        >>> scores["l1"]
        1
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> None:
        """Adds `item` under `name`.

        Raises:
            ValueError: the name is taken; two things under one name are a bug in the code that registers.
        """
        if name in self._items:
            raise ValueError(f"{self.kind} `{name}` is registered twice")
        self._items[name] = item

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that adds the decorated object under `name` and returns it unchanged."""

        def decorate(item: T) -> T:
            self.add(name, item)
            return item

        return decorate

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise unknown(self.kind, name, self._items) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> list[tuple[str, T]]:
        """All names with their things, sorted by name."""
        return sorted(self._items.items())
