"""Curves as an image file, without a display; matplotlib is loaded when one is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecnn.artifact import atomic_write
from edgecnn.errors import UsageError

FORMATS = (".png", ".svg", ".pdf")
PER_COLUMN = 24
"""Names in a column of the legend."""


def check_plot_path(path: Path) -> None:
    """Refuses a file whose name says no format that can be drawn.

    Raises:
        UsageError: it does not.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"no plot can be written to `{path}`", expected="a file that ends in " + " or ".join(FORMATS))


def plot_curves(
    path: Path,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    level: float | None = None,
) -> None:
    """Writes one curve per name, in the order of a colour scale, so that early and late ones can be told apart.

    Args:
        path: of the image; its ending says the format.
        x: of all curves.
        curves: y by name.
        title: above all.
        x_label: with unit.
        y_label: with unit.
        level: where a dashed line says what it was before.

    Raises:
        UsageError: the file's name has another ending.
    """
    check_plot_path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = -(-len(curves) // PER_COLUMN)
    figure = Figure(figsize=(7 + 2.2 * columns, 5), layout="constrained")
    axes = figure.add_subplot()
    scale = mpl.colormaps["viridis"]
    for at, (name, y) in enumerate(curves.items()):
        axes.plot(x, y, marker=".", label=name, color=scale(at / max(1, len(curves) - 1) * 0.92))
    if level is not None:
        axes.axhline(level, linestyle="--", color="0.5", linewidth=1)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7, ncols=columns, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    atomic_write(path, content.getvalue())
