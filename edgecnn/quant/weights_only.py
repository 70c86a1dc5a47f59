"""int8 weights alone: activations stay float, so nothing is measured and no calibration is needed.

Two ways to compute with them, both with one scale per output channel, zero at code 0:

- as they are: the runtime decodes the weights when it loads the file, which is a quarter as large; it runs in float.
- `dynamic`: a layer's input is coded to 8 bits as it runs, from its least to its largest number, and the products are
  integers. Depthwise convolutions have too few products per number to pay for that; they stay float.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecnn.ir.graph import Graph, Note
from edgecnn.ir.ops import attrs_of
from edgecnn.quant.weights import WEIGHT_MAX, own_constants, weight_q

RULE = "weights"
KINDS = ("conv", "linear")


def code_weights(graph: Graph, *, dynamic: bool = False) -> tuple[Graph, list[Note]]:
    """`graph` with int8 parameters on the weights of its convolutions and linear layers, and a note for each.

    Args:
        graph: a float graph after its target's rewrites.
        dynamic: mark the layers whose input shall be coded as they run.
    """
    graph = own_constants(graph, frozenset())
    edit, notes = graph.edit(), list[Note]()
    for op in graph.ops:
        if op.kind not in KINDS or not graph.value(op.inputs[1]).is_const:
            continue
        weight = graph.const(op.inputs[1])
        edit.set_q(op.inputs[1], weight_q(weight, None, 1.0, 1.0, WEIGHT_MAX))
        depthwise = op.kind == "conv" and weight.shape[1] == 1 and attrs_of(op)["groups"] > 1
        codes_input = dynamic and not depthwise
        if codes_input:
            edit.swap(op, replace(op, attrs={**op.attrs, "dynamic": True}))
        size = int(np.prod(weight.shape))
        notes.append(Note(RULE, op.name, True, f"{size:,} weights{', input coded as it runs' if codes_input else ''}"))
    return edit.finish(), notes
