"""The TFLite file under construction: tensors in NHWC, operators in order, and the few moves that lowerings share.

Layout: an activation of rank 4 is NCHW in the graph and NHWC in the file; every other rank keeps its order.

Numbers: an op runs in int8 if all its values are coded, and in float otherwise. An op that LiteRT runs badly in int8 is
lowered as a *float island* in the middle of an int8 net: DEQUANTIZE, the float operator, QUANTIZE. XNNPACK collapses a
chain of unary ops with 8-bit ends into one 256-entry table, so for them the island is the fast form, not a fallback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecnn.ir.graph import BATCH, Array, Graph, Note, Op, QParams
from edgecnn.targets.target import EmitOptions
from edgecnn.targets.tflite_file import Operator, Tensor
from edgecnn.targets.tflite_schema import ACTIVATIONS, BUILTINS

Shape = tuple[int, ...]
Pad = tuple[int, int, int, int]
"""Rows and columns of padding: top, bottom, left, right."""

NHWC_OF_NCHW = (0, 2, 3, 1)
"""Axis i of an NHWC tensor is axis NHWC_OF_NCHW[i] of the NCHW one."""
NCHW_OF_NHWC = (0, 3, 1, 2)
"""Axis i of an NCHW tensor is axis NCHW_OF_NHWC[i] of the NHWC one: where an `axis` attribute goes."""

MAX_CONCAT_INPUTS = 4
"""XNNPACK takes no more inputs per CONCATENATION (older releases; 5 on newer ones)."""

_FUSED = {(None, None): "NONE", (0.0, None): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


@dataclass(frozen=True)
class Constant:
    """A constant of the graph, ready to be laid out: what is stored, and how it is coded (None: float)."""

    data: Array
    q: QParams | None

    @property
    def dtype(self) -> str:
        """The element type in the file."""
        return self.q.dtype if self.q else "float32"

    def laid_out(self, perm: Sequence[int]) -> Constant:
        """The constant with its axes in the order `perm`."""
        axis = None if self.q is None or self.q.axis is None else tuple(perm).index(self.q.axis)
        return Constant(self.data.transpose(perm), replace(self.q, axis=axis) if self.q else None)


class NotLowered(Exception):
    """A rule cannot lower an op; the text says why."""


def same_codes(a: QParams, b: QParams) -> bool:
    """Whether two per-tensor parameters give every code the same meaning."""
    return bool(a.dtype == b.dtype and a.scale == b.scale and a.zero_point == b.zero_point)


class Lowering:
    """Collects the operators of a file; each lowering reads tensors by the graph's names and returns its output."""

    def __init__(self, graph: Graph, options: EmitOptions) -> None:
        self.graph, self.options = graph, options
        self.operators: list[Operator] = []
        self.notes: list[Note] = []
        self.integer = False
        self.op = Op("", (), "")
        self.absorbed: frozenset[str] = frozenset()  # ops that the convolution behind them takes over
        self._tensors: dict[str, Tensor] = {}
        self._made: dict[Tensor, Operator] = {}
        self._constants: dict[tuple[str, Shape, bytes], Tensor] = {}
        self._names: dict[str, int] = {}

    # ------------------------------------------------------------------ the graph, as the file sees it

    def begin(self, op: Op, *, as_float: bool = False) -> None:
        """Makes `op` current; in float if asked for, or if one of its values is not coded."""
        names = (*op.inputs, op.output)
        self.op = op
        self.integer = not as_float and all(self.graph.value(n).q is not None for n in names)

    def shape(self, name: str) -> Shape:
        """The shape of an activation in the file: batch filled in, NHWC if it has rank 4."""
        shape = tuple(self.options.batch if d == BATCH else d for d in self.graph.shape(name))
        return tuple(shape[i] for i in NHWC_OF_NCHW) if len(shape) == 4 else shape

    def read(self, name: str) -> Tensor:
        """The tensor of an activation, dequantised if the current op runs in float."""
        tensor = self._tensors[name]
        return tensor if self.integer else self.dequantize(tensor)

    def bind(self, name: str, tensor: Tensor) -> None:
        """Says which tensor holds an activation; quantises it if the graph wants codes and the op made floats."""
        q = self.graph.value(name).q
        if q is not None:
            tensor = self.quantize(tensor, name, q) if tensor.q is None else self.recode(tensor, q)
        self._tensors[name] = tensor

    def constant(self, name: str) -> Constant:
        """A constant: codes if the current op runs in int8, else floats."""
        value = self.graph.value(name)
        if self.integer and value.q is not None:
            return Constant(value.codes, value.q)
        return Constant(self.graph.const(name), None)

    def weight(self, name: str) -> Constant:
        """The weight of a layer: codes if it has parameters, also under an activation that is float."""
        value = self.graph.value(name)
        return self.constant(name) if value.q is None else Constant(value.codes, value.q)

    # ------------------------------------------------------------------ tensors

    def output(self, shape: Shape | None = None) -> Tensor:
        """A new tensor for the output of the current op, in the shape that the graph says unless another is given."""
        name, q = self.op.output, self.graph.value(self.op.output).q
        shape = shape or self.shape(name)
        if q is not None and not self.integer:
            return Tensor(self.unique(f"{name}/real"), shape, "float32")
        return Tensor(self.unique(name), shape, q.dtype if q else "float32", q)

    def like(self, tensor: Tensor, shape: Shape, stem: str) -> Tensor:
        """A new intermediate tensor of the current op with the type and the codes of `tensor`."""
        return Tensor(self.unique(f"{self.op.output}/{stem}"), shape, tensor.dtype, tensor.q)

    def store(self, constant: Constant, stem: str) -> Tensor:
        """A tensor that holds `constant`."""
        data = np.ascontiguousarray(constant.data)
        return Tensor(self.unique(f"{self.op.output}/{stem}"), data.shape, constant.dtype, constant.q, data)

    def integers(self, numbers: Any, stem: str) -> Tensor:
        """An int32 constant (shapes, axes, paddings), shared between equal ones."""
        data = np.asarray(numbers, np.int32)
        key = (stem, data.shape, data.tobytes())
        if key not in self._constants:
            self._constants[key] = Tensor(self.unique(stem), data.shape, "int32", None, data)
        return self._constants[key]

    def scalar(self, number: float, stem: str) -> Tensor:
        """A float constant with one element."""
        return self.store(Constant(np.asarray([number], np.float32), None), stem)

    def unique(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, ... if it is taken."""
        seen = self._names.get(name, 0)
        self._names[name] = seen + 1
        return f"{name}_{seen + 1}" if seen else name

    # ------------------------------------------------------------------ operators

    def emit(
        self, code: str, inputs: Sequence[Tensor], output: Tensor, *, version: int | None = None, **options: Any
    ) -> Tensor:
        """Adds an operator and returns its output; the version is the lowest that knows the tensors' type."""
        if version is None:
            types, builtin = {t.dtype for t in (*inputs, output)}, BUILTINS[code]
            version = builtin.version_int8 if types & {"int8", "uint8"} else builtin.version_f32
            if "int16" in types:
                version = builtin.version_int16
                if code in ("ADD", "SUB"):
                    options["pot_scale_int16"] = False  # scales need not be powers of two
        operator = Operator(code, tuple(inputs), output, version, options)
        self.operators.append(operator)
        self._made[output] = operator
        return output

    def dequantize(self, tensor: Tensor) -> Tensor:
        """`tensor` in float."""
        if tensor.q is None:
            return tensor
        real = Tensor(self.unique(f"{tensor.name}/real"), tensor.shape, "float32")
        return self.emit("DEQUANTIZE", [tensor], real)

    def quantize(self, tensor: Tensor, name: str, q: QParams) -> Tensor:
        """The codes of a float tensor, in a tensor called `name`."""
        codes = Tensor(self.unique(name), tensor.shape, q.dtype, q)
        return self.emit("QUANTIZE", [tensor], codes, version=2 if q.dtype == "int16" else 1)

    def recode(self, tensor: Tensor, q: QParams | None) -> Tensor:
        """The same numbers coded by `q`: through float, which XNNPACK turns into a table; its own int8 to int8 QUANTIZE
        rounds the ratio of the scales to 8 bits.
        """
        if q is None or tensor.q is None or same_codes(tensor.q, q):
            return tensor
        return self.quantize(self.dequantize(tensor), f"{tensor.name}/recoded", q)

    def reshape(self, tensor: Tensor, shape: Shape, output: Tensor | None = None) -> Tensor:
        """`tensor` under another shape. Reshapes in a row become one, or none if the last undoes the first."""
        maker = self._made.get(tensor)
        if maker is not None and maker.code == "RESHAPE":
            tensor = maker.inputs[0]
        if output is None and tensor.shape == shape:
            return tensor
        output = output or self.like(tensor, shape, "view")
        return self.emit("RESHAPE", [tensor, self.integers(shape, "shape")], output, new_shape=shape)

    def transpose(self, tensor: Tensor, perm: Sequence[int], output: Tensor | None = None) -> Tensor:
        """`tensor` with its axes in the order `perm`; only a reshape if no axis longer than 1 moves."""
        shape = tuple(tensor.shape[i] for i in perm)
        long_axes = [i for i in perm if tensor.shape[i] > 1]
        if long_axes == sorted(long_axes):
            return self.reshape(tensor, shape, output)
        output = output or self.like(tensor, shape, "transposed")
        return self.emit("TRANSPOSE", [tensor, self.integers(tuple(perm), "perm")], output)

    def slice(self, tensor: Tensor, axis: int, start: int, output: Tensor) -> Tensor:
        """What `output` holds of `tensor`, from `start` along `axis`.

        By SLICE, because int8 STRIDED_SLICE is not delegated on LiteRT 1.0.
        """
        begin = [0] * len(tensor.shape)
        begin[axis] = start
        return self.emit("SLICE", [tensor, self.integers(begin, "begin"), self.integers(output.shape, "size")], output)

    def concat(self, tensors: Sequence[Tensor], axis: int, output: Tensor | None = None) -> Tensor:
        """The tensors one after the other along `axis`, at most four per operator; one alone is itself."""
        parts = list(tensors)
        if len(parts) == 1:
            return parts[0]
        while len(parts) > MAX_CONCAT_INPUTS:
            # The two neighbours whose copy costs least are joined first.
            at = min(range(len(parts) - 1), key=lambda i: parts[i].shape[axis] + parts[i + 1].shape[axis])
            parts[at : at + 2] = [self._concat(parts[at : at + 2], axis, None)]
        return self._concat(parts, axis, output)

    def _concat(self, tensors: Sequence[Tensor], axis: int, output: Tensor | None) -> Tensor:
        shape = list(tensors[0].shape)
        shape[axis] = sum(t.shape[axis] for t in tensors)
        output = output or self.like(tensors[0], tuple(shape), "joined")
        return self.emit("CONCATENATION", tensors, output, axis=axis, fused_activation_function=0)

    def pad_zeros(self, tensor: Tensor, pads: Sequence[tuple[int, int]], stem: str = "padded") -> Tensor:
        """`tensor` with real zeros added before and after each axis."""
        shape = tuple(d + a + b for d, (a, b) in zip(tensor.shape, pads, strict=True))
        return self.emit("PAD", [tensor, self.integers(pads, "pads")], self.like(tensor, shape, stem))

    def pad_constant(self, tensor: Tensor, pad: Pad, channels: Array) -> Tensor:
        """An NHWC `tensor` inside a border that holds `channels` (as stored: codes or floats).

        PAD where the border is the code of real zero; else constant strips, because PADV2 is not delegated.
        """
        top, bottom, left, right = pad
        if not any(pad):
            return tensor
        zero = 0 if tensor.q is None else int(tensor.q.zero_point)
        if np.all(channels == zero):
            return self.pad_zeros(tensor, [(0, 0), (top, bottom), (left, right), (0, 0)])
        for axis, before, after in ((2, left, right), (1, top, bottom)):
            parts = [self._strip(tensor, axis, n, channels) if n else None for n in (before, after)]
            tensor = self.concat([p for p in (parts[0], tensor, parts[1]) if p is not None], axis)
        return tensor

    def _strip(self, tensor: Tensor, axis: int, size: int, channels: Array) -> Tensor:
        shape = list(tensor.shape)
        shape[axis] = size
        data = np.broadcast_to(np.asarray(channels, tensor.dtype), shape)
        return self.store(Constant(data, tensor.q), "border")

    # ------------------------------------------------------------------ fused activations

    def activation(self) -> str:
        """The fused activation that the current op's `clip` needs: NONE where saturation of the codes does it."""
        clip = self.op.attrs.get("clip", (None, None))
        if self.integer and self.saturates(clip):
            return "NONE"
        return _FUSED.get(clip, "RELU" if clip[0] == 0.0 else "NONE")

    def fused(self) -> dict[str, int]:
        """The option field of `activation`."""
        return {"fused_activation_function": ACTIVATIONS[self.activation()]}

    def clipped(self, tensor: Tensor) -> Tensor:
        """`tensor`, made with `fused`, under what is left of the current op's `clip`."""
        lo, hi = self.op.attrs.get("clip", (None, None))
        if (lo, hi) in _FUSED or (self.integer and self.saturates((lo, hi))):
            return tensor
        real = self.clamp(self.dequantize(tensor), None if lo == 0.0 else lo, hi)
        return real if tensor.q is None else self.quantize(real, self.op.output, tensor.q)

    def clamp(self, tensor: Tensor, lo: float | None, hi: float | None) -> Tensor:
        """A float `tensor` between two bounds."""
        fused = {(0.0, None): "RELU", (0.0, 6.0): "RELU6"}.get((lo, hi))  # type: ignore[arg-type]
        if fused:
            return self.emit(fused, [tensor], self.like(tensor, tensor.shape, "clamped"))
        for code, bound in (("MAXIMUM", lo), ("MINIMUM", hi)):
            if bound is not None:
                inputs = [tensor, self.scalar(bound, "bound")]
                tensor = self.emit(code, inputs, self.like(tensor, tensor.shape, "clamped"))
        return tensor

    def saturates(self, clip: tuple[float | None, float | None]) -> bool:
        """Whether the codes of the current op's output cannot leave `clip` (to the nearest code)."""
        q = self.graph.value(self.op.output).q
        if q is None:
            return False
        lo, hi = (None if bound is None else float(np.rint(bound / q.scale)) + int(q.zero_point) for bound in clip)
        return (lo is None or lo <= q.qmin) and (hi is None or hi >= q.qmax)

    def note(self, rule: str, *, did: bool, why: str) -> None:
        """Records a decision about the current op."""
        self.notes.append(Note(rule, self.op.output, did, why))

    @property
    def settings(self) -> Mapping[str, str]:
        """The `--set` pairs."""
        return self.options.settings
