"""One op cut out of its graph: what per-op parity feeds to a runtime."""

from __future__ import annotations

from edgecnn.ir.graph import Graph, Op


def cut(graph: Graph, op: Op) -> Graph:
    """A graph of `op` alone, named after it.

    Its activations become the graph's inputs (each once, in the op's order), its constants come along, and every
    value keeps its quantisation parameters.
    """
    inputs = tuple(dict.fromkeys(graph.activations(op)))
    values = [graph.value(name) for name in dict.fromkeys((*op.inputs, op.output))]
    return Graph.build(op.output, [op], values, inputs, (op.output,))
