"""Curves and bars as an image file, without a display; matplotlib is loaded when one is drawn."""

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


def plot_bars(path: Path, panels: Mapping[str, Mapping[str, float]], *, title: str) -> None:
    """Writes horizontal bars, one panel beside the other, the first bar on top.

    Args:
        path: of the image; its ending says the format.
        panels: by the label of the x axis (with unit), the bars by name.
        title: above all.

    Raises:
        UsageError: the file's name has another ending.
    """
    check_plot_path(path)
    from matplotlib.figure import Figure

    tallest = max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(6 * len(panels), 1.5 + 0.16 * tallest), layout="constrained")
    for axes, (label, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.barh(range(len(bars)), list(bars.values()), color="#3b6ea5")
        axes.set_yticks(range(len(bars)), list(bars), fontsize=6)
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=120)
    atomic_write(path, content.getvalue())
