"""What a deformable convolution reads, for TFLite, which has no such operator: pixels gathered around each place.

`passes.deform_sampling` leaves only the reading; here it is positions, four gathers and their weighted sum, in float. A
border of zeros stands around the image and positions are clamped to it, so that whatever lies outside is zero. XNNPACK
takes all but CAST and GATHER, so the net falls into several partitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecnn.ir.graph import Array, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.passes.deform_sampling import only_reads
from edgecnn.targets.tflite_file import Tensor
from edgecnn.targets.tflite_lower import Constant, Lowering, NotLowered
from edgecnn.targets.tflite_schema import TENSOR_TYPES

MOST_PIXELS = 2**24
"""Indices are computed in float32, which holds no larger integers."""


def deform_conv(low: Lowering, op: Op) -> Tensor:
    """The pixels that the taps of a deformable convolution read: channel c * taps + t for channel c and tap t."""
    if not only_reads(low.graph, op):
        raise NotLowered("only what `deform_sampling` makes of it")
    name, weight, _, offset, *mask = op.inputs
    x, offsets = low.read(name), low.read(offset)
    batch, height, width, channels = x.shape
    if batch * (height + 2) * (width + 2) > MOST_PIXELS:
        raise NotLowered(f"its input has more than {MOST_PIXELS} pixels")
    taps = int(np.prod(low.graph.shape(weight)[2:]))
    groups = offsets.shape[3] // (2 * taps)
    parts = []
    for g in range(groups):
        image = _channels(low, x, g, groups)
        reader = _Reader(low, op, image, taps)
        read = reader.pixels(_channels(low, offsets, g, groups))
        if mask:
            share = low.reshape(_channels(low, low.read(mask[0]), g, groups), (reader.places, 1))
            read = reader.step("MUL", read, share)
        grouped = low.reshape(read, (batch, reader.places // batch // taps, taps, channels // groups))
        moved = low.transpose(grouped, (0, 1, 3, 2))
        parts.append(low.reshape(moved, (*offsets.shape[:3], taps * channels // groups)))
    return low.concat(parts, 3, low.output()) if groups > 1 else low.reshape(parts[0], parts[0].shape, low.output())


def _channels(low: Lowering, x: Tensor, part: int, parts: int) -> Tensor:
    """One of `parts` equal parts of the channels."""
    size = x.shape[3] // parts
    if parts == 1:
        return x
    return low.slice(x, 3, part * size, low.like(x, (*x.shape[:3], size), "part"))


@dataclass
class _Reader:
    """Reads an NHWC image at one place for each image of the batch, output pixel and tap, in this order."""

    low: Lowering
    op: Op
    image: Tensor
    taps: int

    def __post_init__(self) -> None:
        batch, rows, columns, _ = self.low.shape(self.op.output)
        self.places = batch * rows * columns * self.taps

    def step(self, code: str, *inputs: Tensor) -> Tensor:
        """An operator on places: [places, columns] of the widest input."""
        fused = {"fused_activation_function": 0} if code in ("ADD", "MUL", "SUB") else {}
        shape = (self.places, max(i.shape[-1] for i in inputs))
        return self.low.emit(code, inputs, self.low.like(inputs[0], shape, code.lower()), **fused)

    def number(self, value: float) -> Tensor:
        """A constant."""
        return self.low.scalar(value, "number")

    def pixels(self, offsets: Tensor) -> Tensor:
        """[places, channels]: what is read at the offsets [N, H', W', 2 * taps]."""
        low = self.low
        batch, height, width, channels = self.image.shape
        moved = low.reshape(offsets, (self.places, 2))
        (top, down), (left, right) = (self._position(moved, axis, size) for axis, size in enumerate((height, width)))
        row = width + 2
        first = self.step("ADD", self.step("MUL", top, self.number(row)), left)
        if batch > 1:
            starts = np.repeat(np.arange(batch) * row * (height + 2), self.places // batch)
            first = self.step("ADD", first, self._column(starts))
        padded = low.pad_zeros(self.image, [(0, 0), (1, 1), (1, 1), (0, 0)])
        flat = low.reshape(padded, (batch * row * (height + 2), channels))
        up, back = (self.step("SUB", self.number(1.0), share) for share in (down, right))
        corners = ((0, up, back), (1, up, right), (row, down, back), (row + 1, down, right))
        read = [self._corner(flat, first, *corner) for corner in corners]
        return self.step("ADD", self.step("ADD", read[0], read[1]), self.step("ADD", read[2], read[3]))

    def _position(self, moved: Tensor, axis: int, size: int) -> tuple[Tensor, Tensor]:
        """The pixel before each place along one axis of the padded image, and how far behind it the place lies."""
        offset = self.low.slice(moved, 1, axis, self.low.like(moved, (self.places, 1), "offset"))
        place = self.step("ADD", offset, self._column(self._regular(axis)))
        place = self.step("MINIMUM", self.step("MAXIMUM", place, self.number(0.0)), self.number(size + 1.0))
        before = self.step("MINIMUM", self.step("FLOOR", place), self.number(float(size)))
        return before, self.step("SUB", place, before)

    def _regular(self, axis: int) -> Array:
        """Where each place lies along one axis of the padded image without offset."""
        a, kernel = attrs_of(self.op), self.low.graph.shape(self.op.inputs[1])[2:]
        batch, *sizes, _ = self.low.shape(self.op.output)
        at = np.indices((batch, *sizes, *kernel))
        in_image: Array = at[1 + axis] * a["stride"][axis] + at[3 + axis] * a["dilation"][axis] - a["pad"][2 * axis]
        return in_image.ravel() + 1

    def _column(self, numbers: Array) -> Tensor:
        return self.low.store(Constant(numbers.astype(np.float32)[:, None], None), "places")

    def _corner(self, flat: Tensor, first: Tensor, step: int, down: Tensor, right: Tensor) -> Tensor:
        """One of the four pixels around each place, times its share."""
        low = self.low
        index = self.step("ADD", first, self.number(step)) if step else first
        whole = Tensor(low.unique(f"{self.op.output}/index"), (self.places,), "int32")
        types = {"in_data_type": TENSOR_TYPES["float32"], "out_data_type": TENSOR_TYPES["int32"]}
        low.emit("CAST", [low.reshape(index, (self.places,))], whole, **types)
        pixels = low.like(flat, (self.places, flat.shape[1]), "pixels")
        low.emit("GATHER", [flat, whole], pixels, axis=0, batch_dims=0)
        return self.step("MUL", pixels, self.step("MUL", down, right))
