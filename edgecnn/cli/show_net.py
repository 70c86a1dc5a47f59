"""How `edgecnn show` prints a net: its layers, its layer types, its totals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecnn.ir.complexity import Complexity
    from edgecnn.ir.receptive import Field
    from edgecnn.pipeline.describe import Description


def print_net(found: Description) -> None:
    """The whole description on stdout."""
    from edgecnn.cli.console import output

    for label in ("summary", "source", "target"):
        if label in found.facts:
            output().print(f"{label:<9}{found.facts[label]}", markup=False)
    _print_layers(found.complexity)
    _print_types(found.complexity)
    for line, times in Counter(found.facts.get("hetconv", ())).items():
        output().print(f"{times} x {line}", markup=False)
    _print_totals(found)


def _print_layers(complexity: Complexity) -> None:
    from rich.markup import escape

    from edgecnn.cli.console import grid, print_table

    table = grid(
        "layer",
        "type",
        "form",
        "output>",
        "params>",
        "BN>",
        "multiply-adds>",
        "share>",
        "moved kB>",
        "ops/B>",
        "field>",
    )
    macs = max(1, complexity.total("macs"))
    for layer in complexity.layers:
        table.add_row(
            escape(layer.module or layer.name),
            layer.type,
            layer.form,
            "x".join(map(str, layer.shape)),
            f"{layer.weights + layer.biases:,}" if layer.weights + layer.biases else "",
            f"{layer.batch_norm_params:,}" if layer.batch_norm_params else "",
            f"{layer.macs:,}" if layer.macs else "",
            f"{layer.macs / macs:.1%}" if layer.macs else "",
            f"{4 * layer.moved / 1e3:,.0f}",
            f"{layer.intensity / 4:.1f}" if layer.macs else "",
            _field(layer.field),
        )
    print_table(table)


def _field(field: Field) -> str:
    if field.whole:
        return "all"
    return "x".join(f"{n:g}" for n in dict.fromkeys(field.size))


def _print_types(complexity: Complexity) -> None:
    from edgecnn.cli.console import grid, output, print_table

    output().print("")
    table = grid("layer type", "layers>", "multiply-adds>", "share>", "weights>", "share>")
    for share in complexity.by_type():
        table.add_row(
            share.type,
            str(share.layers),
            f"{share.macs:,}" if share.macs else "",
            f"{share.macs_share:.2%}" if share.macs else "",
            f"{share.weights:,}" if share.weights else "",
            f"{share.weights_share:.2%}" if share.weights else "",
        )
    print_table(table)


def _print_totals(found: Description) -> None:
    from edgecnn.cli.console import output

    t = found.totals()
    executed: dict[int | None, list[str]] = {}
    for target, macs in found.executed.items():
        executed.setdefault(macs, []).append(target)
    lines = [
        ("parameters", f"{t['params']:,}, {t['params_without_batch_norm']:,} without batch norm"),
        ("", f"{found.facts.get('params_of_training_only', 0):,} more in training only"),
        ("multiply-adds", f"{t['macs']:,} in convolutions and linear layers; {t['operations']:,} operations"),
        *(
            ("", f"{'refused' if macs is None else f'{macs:,}'} executed in {', '.join(names)}")
            for macs, names in executed.items()
            if macs != t["macs"]
        ),
        ("activations", _both(t["activation_bytes"]) + "; at most at once " + _both(t["peak_activation_bytes"])),
        ("", f"the most at {t['peak_at']}: no op in place, batch norm and ReLU fused"),
        (
            "moved",
            _both(t["moved_bytes"]) + f"; {t['operations_per_byte']['float32']:.1f} operations per byte in float",
        ),
    ]
    output().print("")
    for label, text in lines:
        if "0 more in training" not in text:
            output().print(f"{label:<15}{text}", markup=False)
    output().print(
        f"{found.net}, input {'x'.join(map(str, found.input_shape))}: "
        f"{found.params:,} parameters, {found.macs:,} multiply-adds"
    )


def _both(sizes: dict[str, int]) -> str:
    return f"{sizes['float32'] / 1e6:.2f} MB in float, {sizes['int8'] / 1e6:.2f} MB in int8"
