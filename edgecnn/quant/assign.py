"""Assigning: from measured ranges to quantisation parameters on the values of a graph, by the rules of a scheme.

Pure and quick: nothing is measured here, so one set of ranges serves every scheme and estimator.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from edgecnn.errors import InputError
from edgecnn.ir.graph import Editor, Graph, Note, Op, QParams
from edgecnn.ir.ops import CLIPPING, attrs_of
from edgecnn.quant.estimate import ESTIMATORS, Estimator
from edgecnn.quant.limits import keep_limits, least_scale
from edgecnn.quant.ranges import Ranges
from edgecnn.quant.scheme import Scheme
from edgecnn.quant.spans import Span, constant_q, fixed_q, gate_grid_q, span_q
from edgecnn.quant.ties import Group, coded_groups, stays_float, tying
from edgecnn.quant.weights import bias_q, own_constants, sums_type, weight_q

RULE = "assign"
DEFAULT_ESTIMATOR = "mse"


def assign(
    graph: Graph,
    ranges: Ranges,
    scheme: Scheme,
    *,
    estimator: str | Mapping[str, str] = DEFAULT_ESTIMATOR,
) -> tuple[Graph, list[Note]]:
    """`graph` with quantisation parameters on its values, and notes on what could not be as the scheme wants it.

    - A value gets parameters if an integer op makes or reads it; between float ops it keeps none.
    - Values that ops only move (`SAME_CODES`) share parameters; their range is the union. So do the ends of a clip
      that works on codes: its input has those codes already.
    - A fused clip bounds its output's range, so that saturation of the codes is the clip.
    - What no reader can tell apart is not coded: below -3 for a hard-swish, outside [-3, 3] for a hard-sigmoid.
    - The graph's inputs and outputs keep their whole measured range: saturation there cannot be made good.
    - Weights are int8 per output channel; a bias is added where there is none.

    Args:
        graph: the float graph that was measured (parameters it carries are replaced).
        ranges: from `measure`.
        scheme: the rules of the runtime.
        estimator: a name in `ESTIMATORS`; or one for each value, `DEFAULT_ESTIMATOR` for those that are not named.

    Raises:
        UsageError: unknown estimator.
        InputError: a value has no range: the ranges are of another graph.
    """
    named = {} if isinstance(estimator, str) else {name: ESTIMATORS[e] for name, e in estimator.items()}
    usual = ESTIMATORS[estimator if isinstance(estimator, str) else DEFAULT_ESTIMATOR]
    graph, notes, integer = _prepared(graph, scheme)
    groups, tied = coded_groups(graph, scheme), tying(graph, scheme)
    q: dict[str, QParams] = {}
    for group in groups:
        spans = {
            name: _span(graph, name, ranges, named.get(name, usual), scheme).within(
                *_seen_at(graph, name, scheme, tied)
            )
            for name in group.computed
        }
        chosen, conflicts = _choose(graph, group, spans, scheme, tied)
        q.update(dict.fromkeys(group.values, chosen))
        notes += conflicts
    if scheme.xnnpack_limits:
        notes += keep_limits(graph, groups, q, integer, scheme)

    edit = graph.edit()
    for name in graph.values:
        edit.set_q(name, q.get(name))
    for op in graph.ops:
        if op.output in integer:
            _assign_constants(graph, op, edit, scheme)
    return edit.finish(), notes


def _prepared(graph: Graph, scheme: Scheme) -> tuple[Graph, list[Note], frozenset[str]]:
    """`graph` with constants of its own per op, notes on what stays float, and the names of the integer ops."""
    reasons = {op.output: stays_float(graph, op, scheme) for op in graph.ops}
    notes = [Note(RULE, name, False, why) for name, why in reasons.items() if why is not None]
    integer = frozenset(name for name, why in reasons.items() if why is None)
    return own_constants(graph, integer), notes, integer


def _span(graph: Graph, name: str, ranges: Ranges, estimate: Estimator, scheme: Scheme) -> Span:
    """The interval of real numbers that a value which is not moved from elsewhere asks for."""
    data = graph.value(name).data
    if data is not None:
        return Span.around(float(data.min()), float(data.max()))
    stats = ranges.stats.get(name)
    if stats is None:
        raise InputError(
            f"no range was measured for `{name}`",
            where=str(graph.makers[name].source) if name in graph.makers else graph.name,
            expected="ranges of this very graph",
            got="ranges of a graph without this value",
            do="measure the graph again after the passes of its target",
        )
    whole = name in graph.inputs or name in graph.outputs
    lo, hi = (stats.min, stats.max) if whole else estimate(stats, 2**scheme.act_bits)
    bottom, top = _image(graph.makers.get(name))
    return Span.around(lo, hi).within(bottom, top)


def _image(op: Op | None) -> tuple[float | None, float | None]:
    """The bounds that `op` itself puts on its output."""
    if op is None:
        return None, None
    attrs = attrs_of(op)
    if op.kind in CLIPPING:
        lo, hi = attrs["clip"]
        return lo, hi
    if op.kind == "clip":
        return attrs["lo"], attrs["hi"]
    return (0.0, 1.0) if op.kind == "hard_sigmoid" else (None, None)


def _choose(
    graph: Graph, group: Group, spans: Mapping[str, Span], scheme: Scheme, tied: frozenset[str]
) -> tuple[QParams, list[Note]]:
    """The parameters of `group`, and notes on members whose wishes could not be met."""
    makers = [graph.makers[n] for n in group.values if n in graph.makers]
    fixed = {op.output: q for op in makers if (q := fixed_q(op.kind, scheme)) is not None}
    free = [spans[name] for name in group.computed if name not in fixed] + _padding(makers)
    notes = []
    if fixed:
        wanted = next(iter(fixed.values()))
        lo, hi = wanted.real_range
        if all(q == wanted for q in fixed.values()) and all(lo <= s.lo and s.hi <= hi for s in free):
            return wanted, []
        free += [Span.around(*q.real_range) for q in fixed.values()]
        why = "it shares codes with {}, so its parameters are not the fixed ones of its kind"
        notes = [Note(RULE, name, False, why.format(_company(group, name))) for name in fixed]
    span = reduce(Span.join, free)

    readers = [op for name in group.values for op in graph.users[name] if op.output not in tied]
    swishes = [op for op in readers if op.kind == "hard_swish"]
    seen = None if set(group.values) & set(graph.outputs) else _seen(readers)
    if seen is not None:
        span = span.within(*seen)
    if swishes and scheme.hard_swish == "clip_mul":
        alone = seen is not None and len(swishes) == len(readers) and not fixed
        grid = gate_grid_q(span.hi, scheme) if alone else None
        if grid is not None:
            return grid, []
        why = f"reaches {span.hi:.4g}" if alone else f"is also read by {_others(graph, group, readers)}"
        notes += [
            Note(RULE, op.name, False, f"its input {why}, so it cannot stand on the gate's grid") for op in swishes
        ]
    return span_q(span, scheme), notes


def _seen(readers: list[Op]) -> tuple[float | None, float | None] | None:
    """The interval outside which no reader tells numbers apart; None if some reader sees everything."""
    lows, highs = list[float | None](), list[float | None]()
    for op in readers:
        if op.kind == "hard_swish":
            lo, hi = -3.0, None
        elif op.kind == "hard_sigmoid":
            lo, hi = -3.0, 3.0
        elif op.kind == "clip":
            lo, hi = attrs_of(op)["lo"], attrs_of(op)["hi"]
        else:
            return None
        lows.append(lo)
        highs.append(hi)
    if not readers:
        return None
    return (
        None if None in lows else min(v for v in lows if v is not None),
        None if None in highs else max(v for v in highs if v is not None),
    )


def _seen_at(graph: Graph, name: str, scheme: Scheme, tied: frozenset[str]) -> tuple[float | None, float | None]:
    """The interval outside which nothing that reads `name`, or a copy of it, tells numbers apart.

    A clip that shares the parameters of its input is no reader of their group, but numbers that only clips read need no
    codes beyond their bounds.
    """
    if not scheme.clip_codes:
        return None, None
    readers, copies, found = list[Op](), [name], {name}
    while copies:
        copy = copies.pop()
        if copy in graph.outputs:
            return None, None
        for op in graph.users[copy]:
            if op.kind != "clip" and op.output in tied:
                copies += {op.output} - found
                found.add(op.output)
            else:
                readers.append(op)
    return _seen(readers) or (None, None)


def _padding(makers: list[Op]) -> list[Span]:
    """What the pads among `makers` write."""
    values = [attrs_of(op)["value"] for op in makers if op.kind == "pad"]
    return [Span.around(float(np.min(v)), float(np.max(v))) for v in values]


def _company(group: Group, name: str) -> str:
    return ", ".join(f"`{n}`" for n in group.computed if n != name)


def _others(graph: Graph, group: Group, readers: list[Op]) -> str:
    names = [f"`{op.name}` ({op.kind})" for op in readers if op.kind != "hard_swish"]
    names += [f"the caller (output `{n}`)" for n in group.values if n in graph.outputs]
    return ", ".join(names) or "nobody else, but its codes are fixed"


def _assign_constants(graph: Graph, op: Op, edit: Editor, scheme: Scheme) -> None:
    """Sets the parameters of the constants that the integer op `op` reads; its activations have theirs."""
    if op.kind in ("conv", "linear"):
        x, weight, bias = (edit.values[name] for name in op.inputs)
        y = edit.values[op.output]
        assert x.q is not None  # the activations of an integer op are in coded groups
        assert y.q is not None
        scale_x = np.float32(x.q.scale)
        constants = graph.const(weight.name), graph.const(bias.name)
        q = weight_q(*constants, float(scale_x), float(y.q.scale), scheme.weight_max, sums=sums_type(x.q))
        edit.set_q(weight.name, q)
        edit.set_q(bias.name, None if scheme.float_bias else bias_q(scale_x, q, sums=sums_type(x.q)))
    elif op.kind in ("add", "sub", "mul"):
        y_q = edit.values[op.output].q
        other_q = next((edit.values[n].q for n in graph.activations(op)), None)
        assert y_q is not None  # an integer op's output is in a coded group
        for name in op.inputs:
            data = graph.value(name).data
            if data is not None:
                least = least_scale(op, other_q, y_q) if scheme.xnnpack_limits else 0.0
                edit.set_q(name, constant_q(data, scheme, least=least))
