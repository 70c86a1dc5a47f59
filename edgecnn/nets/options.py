"""The options of a net, read from its builder's signature, and their values checked before anything is built.

A builder says all there is to say about an option in its signature: the type, the default, and in `Annotated` what the
option does and how small it may be. So a family writes an option once, and `list`, `show`, recipes and
`--net-option width=0.5` follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from edgecnn.errors import UsageError, unknown

TRUE_WORDS = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True)
class About:
    """What stands beside an option's type in `Annotated`: its meaning and the numbers that are legal."""

    doc: str
    at_least: float | None = None
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class NetOption:
    """One option of a net.

    Args:
        name: as written in `--net-option name=value`.
        type: int, float, bool or str.
        default: the published net's value.
        doc: what it changes.
        choices: the only legal values; empty if any value of `type` is legal.
        at_least: smallest legal number.
        above: the number must be greater.
        below: the number must be smaller.
    """

    name: str
    type: type[int] | type[float] | type[bool] | type[str]
    default: object
    doc: str = ""
    choices: tuple[object, ...] = ()
    at_least: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def legal(self) -> str:
        """The legal values in words, for messages and tables."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[self.type]
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.at_least), ("above", self.above), ("below", self.below))
            if bound is not None
        ]
        return " ".join([words, " and ".join(bounds)]).strip()

    def coerce(self, value: object, *, where: str) -> object:
        """`value` as this option's type; a string is read as the command line writes it.

        Raises:
            UsageError: the value is not legal; `where` says whose option it is.
        """
        try:
            typed = _read(value, self.type)
        except ValueError:
            raise self._refuse(value, where) from None
        if isinstance(typed, str):
            typed = next((c for c in self.choices if str(c).lower() == typed.lower()), typed)
        if self.choices and typed not in self.choices:
            raise self._refuse(value, where)
        if isinstance(typed, (int, float)):
            too_small = self.at_least is not None and typed < self.at_least
            not_above = self.above is not None and typed <= self.above
            not_below = self.below is not None and typed >= self.below
            if too_small or not_above or not_below:
                raise self._refuse(value, where)
        return typed

    def _refuse(self, value: object, where: str) -> UsageError:
        return UsageError(
            f"option `{self.name}` cannot be `{value}`", where=where, expected=self.legal, got=f"{value!r}"
        )


def _read(value: object, kind: type) -> object:
    """`value` as `kind`, without silent loss: 2.5 is no int, and True is no number."""
    if isinstance(value, str):
        text = value.strip()
        if kind is bool:
            if text.lower() not in TRUE_WORDS | FALSE_WORDS:
                raise ValueError(text)
            return text.lower() in TRUE_WORDS
        value = text if kind is str else float(text) if kind is float else int(text)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not isfinite(value)):
        raise ValueError(value)
    return value


def options_of(build: Callable[..., object]) -> tuple[NetOption, ...]:
    """The keyword options of `build`, in the order of its signature.

    Raises:
        TypeError: a parameter's type is none of int, float, bool, str and `Literal`; a bug in the family's file.
    """
    hints = get_type_hints(build, include_extras=True)
    return tuple(_option(p, hints[p.name]) for p in inspect.signature(build).parameters.values())


def _option(parameter: inspect.Parameter, hint: Any) -> NetOption:
    about = About("")
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        about = next((e for e in extras if isinstance(e, About)), about)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    kind = type(choices[0]) if choices else hint
    if kind not in (int, float, bool, str) or parameter.default is parameter.empty:
        raise TypeError(f"option `{parameter.name}` needs a simple type and a default, not {parameter}")
    return NetOption(
        parameter.name,
        kind,
        parameter.default,
        about.doc,
        choices,
        about.at_least,
        about.above,
        about.below,
    )


def coerce_options(options: tuple[NetOption, ...], given: Mapping[str, object], *, where: str) -> dict[str, object]:
    """`given` with every value as its option's type; options that are not given are left out.

    Names and words may be in capitals: `P=4`.

    Raises:
        UsageError: an unknown option (the nearest are named), one that is given twice, or a value that is not legal.
    """
    known = {o.name: o for o in options}
    typed: dict[str, object] = {}
    for text, value in given.items():
        name = text.lower()
        if name not in known:
            raise unknown("option", text, known, where=where)
        if name in typed:
            raise UsageError(f"option `{name}` is given twice", where=where)
        typed[name] = known[name].coerce(value, where=where)
    return typed


Stem = Literal["imagenet", "small"]
NumClasses = Annotated[int, About("outputs of the last layer", at_least=1)]
Width = Annotated[float, About("multiplier on the number of channels", above=0.0)]
Dropout = Annotated[float, About("probability of dropping an input of the classifier in training", at_least=0, below=1)]
