"""Whether the calibration images are enough, and look to the net like those it was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from edgecnn.ir import reference
from edgecnn.ir.graph import Array, Graph, Op

FEW = 64
"""A smallest and largest number of fewer images says little: the next image exceeds one of n seen with odds 1 to n."""

SHIFT = 0.5
"""Standard deviations by which channels may be off on the mean. A channel's mean over an image varies by less than one
between images, hence over 64 images by an eighth; pixels in 0...1 instead of normalised ones are off by about two."""

SPREAD = 2.0
"""The factor by which standard deviations may be off, median over channels; pixels in 0...1 are off by four, in
0...255 by sixty. Augmentation in training makes a few percent."""


def findings(graph: Graph, batches: Iterable[Array]) -> tuple[dict[str, float | str], list[str]]:
    """The statistics of calibration images against those of training, and what is wrong with them.

    Those of training are the running statistics of the first batch norm. A net without is compared with a mean of 0 and
    a standard deviation of 1 of its input, which is what normalisation makes.

    Args:
        graph: the float graph as imported: batch norm is not folded.
        batches: float32 (N, C, H, W), as the net takes them.
    """
    norm = next((op for op in graph.ops if op.kind == "batch_norm"), None)
    watched = graph.inputs[0] if norm is None else norm.inputs[0]
    moments = _Moments()
    count = 0
    for x in batches:
        count += len(x)
        if norm is None:
            moments.add(torch.from_numpy(x))
        else:
            _until(graph, x, watched, moments)
    where, mean, std = _trained(graph, norm)
    shift = float(np.sqrt(np.mean(((moments.mean - mean) / std) ** 2)))
    spread = float(np.median(moments.std / std))
    said = []
    if count < FEW:
        said.append(f"only {count} calibration images; from {FEW} on ranges are worth something, 256 and more are good")
    if shift > SHIFT or not 1 / SPREAD < spread < SPREAD:
        said.append(
            f"the calibration images do not look like those of training: {where} is {shift:.2f} standard deviations "
            f"off and {spread:.2f} times as wide; check the normalisation (mean and std) and which images they are"
        )
    return {"images": count, "compared_with": where, "shift_std": round(shift, 4), "spread": round(spread, 4)}, said


def _trained(graph: Graph, norm: Op | None) -> tuple[str, Array | float, Array | float]:
    """Where the statistics of training come from, the mean and the standard deviation of each channel."""
    if norm is None:
        return "the normalised input", 0.0, 1.0
    mean, var = (graph.const(name).astype(np.float64) for name in norm.inputs[3:5])
    return f"the input of `{norm.name}`", mean, np.sqrt(var + float(norm.attrs.get("eps", 1e-5)))


class _Moments:
    """Mean and standard deviation of each channel while images come in, float64."""

    def __init__(self) -> None:
        self.numbers = 0
        self.first: Array = np.zeros(1)
        self.second: Array = np.zeros(1)

    def add(self, y: torch.Tensor) -> None:
        over = (0, *range(2, y.ndim))
        self.numbers += y.numel() // y.shape[1]
        self.first = self.first + y.double().sum(over).numpy()
        self.second = self.second + y.double().square().sum(over).numpy()

    @property
    def mean(self) -> Array:
        return self.first / self.numbers

    @property
    def std(self) -> Array:
        found: Array = np.sqrt(np.maximum(self.second / self.numbers - self.mean**2, 0))
        return found


def _until(graph: Graph, x: Array, name: str, moments: _Moments) -> None:
    """Adds the activation `name` of the batch; what comes behind it is not computed."""
    at = next(i for i, op in enumerate(graph.ops) if op.output == name) if name in graph.makers else -1
    head = Graph.build(graph.name, graph.ops[: at + 1], graph.values.values(), graph.inputs, (name,))
    moments.add(torch.from_numpy(reference.run(head, x)[0]))
