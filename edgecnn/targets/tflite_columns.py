"""Neighbouring columns read as channels: the same convolution in a shape that the int8 kernels of a core like better.

An NHWC map of W columns and C channels is, without moving a number, one of W / f columns and f * C channels. A
convolution of stride s over it gives f / s neighbouring outputs at once, as channels: output column f / s * g + j
reads input column f * g + s * j + kx - left, which is column c mod f of group g + c // f with c = s * j + kx - left.
The kernel holds the weights at those places and zeros elsewhere, so every sum of products is the same integer.

It pays where few channels leave the matrix units idle: on AMX, time goes by tiles of 64 input and 64 output channels,
however few there are (LiteRT 2.3, x86 with AMX, 1 thread, best of 300). A 3x3 stem of 16 channels at 224x224 takes
835 us as it is, 431 over 2 columns, 213 over 4, 160 over 8; a 1x1 of 16 to 16 channels at 56x56 takes 58 us, over 4
columns 17.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.ir.graph import Array, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Constant, Lowering

if TYPE_CHECKING:
    from edgecnn.targets.tflite_conv import Window

TILE = 64
"""Input and output channels of one AMX tile product."""

DEPTH_COST = 0.3
"""What one tile of depth costs against the fixed cost of a tile of outputs; fitted to 26 shapes, like COPY_COST."""

COPY_COST = 0.003
"""What it costs to move a byte, in the same unit."""

WORTH = 0.9
"""A grouping must come to at most this share of the cost without."""

MOST = 16
"""Columns at most: the kernel grows with their square."""


@dataclass(frozen=True)
class Grouping:
    """How `columns` columns become channels for a kernel of `width` columns, a stride and a padding on the left."""

    columns: int
    stride: int
    left: int
    width: int

    @property
    def outputs(self) -> int:
        """How many output columns one group gives."""
        return self.columns // self.stride

    @property
    def first(self) -> int:
        """The first group that the kernel reads, relative to its own."""
        return -self.left // self.columns

    @property
    def taps(self) -> int:
        """How many groups the kernel reads."""
        last = self.stride * (self.outputs - 1) + self.width - 1 - self.left
        return last // self.columns - self.first + 1

    def kernel(self, w_oihw: Array) -> Array:
        """The kernel over groups, OHWI: (outputs * O, rows, taps, columns * I)."""
        outputs, channels, rows, _ = w_oihw.shape
        kernel = np.zeros((self.outputs, outputs, rows, self.taps, self.columns, channels), w_oihw.dtype)
        for j in range(self.outputs):
            for kx in range(self.width):
                group, column = divmod(self.stride * j + kx - self.left, self.columns)
                kernel[j, :, :, group - self.first, column] = w_oihw[:, :, :, kx].transpose(0, 2, 1)
        return kernel.reshape(self.outputs * outputs, rows, self.taps, self.columns * channels)


def repeated(constant: Constant, times: int, *, data: bool = True) -> Constant:
    """A per-channel constant for `times` outputs as channels: its parameters, and its data if `data`, repeated."""
    q = constant.q
    if q is not None and q.axis is not None:
        q = replace(q, scale=np.tile(q.scale, times), zero_point=np.tile(q.zero_point, times))
    return Constant(np.tile(constant.data, times) if data else constant.data, q)


def columns_together(low: Lowering, op: Op, x: Tensor, weight: Constant, window: Window) -> int:
    """How many columns the int8 convolution `op` shall read as channels on the core it is for; 1 for none.

    On cores without AMX only the first layer gains: pairs of pixels are faster on x86, and need 0.1 to 11 % fewer
    instructions on A72, A76 and i8mm cores. A53 has kernels of its own: a 3x3 layer over pairs needs 0.3 to 1 % more
    there, ResNet-18's 7x7 one 0.3 % less. In float pairs only lose.
    """
    a = attrs_of(op)
    if x.dtype != "int8" or a["groups"] > 1 or window.dilation != (1, 1):
        return 1
    stem = low.settings.get("stem", "auto") if x.shape[3] == 3 and window.stride == (2, 2) else None
    if stem == "plain":
        return 1
    if low.options.cpu == "armv8-a53" and stem != "pair" and weight.data.shape[3] <= 3:
        return 1
    if low.options.cpu != "x86-amx" or stem == "pair" or low.settings.get("columns") == "off":
        return 2 if stem is not None and x.shape[2] % 2 == 0 else 1
    return _cheapest(x.shape, low.shape(op.output), weight.data.shape, window)


def _cheapest(x: tuple[int, ...], y: tuple[int, ...], w_oihw: tuple[int, ...], window: Window) -> int:
    plain = best = _cost(x, y, w_oihw, window, 1)
    chosen = 1
    columns = 2
    while columns <= MOST and x[2] % columns == 0:
        # Several outputs in one group stand side by side only if the groups' outputs fill the map.
        several = columns > window.stride[1]
        if columns % window.stride[1] == 0 and (not several or y[2] * window.stride[1] == x[2]):
            cost = _cost(x, y, w_oihw, window, columns)
            if cost < best and cost <= WORTH * plain:
                best, chosen = cost, columns
        columns *= 2
    return chosen


def _cost(x: tuple[int, ...], y: tuple[int, ...], w_oihw: tuple[int, ...], window: Window, columns: int) -> float:
    """The cost of the convolution with `columns` columns as channels, in tiles of output."""
    outputs, channels, rows, width = w_oihw
    if columns == 1:
        positions, out_channels, depth, copies = y[1] * y[2], outputs, width * -(-channels // TILE), 0
    else:
        grouping = Grouping(columns, window.stride[1], window.pad[2], width)
        positions, out_channels = y[1] * y[2] // grouping.outputs, grouping.outputs * outputs
        depth = grouping.taps * -(-columns * channels // TILE)
        # The input's reshape is a view where the image itself is read; outputs are moved if they are several.
        copies = int(np.prod(x[1:])) + (int(np.prod(y[1:])) if grouping.outputs > 1 else 0)
    return positions * -(-out_channels // TILE) * (1 + DEPTH_COST * rows * depth) + COPY_COST * copies
