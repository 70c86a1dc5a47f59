"""Building blocks by name: what each computes, where it comes from, and what it costs as a formula.

A cost is written once, as text in symbols: the page prints it and `evaluate` computes with it, so they cannot differ.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from torch import nn

from edgecnn.errors import UsageError
from edgecnn.nets.options import NetOption, coerce_options, options_of
from edgecnn.nets.registry import seeded
from edgecnn.registry import Registry

EXAMPLE_INPUT = (64, 28, 28)
"""(C, H, W) that a block is shown at unless another is asked for."""

SYMBOL_OF_OPTION = {
    "channels": "M",
    "out_channels": "N",
    "kernel": "k",
    "stride": "s",
    "dilation": "d",
    "groups": "G",
    "offset_groups": "g",
    "p": "P",
    "primary": "L",
    "reduction": "r",
    "expansion": "t",
    "squeezed": "S",
    "expanded": "E",
}
"""The symbol that formulas have for a block's option. Beside them: H and W of the input, N, h and w of the output."""

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda base, power: base ** int(power),
}

B = TypeVar("B", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class BlockEntry:
    """One building block.

    Args:
        name: as the command line writes it.
        build: makes the block from keyword options; use `build_block`, which checks them.
        source: paper and section, or implementation.
        computes: the output as a formula, a line each.
        params: formula of the parameters without those of batch norm.
        macs: formula of the multiply-adds of convolutions and linear layers for one image, as they execute.
        norm_params: formula of the parameters of batch norm.
        identities: label and formula of what else the source says of the block.
        remarks: sentences.
        summary: one line.
        options: what the builder accepts.
    """

    name: str
    build: Callable[..., nn.Module]
    source: str
    computes: tuple[str, ...]
    params: str
    macs: str
    norm_params: str
    identities: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    summary: str
    options: tuple[NetOption, ...]

    def typed(self, options: Mapping[str, object]) -> dict[str, object]:
        """Every option of the block with its value: that given, or the default.

        Raises:
            UsageError: an unknown option or an illegal value.
        """
        given = coerce_options(self.options, options, where=f"block {self.name}")
        return {o.name: given.get(o.name, o.default) for o in self.options}

    def symbols(
        self, options: Mapping[str, object], input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> dict[str, Fraction]:
        """The value of every symbol that the block's formulas may have; shapes are (C, H, W)."""
        own = {SYMBOL_OF_OPTION[k]: v for k, v in self.typed(options).items() if k in SYMBOL_OF_OPTION}
        sizes = {"H": input_shape[1], "W": input_shape[2], "h": output_shape[1], "w": output_shape[2]}
        return {k: Fraction(str(v)) for k, v in (own | {"N": output_shape[0]} | sizes).items()}


BLOCKS: Registry[BlockEntry] = Registry("block")


def block(
    name: str,
    *,
    source: str,
    computes: tuple[str, ...],
    params: str = "0",
    macs: str = "0",
    norm_params: str = "0",
    identities: tuple[tuple[str, str], ...] = (),
    remarks: tuple[str, ...] = (),
) -> Callable[[B], B]:
    """A decorator that registers a builder under `name`; see `BlockEntry` for the arguments.

    The options are read from the builder's signature, the summary is the first line of its docstring. The option
    `channels` is the number of channels of the input.
    """

    def register(build: B) -> B:
        summary = (build.__doc__ or "").strip().split("\n")[0]
        costs = (params, macs, norm_params, identities)
        BLOCKS.add(name, BlockEntry(name, build, source, computes, *costs, remarks, summary, options_of(build)))
        return build

    return register


def build_block(name: str, *, seed: int | None = None, **options: object) -> nn.Module:
    """The block called `name` with fresh weights, in eval mode.

    Args:
        name: a name in `BLOCKS`.
        seed: makes the initial weights repeatable; None draws them from torch's global generator.
        **options: the block's own; strings are read as the command line writes them.

    Raises:
        UsageError: unknown block or option, an illegal value, or values that do not fit together.

    Example:
        >>> sum(p.numel() for p in build_block("grouped_conv", channels=32, groups="8").parameters())
        2304
    """
    entry = BLOCKS[name]
    typed = entry.typed(options)
    try:
        with seeded(seed):
            return entry.build(**typed).eval()
    except ValueError as error:
        raise UsageError(
            "these options do not fit together",
            where=f"block {name}",
            expected=str(error),
            got=", ".join(f"{k}={v}" for k, v in typed.items()),
        ) from error


def evaluate(formula: str, symbols: Mapping[str, Fraction]) -> Fraction:
    """The exact value of a formula of numbers, symbols, `+ - * /`, parentheses and powers (`^`, which bind tightest).

    Example:
        >>> evaluate("1/N + 1/k^2", {"N": Fraction(64), "k": Fraction(3)})
        Fraction(73, 576)
    """
    # Python's own power operator has the precedence that `^` is meant to have.
    return _value(ast.parse(formula.replace("^", "**"), mode="eval").body, symbols)


def _value(node: ast.expr, symbols: Mapping[str, Fraction]) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.Name):
        return symbols[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, symbols), _value(node.right, symbols))
    raise ValueError(f"a formula cannot have {ast.unparse(node)}")
