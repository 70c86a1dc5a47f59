"""The graph as text, one op per line: what `show` prints, bundles keep in their header and tests are written in.

    graph tiny(x: [N,3,32,32]) {
      c1 = conv(x, w1[16,3,3,3], b1[16]) stride=(2,2) pad=(1,1,1,1) clip=(0.0,None)  # features.0 my_net.py:7
      y = global_pool(c1)
      return y
      x: int8 scale=0.0235 zero=-128
      w1: int8 axis=0 qmin=-127 scale=(0.01,0.02) zero=(0,0)
    }

`N` is the batch. A constant carries its shape where it is first read; its numbers are not part of the text. Shapes of
activations are not written, because the ops determine them. Lines `name: type ...` give quantisation parameters.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Iterator, Mapping
from math import inf, isfinite, isnan, prod
from typing import Any, cast, get_args

import numpy as np

from edgecnn.errors import InputError, nearest
from edgecnn.ir.graph import BATCH, Array, Graph, IntType, Op, QParams, Source, Value
from edgecnn.ir.ops import OPS, REQUIRED, infer_shape
from edgecnn.ir.verify import verify

_NAME = r"[\w.]+"
_HEAD = re.compile(r"graph\s+([^\s(]+)\s*\((.*)\)\s*\{")
_INPUT = re.compile(rf"({_NAME})\s*:\s*\[([^\]]*)\]")
_OP = re.compile(rf"({_NAME})\s*=\s*(\w+)\s*\(([^()]*)\)(.*)")
_OPERAND = re.compile(rf"({_NAME})(?:\[([^\]]*)\])?")
_QUANT = re.compile(rf"({_NAME})\s*:\s*(\w+)(.*)")
_ATTR = re.compile(r"\s*(\w+)=(\((?:[^()]|\([^()]*\))*\)|'[^']*'|[^\s()]+)")
_COMMA = re.compile(r",(?![^\[]*\])")
_QUANT_KEYS = ("scale", "zero", "axis", "qmin", "qmax")


def dumps(graph: Graph, *, abridged: bool = False) -> str:
    """The text of `graph`; `parse` gives back the same ops, shapes and quantisation parameters.

    Args:
        graph: any verified graph.
        abridged: per-channel scales as `lowest..highest`, for reading only.
    """
    shown: set[str] = set()
    inputs = ", ".join(f"{name}: {_shape_text(graph.shape(name))}" for name in graph.inputs)
    lines = [f"graph {graph.name}({inputs}) {{"]
    lines += [f"  {_op_text(graph, op, shown)}" for op in graph.ops]
    lines.append("  return " + ", ".join(graph.outputs))
    for name in dict.fromkeys([*graph.inputs, *(n for op in graph.ops for n in (*op.inputs, op.output))]):
        q = graph.value(name).q
        if q is not None:
            lines.append(f"  {name}: {_quant_text(q, abridged)}")
    return "\n".join([*lines, "}"]) + "\n"


def parse(text: str, *, seed: int = 0, constants: Mapping[str, Array] | None = None) -> Graph:
    """The graph that `text` describes.

    Args:
        text: see the module's docstring. Blank lines and comments are free; a comment after an op is its source.
        seed: of the random numbers that fill the constants. They depend on the name, not on the place, and are
            scaled so that activations keep their size: weights by fan-in, variances and gammas positive.
        constants: the data of the constants by name, instead of random numbers.

    Raises:
        InputError: the text is not a legal graph; the error gives the line.

    Example:
        >>> parse("graph g(x: [N,3,8,8]) { \\n y = conv(x, w[4,3,3,3]) \\n return y \\n }").shape("y")
        (-1, 4, 6, 6)
    """
    return _Parser(text, seed, constants).graph()


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join("N" if d == BATCH else str(d) for d in shape) + "]"


def _op_text(graph: Graph, op: Op, shown: set[str]) -> str:
    operands = []
    for name in op.inputs:
        value = graph.value(name)
        operands.append(name + _shape_text(value.shape) if value.is_const and name not in shown else name)
        shown.add(name)
    known = [*OPS[op.kind].attrs]
    attrs = "".join(f" {k}={_literal(op.attrs[k])}" for k in sorted(op.attrs, key=known.index))
    module, line = op.source.module or "-", op.source.line or "-"
    source = "" if op.source == Source() else f"  # {module} {line}"
    return f"{op.output} = {op.kind}({', '.join(operands)}){attrs}{source}"


def _literal(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return _tuple_text([_literal(v) for v in value])
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):
            raise ValueError("an attribute is NaN")
        return "1e999" if value == inf else "-1e999"  # Python has no literal for infinity
    return repr(value)


def _tuple_text(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({','.join(items)})"


def _float32_text(value: Any) -> str:
    """The shortest decimal that reads back as the same float32, also when it is read as a float64 first."""
    single = np.float32(value)
    short = str(single)
    return short if np.float32(float(short)) == single else repr(float(single))


def _quant_text(q: QParams, abridged: bool) -> str:
    info = np.iinfo(q.dtype)
    parts: list[str] = [q.dtype]
    if q.axis is not None:
        parts.append(f"axis={q.axis}")
    if q.qmin != info.min:
        parts.append(f"qmin={q.qmin}")
    if q.qmax != info.max:
        parts.append(f"qmax={q.qmax}")
    if q.axis is None:
        parts += [f"scale={_float32_text(q.scale)}", f"zero={int(q.zero_point)}"]
    elif abridged:
        parts.append(f"scale={_float32_text(q.scale.min())}..{_float32_text(q.scale.max())}")
    else:
        parts.append(f"scale={_tuple_text([_float32_text(s) for s in q.scale])}")
        zeros = [str(int(z)) for z in q.zero_point]
        parts.append(f"zero={_tuple_text(zeros) if q.zero_point.any() else 0}")
    return " ".join(parts)


class _Parser:
    def __init__(self, text: str, seed: int, constants: Mapping[str, Array] | None) -> None:
        self.lines = text.splitlines()
        self.seed, self.constants = seed, constants
        self.line_number = 0
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        self.quants: dict[str, QParams] = {}

    def graph(self) -> Graph:
        lines = self._lines()
        first = next(lines, None)
        head = _HEAD.fullmatch(first[0]) if first else None
        if head is None:
            raise self._error("the text does not begin with a graph", expected="graph NAME(INPUT: [N,C,H,W]) {")
        inputs = [self._input(part) for part in _COMMA.split(head[2])]
        outputs: tuple[str, ...] = ()
        closed = False
        for line, source in lines:
            if closed:
                raise self._error("text after the end of the graph")
            if line == "}":
                closed = True
            elif line.startswith("return "):
                outputs = tuple(self._known(name.strip()) for name in line[len("return ") :].split(","))
            elif match := _OP.fullmatch(line):
                self._op(*match.groups(), source=source)
            elif match := _QUANT.fullmatch(line):
                self._quant(*match.groups())
            else:
                raise self._error("this line is no op", expected="NAME = KIND(OPERANDS) ATTRIBUTE=VALUE ...")
        if not closed:
            raise self._error("the text ends before the closing `}`", do="the text may have been cut off")
        if not outputs:
            raise self._error("the graph returns nothing", expected="a line `return NAME`")
        values = [Value(v.name, v.shape, v.data, self.quants.get(v.name)) for v in self.values.values()]
        graph = Graph.build(head[1], self.ops, values, inputs, outputs)
        verify(graph)
        return graph

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Each line that says something, without its comment, and the comment."""
        for number, line in enumerate(self.lines, 1):
            self.line_number = number
            code, _, comment = line.partition("#")
            if code.strip():
                yield code.strip(), comment.strip()

    def _error(self, what: str, **parts: str | None) -> InputError:
        shown = self.lines[self.line_number - 1].strip() if self.lines else "(empty)"
        return InputError(what, where=f"line {self.line_number} of the graph: {shown}", **parts)

    def _input(self, part: str) -> str:
        match = _INPUT.fullmatch(part.strip())
        if match is None:
            raise self._error(f"`{part.strip()}` is no input", expected="NAME: [N,C,H,W]")
        shape = self._shape(match[2])
        if not shape or shape[0] != BATCH:
            raise self._error(f"input `{match[1]}` does not begin with the batch", expected="[N,...]")
        self.values[match[1]] = Value(match[1], shape)
        return match[1]

    def _shape(self, text: str) -> tuple[int, ...]:
        dims = [d.strip() for d in text.split(",")] if text.strip() else []
        if any(d != "N" and not d.isdecimal() for d in dims):
            raise self._error(f"[{text}] is no shape", expected="whole numbers, and N for the batch")
        return tuple(BATCH if d == "N" else int(d) for d in dims)

    def _known(self, name: str) -> str:
        if name not in self.values:
            raise self._error(f"`{name}` is not defined above this line", do=_did_you_mean(name, self.values))
        return name

    def _op(self, name: str, kind: str, operands: str, attrs: str, *, source: str) -> None:
        if kind not in OPS:
            raise self._error(
                f"unknown op kind `{kind}`", expected="one of " + ", ".join(sorted(OPS)), do=_did_you_mean(kind, OPS)
            )
        if name in self.values:
            raise self._error(f"`{name}` is defined twice")
        inputs = [self._operand(kind, i, part) for i, part in enumerate(_COMMA.split(operands)) if part.strip()]
        module, _, line = source.partition(" ")
        where = Source("" if module == "-" else module, "" if line.strip() == "-" else line.strip())
        op = Op(kind, tuple(inputs), name, self._attrs(attrs, [*OPS[kind].attrs], f"`{kind}`"), where)
        # The op is verified on its own first, so that the error is about this line.
        try:
            shape = infer_shape(Graph("", (), self.values, (), ()), op)
            values = {**self.values, name: Value(name, shape)}
            verify(Graph("", (op,), values, tuple(n for n, v in self.values.items() if not v.is_const), (name,)))
        except (ValueError, TypeError, KeyError, IndexError, ZeroDivisionError) as error:
            raise self._error(f"`{name}` is not a legal {kind}: {self._reason(op, error)}") from error
        self.ops.append(op)
        self.values = values

    @staticmethod
    def _reason(op: Op, error: Exception) -> str:
        low, high = OPS[op.kind].arity
        if not low <= len(op.inputs) <= high:
            return f"{len(op.inputs)} inputs, expected {low}" + (f" to {high}" if high != low else "")
        missing = [k for k, default in OPS[op.kind].attrs.items() if default is REQUIRED and k not in op.attrs]
        if missing:
            return f"{' and '.join(missing)} must be given"
        if not isinstance(error, ValueError) or "unpack" in str(error):  # a tuple of another length, or no tuple
            return "an attribute is not of the right form"
        return str(error).removeprefix(f"op `{op.output}` ({op.kind}): ")

    def _operand(self, kind: str, index: int, part: str) -> str:
        match = _OPERAND.fullmatch(part.strip())
        if match is None:
            raise self._error(f"`{part.strip()}` is no operand", expected="NAME, or NAME[SHAPE] for a constant")
        name, shape_text = match.groups()
        if shape_text is None:
            return self._known(name)
        shape = self._shape(shape_text)
        if name in self.values:
            if self.values[name].shape != shape:
                raise self._error(f"`{name}` has the shape {_shape_text(self.values[name].shape)} further up")
            return name
        if BATCH in shape:
            raise self._error(f"the constant `{name}` has a batch")
        self.values[name] = Value(name, shape, self._data(kind, index, name, shape))
        return name

    def _data(self, kind: str, index: int, name: str, shape: tuple[int, ...]) -> Array:
        if self.constants is None:
            return random_constant(kind, index, shape, seed=(self.seed, zlib.crc32(name.encode())))
        if name not in self.constants:
            raise self._error(f"there is no data for the constant `{name}`")
        data = self.constants[name]
        if data.shape != shape:
            raise self._error(
                f"the data of `{name}` has another shape", expected=_shape_text(shape), got=_shape_text(data.shape)
            )
        return data

    def _attrs(self, text: str, known: list[str], owner: str) -> dict[str, Any]:
        attrs: dict[str, Any] = {}
        at = 0
        text = text.rstrip()
        while at < len(text):
            match = _ATTR.match(text, at)
            if match is None:
                raise self._error(f"cannot read `{text[at:].strip()}`", expected="ATTRIBUTE=VALUE")
            key, at = match[1], match.end()
            if key not in known:
                raise self._error(
                    f"{owner} has no attribute `{key}`",
                    expected="one of " + ", ".join(known) if known else "no attributes",
                    do=_did_you_mean(key, known),
                )
            try:
                attrs[key] = ast.literal_eval(match[2])
            except (ValueError, SyntaxError):
                raise self._error(
                    f"`{match[2]}` is no value", expected="a number, True, False, None or a tuple"
                ) from None
        return attrs

    def _quant(self, name: str, dtype: str, rest: str) -> None:
        self._known(name)
        types = get_args(IntType)
        if dtype not in types:
            raise self._error(f"unknown type `{dtype}`", expected="one of " + ", ".join(types))
        given = self._attrs(rest, [*_QUANT_KEYS], f"`{dtype}`")
        if "scale" not in given:
            raise self._error("the scale is missing", expected="scale=NUMBER, or a tuple with axis=AXIS")
        try:
            self.quants[name] = _qparams(cast(IntType, dtype), given, self.values[name].shape)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            axis = given.get("axis")
            raise self._error(
                f"the parameters of `{name}` do not fit its shape {_shape_text(self.values[name].shape)}",
                expected="one positive scale" if axis is None else f"one positive scale for each index of axis {axis}",
            ) from error


def _qparams(dtype: IntType, given: Mapping[str, Any], shape: tuple[int, ...]) -> QParams:
    with np.errstate(over="ignore"):
        scale = np.asarray(given["scale"], np.float32)
    axis = given.get("axis")
    if scale.shape != (() if axis is None else (shape[axis],)) or not np.all((scale > 0) & np.isfinite(scale)):
        raise ValueError("one positive scale, or as many as the axis is long")
    zero = np.broadcast_to(np.asarray(given.get("zero", 0), np.int32), scale.shape).copy()
    info = np.iinfo(dtype)
    qmin, qmax = given.get("qmin", int(info.min)), given.get("qmax", int(info.max))
    return QParams(scale, zero, dtype, axis, int(qmin), int(qmax))


def _did_you_mean(name: str, known: Any) -> str | None:
    close = nearest(name, known)
    return "did you mean " + " or ".join(f"`{c}`" for c in close) + "?" if close else None


def random_constant(kind: str, index: int, shape: tuple[int, ...], *, seed: tuple[int, ...]) -> Array:
    """Random float32 data for input `index` of an op: such that activations keep their size through deep graphs."""
    rng = np.random.default_rng(seed)
    if kind in ("conv", "deform_conv", "linear") and index == 1:
        data = rng.standard_normal(shape) * (2.0 / max(prod(shape[1:]), 1)) ** 0.5
    elif kind == "batch_norm" and index in (1, 4):  # gamma and the variance
        data = rng.uniform(0.5, 1.5, shape)
    elif kind in ("conv", "deform_conv", "linear", "batch_norm"):
        data = rng.standard_normal(shape) * 0.1
    else:
        data = rng.standard_normal(shape)
    return np.asarray(data, np.float32)
