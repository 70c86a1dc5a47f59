"""What an import rule works with: one node of the exported program, and the graph that grows from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgecnn.errors import InputError, UnsupportedOp
from edgecnn.ir.exported import TRACED_BATCH
from edgecnn.ir.graph import BATCH, Graph, Op, Source, Value
from edgecnn.ir.movement import Move, per_image, plan
from edgecnn.ir.ops import OPS, infer_shape


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor that does not depend on the image; `name` is that of the parameter or buffer, if it is one."""

    tensor: Tensor
    name: str = ""


Step = Callable[[Any], Any]
"""Moves the numbers of a tensor; takes and gives a tensor, or the tensors of a split."""


@dataclass(frozen=True, eq=False)
class Moved:
    """An activation seen through moving operators that are not emitted yet, each with the site it stands at."""

    base: str
    steps: tuple[tuple[Step, Site], ...] = ()

    def then(self, step: Step, at: Site) -> Moved:
        """The same with one more step."""
        return Moved(self.base, (*self.steps, (step, at)))


Entry = Any
"""What a node stands for: a value's name, a `Moved`, a `Const`, or a plain number, string or list."""


@dataclass
class Draft:
    """The graph under construction."""

    ops: list[Op] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    _constants: dict[tuple[Any, ...], tuple[str, Tensor]] = field(default_factory=dict)
    _moves: dict[str, str] = field(default_factory=dict)

    def fresh(self, stem: str) -> str:
        """A name that is not taken: `stem`, made of word characters and dots, or with a number."""
        stem = re.sub(r"[^\w.]", "_", stem)
        name, n = stem, 1
        while name in self.values:
            n += 1
            name = f"{stem}_{n}"
        return name

    def emit(self, kind: str, inputs: tuple[str, ...], stem: str, attrs: Mapping[str, Any], source: Source) -> str:
        """Adds an op, with the attributes that are not at their default, and returns its name."""
        given = {k: v for k, v in attrs.items() if v != OPS[kind].attrs[k]}
        op = Op(kind, inputs, self.fresh(stem), given, source)
        shape = infer_shape(Graph("", (), self.values, (), ()), op)
        self.values[op.output] = Value(op.output, shape)
        self.ops.append(op)
        return op.output

    def constant(self, tensor: Tensor, stem: str, source: Source) -> str:
        """Adds a float32 constant, or finds it where the same memory is in the graph already.

        Raises:
            InputError: it holds NaN or infinity.
        """
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._constants:
            data = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy()).reshape(tensor.shape).copy()
            bad = int(data.size - np.isfinite(data).sum())
            if bad:
                raise InputError(
                    f"`{stem}` holds NaN or infinity",
                    where=str(source),
                    expected="finite weights",
                    got=f"{bad} of {data.size} numbers are not",
                    do="check the checkpoint, or the training that wrote it",
                )
            name = self.fresh(stem)
            self.values[name] = Value(name, data.shape, data)
            self._constants[key] = (name, tensor)  # the tensor is kept so that its address stays its own
        return self._constants[key][0]

    def settle(self, moved: Moved) -> str:
        """Emits the ops that move as `moved` does, unless they are there already, and returns the name of the result.

        Raises:
            UnsupportedOp: images of the batch are mixed.
        """
        name, steps = moved.base, list(moved.steps)
        while steps:
            done, moves = _longest_plan(steps, self.values[name].shape[1:])
            for i, (kind, attrs) in enumerate(moves):
                key = f"{kind} {name} {attrs}"
                if key not in self._moves:
                    # Of a shuffle that is split, the shuffle belongs to where the moving begins, the slice to its end.
                    _, site = steps[done - 1 if i == len(moves) - 1 else 0]
                    self._moves[key] = site.emit(kind, name, **attrs)
                name = self._moves[key]
            del steps[:done]
        return name


def _longest_plan(steps: list[tuple[Step, Site]], shape: tuple[int, ...]) -> tuple[int, list[Move]]:
    """How many of the steps the graph can do at once, and the ops for them."""
    numbers = prod(shape)
    # float64 holds every index exactly and, unlike integers, is taken by all operators.
    value: Any = torch.arange(TRACED_BATCH * numbers, dtype=torch.float64).reshape(TRACED_BATCH, *shape)
    values = [value := step(value) for step, _ in steps]
    for done in range(len(steps), 0, -1):
        if isinstance(values[done - 1], Tensor):
            index = per_image(values[done - 1].numpy(), TRACED_BATCH, numbers)
            moves = None if index is None else plan(index, shape)
            if moves is not None:
                return done, moves
    raise mixes_images(steps[-1][1])


@dataclass
class Site:
    """One node during import: what its rule reads the arguments with and emits ops with."""

    draft: Draft
    node: fx.Node
    source: Source
    in_torch_module: bool

    @property
    def target(self) -> str:
        """The operator as the user may search for it, such as `aten.conv2d`."""
        schema = getattr(self.node.target, "_schema", None)
        return schema.name.replace("::", ".") if schema is not None else aten_name(self.node)

    def emit(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """Adds an op and returns its name: the module's path, and the kind where the module is the user's own."""
        return self.draft.emit(kind, inputs, self._stem(kind), attrs, self.source)

    def act(self, entry: Entry) -> str:
        """The name of an activation.

        Raises:
            UnsupportedOp: the argument does not depend on the image, or mixes the images of a batch.
        """
        if isinstance(entry, Moved):
            return self.draft.settle(entry)
        if not isinstance(entry, str):
            raise self.refuse("needs an activation where the net gives a constant")
        return entry

    def const(self, entry: Entry, role: str) -> str:
        """The name of a constant argument; `role` names it where it is no parameter.

        Raises:
            UnsupportedOp: the argument depends on the image.
        """
        if not isinstance(entry, Const):
            raise self.refuse(f"needs a constant {role}", do=f"compute the {role} from parameters only")
        return self.draft.constant(entry.tensor, entry.name or self._constant_name(role), self.source)

    def number(self, value: float, rank: int) -> str:
        """The name of a new constant that broadcasts one number against `rank` dimensions."""
        return self.draft.constant(torch.full((1,) * rank, float(value)), self._constant_name("value"), self.source)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value; activations begin with `BATCH`."""
        return self.draft.values[name].shape

    def axis(self, axis: int, rank: int) -> int:
        """A non-negative axis.

        Raises:
            UnsupportedOp: it is the batch.
        """
        axis %= rank
        if axis == 0:
            raise mixes_images(self)
        return axis

    def refuse(self, why: str, *, do: str | None = None) -> UnsupportedOp:
        """An error that says why this node cannot be imported."""
        return UnsupportedOp(f"cannot import `{self.target}`: it {why}", where=str(self.source), do=do)

    def _constant_name(self, role: str) -> str:
        return f"{self._stem(aten_name(self.node).strip('_'))}.{role}"

    def _stem(self, kind: str) -> str:
        path = self.source.module
        if self.in_torch_module and path:
            return path
        return f"{path}.{kind}" if path else kind


def mixes_images(site: Site) -> UnsupportedOp:
    """The error for a net whose images are not independent of each other."""
    return UnsupportedOp(
        f"the net mixes the images of a batch, or fixes the batch size, before or at `{site.target}`",
        where=str(site.source),
        expected="every activation begins with the batch: (N, C, H, W) or (N, features)",
        do="keep the first dimension as it is: x.flatten(1) or x.view(x.size(0), -1), no dim=0",
    )


def aten_name(node: fx.Node) -> str:
    """The name of an operator without overload: `conv2d` for aten.conv2d.default; `lib::name` for other libraries."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return str(schema.name).removeprefix("aten::")
    return str(getattr(node.target, "__name__", node.target))


def with_batch(shape: Any) -> tuple[int, ...] | None:
    """The shape of an exported activation with `BATCH` in front; None where it does not begin with the batch."""
    sizes = tuple(int(d) for d in shape)
    return (BATCH, *sizes[1:]) if sizes and sizes[0] == TRACED_BATCH else None
