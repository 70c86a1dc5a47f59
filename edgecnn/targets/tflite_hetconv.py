"""Which form of a heterogeneous convolution LiteRT computes fastest in int8, by core.

Without AMX the grouped form does a P-th of the multiply-adds and is the fastest (`facts/runtimes.md` 5, 6.4: C = 256,
P = 4, 391 us against 956 on x86, and on every ARM core). On AMX time goes by tiles of 64 channels, so groups of fewer
channels cost as much as dense ones, P times over. Measured there, us (LiteRT 2.3, 1 thread, best of 60):

    channels, size   P   grouped   split   dense
    32, 32x32        4       194      76      27
    64, 32x32        4       332     190      96
    128, 28x28       8       545     321     221
    256, 28x28       4       270     297     421
    256, 14x14      16       173     146     111
    512, 14x14       4       320     252     472
"""

from __future__ import annotations

from math import prod

from edgecnn.ir.graph import Graph, Note, Pass
from edgecnn.passes.hetconv import Form, HetConv, cheapest_hetconv, hetconv
from edgecnn.targets.target import Cpu
from edgecnn.targets.tflite_columns import DEPTH_COST, TILE


def fastest_form(cpu: Cpu) -> Pass:
    """The pass that gives each heterogeneous convolution its fastest form on a core."""
    return _on_amx if cpu == "x86-amx" else hetconv("grouped")


def _on_amx(graph: Graph) -> tuple[Graph, list[Note]]:
    return cheapest_hetconv(graph, tiles, unit="tiles")


def tiles(graph: Graph, layer: HetConv) -> dict[Form, float]:
    """What the grouped and the dense form of `layer` cost on AMX, in tiles of 64 output channels."""
    outputs, inputs = graph.shape(layer.pointwise.inputs[1])[:2]
    taps = prod(graph.shape(layer.grouped.inputs[1])[2:])
    positions = prod(graph.shape(layer.sum.output)[2:])
    in_groups = layer.part * _tiles(outputs // layer.part, inputs // layer.part, taps)
    return {
        "grouped": positions * (in_groups + _tiles(outputs, inputs, 1)),
        "dense": positions * _tiles(outputs, inputs, taps),
    }


def _tiles(outputs: int, inputs: int, taps: int) -> float:
    return -(-outputs // TILE) * (1 + DEPTH_COST * taps * -(-inputs // TILE))
