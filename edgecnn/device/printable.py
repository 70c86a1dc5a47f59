"""Text from a device, made harmless for the terminal that will show it."""

from __future__ import annotations

from typing import Any


def printable(value: Any) -> Any:
    """`value` with every control character in its texts replaced, keys included."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value)
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value
