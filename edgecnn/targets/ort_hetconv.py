"""Which form of a heterogeneous convolution ONNX Runtime computes fastest in int8 on x86: a cost model, and the pass.

The engine has no fast kernel for grouped convolutions, so the choice is between P small ones and one dense one filled
up with zeros. Each convolution has a cost per output pixel whatever its channels (inferred from timings, not traced),
which P convolutions pay P times; where channels are few that outweighs the multiply-adds they save. Measured with
AVX512-VNNI, 4 layers, ms (minima):

    channels, size   P   grouped   split   dense
    256, 28x28       4      3.07    3.16    6.14
    256, 28x28       8      3.01    2.43    5.61
    64, 32x32        4      1.90    1.13    0.73
    64, 32x32        8      1.71    1.52    0.51
"""

from __future__ import annotations

from math import prod

from edgecnn.ir.graph import Graph, Note
from edgecnn.passes.hetconv import Form, HetConv, cheapest_hetconv

MACS_PER_US = {"dense": 300e3, "split": 250e3}
TABLE_US_PER_PIXEL = 0.03
PART_US_PER_PIXEL, PART_US = 0.04, 6.0
"""What each further convolution of the split form costs: its table, its slice, its place in the concat; its start."""


def cost_us(graph: Graph, layer: HetConv) -> dict[Form, float]:
    """The modelled time of the forms of `layer`."""
    pixels = prod(graph.shape(layer.sum.output)[2:])
    return {
        "dense": layer.macs["dense"] / MACS_PER_US["dense"] + pixels * TABLE_US_PER_PIXEL,
        "split": layer.macs["split"] / MACS_PER_US["split"] + layer.part * (pixels * PART_US_PER_PIXEL + PART_US),
    }


def fastest_hetconv(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with each heterogeneous convolution in its fastest form, and a note for each."""
    return cheapest_hetconv(graph, cost_us, unit="us")
