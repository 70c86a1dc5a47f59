"""The page of a building block, printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecnn.pipeline.block_page import BlockPage, Cost


def print_block(page: BlockPage) -> None:
    """The page on stdout: what the block computes, what it costs, its ops, and where it runs."""
    from rich.markup import escape

    from edgecnn.cli.console import grid, output, print_table

    console, entry = output(), page.entry

    def field(label: str, text: str) -> None:
        console.print(f"{label:<10}{text}", markup=False)

    field(entry.name, ("" if len(entry.name) < 10 else "  ") + entry.summary)
    field("source", entry.source)
    for number, line in enumerate(entry.computes):
        field("" if number else "computes", line)
    field("options", options(page))
    field("example", f"{size(page.input_shape)} (M x H x W) to {size(page.output_shape)} (N x h x w)")
    table = grid("", "formula", "value>", "of the standard convolution>")
    table.add_row("parameters", escape(page.params.formula), f"{page.params.value:,}", share(page.params))
    if page.norm_params.value:
        table.add_row("parameters of batch norm", page.norm_params.formula, f"{page.norm_params.value:,}", "")
    table.add_row("multiply-adds", escape(page.macs.formula), f"{page.macs.value:,}", share(page.macs))
    for label, formula, value in page.identities:
        table.add_row(
            label, escape(formula), f"{int(value):,}" if value.denominator == 1 else f"{float(value):.4g}", ""
        )
    console.print()
    print_table(table)
    for remark in entry.remarks:
        console.print(remark, markup=False)
    table = grid("op", "output>", "multiply-adds>")
    for kind, shape, macs in page.ops:
        table.add_row(kind, size(shape), f"{macs:,}" if macs else "")
    console.print()
    print_table(table)
    table = grid("target", "runs in", "multiply-adds executed>", "of them fast>", "operators>")
    for place in page.places:
        fast = "" if place.macs_share is None else f"{100 * place.macs_share:.1f} %"
        executed = f"{place.macs:,}" if place.macs else ""
        table.add_row(place.target, place.where, executed, fast, f"{place.operators}" if place.operators else "")
    console.print()
    print_table(table)
    for place in page.places:
        for reason in place.reasons:
            console.print(f"{place.target:<12} {reason}", markup=False)


def size(shape: tuple[int, ...]) -> str:
    """`64x28x28`."""
    return "x".join(map(str, shape))


def share(cost: Cost) -> str:
    """A cost's share of the standard convolution's, in four digits."""
    return "" if cost.share is None else f"{cost.share:.4g}"


def options(page: BlockPage) -> str:
    """The options with the symbols that they have in formulas: `kernel=3 (k)`."""
    from edgecnn.nets.block_registry import SYMBOL_OF_OPTION as SYMBOLS

    return ", ".join(f"{k}={v}" + (f" ({SYMBOLS[k]})" if k in SYMBOLS else "") for k, v in page.options.items())
