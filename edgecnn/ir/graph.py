"""The graph: values, operators and their order; immutable, so that every stage is a function from graph to graph.

Conventions, for every pass, emitter and test:

- Activations are NCHW (or NC after pooling and flattening). Dimension 0 is the batch and is always `BATCH`.
- A constant is a `Value` with `data` (float32); its shape has no `BATCH`. Convolution weights are OIHW, linear ones OI.
- Every op has exactly one output, and its name is the op's name. Names come from `torch.export` with the module path
  and survive every pass: a pass that merges two ops keeps the name of the later one's output.
- Ops stand in topological order.
- Quantisation parameters sit on values (`Value.q`), on activations and constants alike; there are no Q/DQ ops.
  The data of a quantised constant stays float; `codes` gives its integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

BATCH = -1
"""The symbolic leading dimension of every activation."""

IntType = Literal["int8", "uint8", "int16", "int32", "int64"]
Attr = Any  # int, float, bool, str, None, or nested tuples of them: whatever the text form can write.
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class QParams:
    """How real numbers are coded as integers: real = (code - zero_point) * scale.

    `scale` is float32 and `zero_point` int32, both 0-d (per tensor) or 1-d along `axis` (per channel, constants only).
    `qmin` and `qmax` bound the codes that are used (weights: -127...127).
    """

    scale: Array
    zero_point: Array
    dtype: IntType
    axis: int | None = None
    qmin: int = -128
    qmax: int = 127

    @staticmethod
    def per_tensor(
        scale: float, zero_point: int = 0, dtype: IntType = "int8", *, qmin: int | None = None, qmax: int | None = None
    ) -> QParams:
        """Parameters with one scale and one zero point; the bounds default to all codes of `dtype`."""
        info = np.iinfo(dtype)
        return QParams(
            np.asarray(scale, np.float32),
            np.asarray(zero_point, np.int32),
            dtype,
            None,
            int(info.min) if qmin is None else qmin,
            int(info.max) if qmax is None else qmax,
        )

    def spread(self, ndim: int) -> tuple[Array, Array]:
        """Scale (float32) and zero point (int32), shaped to broadcast against an array of `ndim` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def quantize(self, x: Array) -> Array:
        """Codes of `x`, rounded half to even, in the integer type `dtype`.

        The division is in float64, so that a code does not depend on how a runtime orders float32 operations.
        """
        scale, zero = self.spread(np.ndim(x))
        q = np.rint(np.asarray(x, np.float64) / scale.astype(np.float64)) + zero
        codes: Array = np.clip(q, self.qmin, self.qmax).astype(self.dtype)
        return codes

    def dequantize(self, codes: Array) -> Array:
        """Real numbers (float32) of `codes`."""
        scale, zero = self.spread(np.ndim(codes))
        real: Array = ((codes.astype(np.int64) - zero) * scale.astype(np.float64)).astype(np.float32)
        return real

    def recoded(self, dtype: str) -> QParams:
        """The same real numbers in an 8-bit type, int8 or uint8: codes, zero point and bounds shift by 128."""
        if dtype == self.dtype:
            return self
        kind: IntType = "uint8" if dtype == "uint8" else "int8"
        shift = 128 if kind == "uint8" else -128
        zero_point = np.asarray(self.zero_point + shift, np.int32)
        return replace(self, dtype=kind, zero_point=zero_point, qmin=self.qmin + shift, qmax=self.qmax + shift)

    @property
    def real_range(self) -> tuple[float, float]:
        """The smallest and largest real number a per-tensor code can stand for."""
        s, z = float(self.scale), int(self.zero_point)
        return (self.qmin - z) * s, (self.qmax - z) * s

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, QParams)
            and (self.dtype, self.axis, self.qmin, self.qmax) == (other.dtype, other.axis, other.qmin, other.qmax)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.axis, self.scale.tobytes(), self.zero_point.tobytes()))


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor by name: an activation (`data is None`) or a constant."""

    name: str
    shape: tuple[int, ...]
    data: Array | None = None
    q: QParams | None = None

    @property
    def is_const(self) -> bool:
        """Whether the value is a constant of the graph."""
        return self.data is not None

    @property
    def codes(self) -> Array:
        """The integers of a quantised constant.

        Raises:
            ValueError: the value is an activation or has no quantisation parameters.
        """
        if self.data is None or self.q is None:
            raise ValueError(f"`{self.name}` is not a quantised constant")
        return self.q.quantize(self.data)


@dataclass(frozen=True)
class Source:
    """Where an op comes from in the user's program: module path (`features.3.conv`) and `file.py:line`."""

    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        return f"{self.line or '?'}  ({self.module or 'top level'})"


@dataclass(frozen=True, eq=False)
class Op:
    """One operator: `kind` is a key of `ir.ops.OPS`, `output` is its value and its name."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    source: Source = Source()

    @property
    def name(self) -> str:
        """The op's name: that of its output."""
        return self.output

    def with_attrs(self, **attrs: Attr) -> Op:
        """The op with some attributes set anew."""
        return replace(self, attrs={**self.attrs, **attrs})


@dataclass(frozen=True, eq=False)
class Graph:
    """Ops in topological order over named values; never changed in place (use `edit`)."""

    name: str
    ops: tuple[Op, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def makers(self) -> dict[str, Op]:
        """The op that makes each activation (inputs have none)."""
        return {op.output: op for op in self.ops}

    @cached_property
    def users(self) -> dict[str, tuple[Op, ...]]:
        """The ops that read each value, in order, one entry per op; a value without readers has ()."""
        found: dict[str, list[Op]] = {name: [] for name in self.values}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found[name].append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    def value(self, name: str) -> Value:
        """The value called `name`."""
        return self.values[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value; activations begin with `BATCH`."""
        return self.values[name].shape

    def const(self, name: str) -> Array:
        """The data of a constant.

        Raises:
            ValueError: the value is an activation.
        """
        data = self.values[name].data
        if data is None:
            raise ValueError(f"`{name}` is an activation, not a constant")
        return data

    def activations(self, op: Op) -> tuple[str, ...]:
        """The inputs of `op` that are not constants."""
        return tuple(i for i in op.inputs if not self.values[i].is_const)

    def only_user(self, name: str) -> Op | None:
        """The single op that reads `name`; None if there are more, none, or it is an output of the graph."""
        users = self.users[name]
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def edit(self) -> Editor:
        """A mutable copy; `Editor.finish` gives the new graph."""
        return Editor(self)

    @staticmethod
    def build(
        name: str, ops: Iterable[Op], values: Iterable[Value], inputs: Iterable[str], outputs: Iterable[str]
    ) -> Graph:
        """A graph from its parts, pruned of constants nobody reads."""
        ops = tuple(ops)
        ins, outs = tuple(inputs), tuple(outputs)
        used = {i for op in ops for i in op.inputs} | {op.output for op in ops} | set(ins) | set(outs)
        return Graph(name, ops, {v.name: v for v in values if v.name in used}, ins, outs)


class Editor:
    """A graph under change: what passes use. Finish with `finish`, which sorts, drops what is dead and verifies."""

    def __init__(self, graph: Graph) -> None:
        self.name = graph.name
        self.ops: list[Op] = list(graph.ops)
        self.values: dict[str, Value] = dict(graph.values)
        self.inputs, self.outputs = list(graph.inputs), list(graph.outputs)

    def fresh(self, stem: str) -> str:
        """A name that is not taken: `stem`, or `stem_2`, `stem_3`, ..."""
        name, n = stem, 1
        while name in self.values:
            n += 1
            name = f"{stem}_{n}"
        return name

    def const(self, stem: str, data: Array, *, q: QParams | None = None) -> str:
        """Adds a float32 constant under a fresh name and returns the name."""
        name = self.fresh(stem)
        array = np.ascontiguousarray(data, np.float32)
        self.values[name] = Value(name, array.shape, array, q)
        return name

    def activation(self, stem: str, shape: tuple[int, ...], *, q: QParams | None = None) -> str:
        """Adds an activation under a fresh name and returns the name."""
        name = self.fresh(stem)
        self.values[name] = Value(name, shape, None, q)
        return name

    def set_q(self, name: str, q: QParams | None) -> None:
        """Sets the quantisation parameters of a value."""
        self.values[name] = replace(self.values[name], q=q)

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Sets the shape of an activation."""
        self.values[name] = replace(self.values[name], shape=shape)

    def insert(self, op: Op) -> None:
        """Adds an op; `finish` puts it in its place."""
        self.ops.append(op)

    def remove(self, op: Op) -> None:
        """Removes an op (by identity of its output)."""
        self.ops = [o for o in self.ops if o.output != op.output]

    def swap(self, old: Op, *new: Op) -> None:
        """Puts `new` ops in the place of `old`."""
        at = next(i for i, o in enumerate(self.ops) if o.output == old.output)
        self.ops[at : at + 1] = new

    def redirect(self, old: str, new: str) -> None:
        """Makes every reader of `old`, and the graph's outputs, read `new`."""
        self.ops = [
            replace(o, inputs=tuple(new if i == old else i for i in o.inputs)) if old in o.inputs else o
            for o in self.ops
        ]
        self.outputs = [new if o == old else o for o in self.outputs]

    def finish(self) -> Graph:
        """The new graph: sorted, without dead ops and values, verified.

        Raises:
            ValueError: the edit left a cycle, a dangling name or a wrong shape: a bug in the pass.
        """
        from edgecnn.ir.verify import verify  # here, because verify needs this module's types

        graph = Graph.build(self.name, self._alive(self._sorted()), self.values.values(), self.inputs, self.outputs)
        verify(graph)
        return graph

    def _sorted(self) -> list[Op]:
        made = {o.output for o in self.ops}
        ready = {n for n in self.values if n not in made}
        todo, done = self.ops, []
        while todo:
            rest = []
            for op in todo:
                if all(i in ready for i in op.inputs):
                    done.append(op)
                    ready.add(op.output)
                else:
                    rest.append(op)
            if len(rest) == len(todo):
                raise ValueError(f"cycle or dangling input at {[o.output for o in rest[:3]]}")
            todo = rest
        return done

    def _alive(self, ops: list[Op]) -> list[Op]:
        needed, kept = set(self.outputs), []
        for op in reversed(ops):
            if op.output in needed:
                kept.append(op)
                needed.update(op.inputs)
        return kept[::-1]


@dataclass(frozen=True)
class Note:
    """What a pass did, or did not do and why, at one place of the graph."""

    rule: str
    at: str
    did: bool
    why: str = ""

    def __str__(self) -> str:
        return (
            f"{self.rule}: {self.at}" + (f" ({self.why})" if self.why else "")
            if self.did
            else (f"{self.rule}: left {self.at}: {self.why}")
        )


Pass = Callable[[Graph], tuple[Graph, list[Note]]]
"""A rewrite: value-preserving in float unless its name and notes say otherwise."""


def walk_back(graph: Graph, name: str, kinds: frozenset[str]) -> Iterator[Op]:
    """The chain of makers above `name` while their kind is in `kinds` (first input each)."""
    while (op := graph.makers.get(name)) is not None and op.kind in kinds:
        yield op
        name = op.inputs[0]
