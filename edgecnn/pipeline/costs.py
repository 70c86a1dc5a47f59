"""What each op of a quantised net would cost more in float, on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.bench.per_op import op_latencies
from edgecnn.ir.graph import Graph
from edgecnn.pipeline.trial import float_twin
from edgecnn.targets.target import Cpu, EmitOptions, Target


@dataclass(frozen=True)
class FloatCosts:
    """Microseconds by op (its output), each op timed alone in the target's runtime.

    Args:
        coded_us: on codes.
        extra_us: what float takes more; negative where it is faster. Ops that were not timed in both are missing.
    """

    coded_us: dict[str, float]
    extra_us: dict[str, float]


def float_costs(target: Target, cpu: Cpu, graph: Graph, coded: Graph) -> FloatCosts:
    """Times every op on codes and in float.

    Args:
        target: of the codes.
        cpu: the core it is lowered for.
        graph: the net in real numbers, rewritten for `target`.
        coded: the same ops with parameters.
    """
    options = EmitOptions(cpu=cpu)
    found = [op_latencies(t, g, options=options) for t, g in ((target, coded), (float_twin(target), graph))]
    coded_us, float_us = ({timed.op: timed.latency_us for timed in times} for times in found)
    name_of = {op.name: op.output for op in coded.ops}
    return FloatCosts(
        {name_of[op]: us for op, us in coded_us.items()},
        {name_of[op]: float_us[op] - us for op, us in coded_us.items() if op in float_us},
    )
