"""The ratios of scales that XNNPACK's 8-bit kernels take; outside them an op silently leaves the fast path.

Source: the argument checks of the XNNPACK delegate in LiteRT and of XNNPACK's operator constructors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from edgecnn.ir.graph import Graph, Note, Op, QParams
from edgecnn.quant.scheme import Scheme
from edgecnn.quant.spans import constant_q, fixed_q
from edgecnn.quant.ties import Group
from edgecnn.quant.weights import weight_q

RULE = "xnnpack-limits"

ADD_RATIO = (2.0**-10, 2.0**8)
"""s_in / s_out of each operand of add and sub."""

MUL_RATIO = (2.0**-16, 2.0**8)
"""s_a * s_b / s_out of mul."""

CONVERT_RATIO = (2.0**-8, 2.0**7)
"""s_in / s_out of ops that only change the scale: leaky_relu, mean, avg_pool."""

CONV_RATIO = (2.0**-32, 2.0**8)
"""s_x * s_w / s_y of conv and linear, per channel."""

# Scales are moved this much past a limit, so that rounding them to float32 cannot bring them back.
_MARGIN = 1.0 + 2.0**-10
# A widened value can push the next op over its limit; each round settles at least one op of such a chain.
_ROUNDS = 8


def keep_limits(
    graph: Graph, groups: list[Group], q: dict[str, QParams], integer: Collection[str], scheme: Scheme
) -> list[Note]:
    """Widens parameters in `q` until every op of `integer` is within XNNPACK's limits.

    Only ever widens: a ratio too large gets a coarser output, one too small a coarser input (whose steps are far
    below one code of the output, so nothing is lost there).

    Returns:
        A note for each value that was widened, and for each op that stays out of its limits because the parameters
        of its values are fixed.
    """
    group_of = {name: group for group in groups for name in group.values}
    rigid = {g for g in groups if any(_is_fixed(graph, name, q, scheme) for name in g.values)}
    ops = [op for op in graph.ops if op.output in integer]
    notes: dict[str, Note] = {}
    for _ in range(_ROUNDS):
        settled = True
        for op in ops:
            for name, factor in _too_fine(graph, op, partial(_assigned_scale, graph, op, q, scheme)):
                group = group_of[name]
                if group in rigid:
                    notes[op.name] = Note(RULE, op.name, False, f"the parameters of `{name}` are fixed")
                    continue
                settled = False
                wider = _scaled(q[name], factor)
                q.update(dict.fromkeys(group.values, wider))
                why = f"XNNPACK's limits for {op.kind} `{op.name}`; scale {float(wider.scale):.3g}"
                notes[name] = Note(RULE, name, True, why)
        if settled:
            break
    return list(notes.values())


def least_scale(op: Op, other: QParams | None, y: QParams) -> float:
    """The smallest scale that a constant operand of the elementwise `op` may have; `other` is the other operand."""
    if op.kind == "mul" and other is not None:
        return MUL_RATIO[0] * float(y.scale) / float(other.scale) * _MARGIN
    return ADD_RATIO[0] * float(y.scale) * _MARGIN


def _is_fixed(graph: Graph, name: str, q: Mapping[str, QParams], scheme: Scheme) -> bool:
    op = graph.makers.get(name)
    return op is not None and fixed_q(op.kind, scheme) == q[name]


def _scaled(q: QParams, factor: float) -> QParams:
    return QParams.per_tensor(float(q.scale) * factor, int(q.zero_point), q.dtype, qmin=q.qmin, qmax=q.qmax)


def _assigned_scale(graph: Graph, op: Op, q: Mapping[str, QParams], scheme: Scheme, name: str) -> float:
    """The scale of a value of `op`, or the largest of its channels; constants get those that `assign` will give."""
    data = graph.value(name).data
    if data is None:
        return float(q[name].scale)
    if op.kind in ("conv", "linear") and name == op.inputs[1]:
        s_x, s_y = float(q[op.inputs[0]].scale), float(q[op.output].scale)
        return float(weight_q(data, graph.const(op.inputs[2]), s_x, s_y, scheme.weight_max).scale.max())
    return float(constant_q(data, scheme).scale)


def widened(graph: Graph) -> dict[str, float]:
    """The factors by which activations of a graph that has its parameters must widen to be within XNNPACK's limits.

    Both ends of an op may ask for more than one round: apply the factors to the groups (`ties.shared_groups`) and ask
    again until there is none.
    """

    def scale(name: str) -> float:
        q = graph.value(name).q
        assert q is not None  # only asked of ops that compute on codes
        return float(q.scale.max())

    found: dict[str, float] = {}
    for op in graph.ops:
        if all(graph.value(name).q is not None for name in (*op.inputs, op.output)):
            found.update(_too_fine(graph, op, scale))
    return found


def _too_fine(graph: Graph, op: Op, scale: Callable[[str], float]) -> Iterator[tuple[str, float]]:
    """The activations of `op` whose scale must grow, each with the factor."""
    if op.kind in ("conv", "linear"):
        ratio = scale(op.inputs[0]) * scale(op.inputs[1]) / scale(op.output)
        if ratio >= CONV_RATIO[1]:
            yield op.output, ratio / CONV_RATIO[1] * _MARGIN
        return
    operands = graph.activations(op)
    if op.kind == "mul":
        low, high = MUL_RATIO
        ratios = {min(operands, key=scale): scale(op.inputs[0]) * scale(op.inputs[1]) / scale(op.output)}
    elif op.kind in ("add", "sub"):
        low, high = ADD_RATIO
        ratios = {name: scale(name) / scale(op.output) for name in op.inputs}
    elif op.kind in ("leaky_relu", "global_pool", "avg_pool"):
        low, high = CONVERT_RATIO
        ratios = {op.inputs[0]: scale(op.inputs[0]) / scale(op.output)}
    else:
        return
    for name, ratio in ratios.items():
        if ratio >= high:
            yield op.output, ratio / high * _MARGIN
        elif ratio < low and name in operands:
            yield name, low / ratio * _MARGIN
