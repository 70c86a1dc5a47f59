"""The graph as a trainable PyTorch module: the reference semantics with autograd.

Fine-tuning after pruning, distillation and quantisation-aware training work on any graph in this way, whatever net it
came from.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.ops import attrs_of
from edgecnn.ir.reference import apply

_TRAINABLE = {"conv": (1, 2), "deform_conv": (1, 2), "linear": (1, 2), "batch_norm": (1, 2)}
"""Which inputs of a kind are parameters; all other constants are buffers (running statistics, fixed factors)."""


class GraphModule(nn.Module):
    """Runs a graph and trains its weights; `to_graph` writes them back.

    In train mode `batch_norm` normalises by the batch and updates its running statistics as `nn.BatchNorm2d` does; in
    eval mode every op is that of `ir.reference`. A constant that several ops read is one parameter.

    Args:
        graph: any graph; its arrays are copied. Quantisation parameters are kept but have no effect.
        momentum: of the running statistics.

    Shapes:
        One tensor per input of the graph to one tensor, or a tuple if the graph has several outputs.
    """

    def __init__(self, graph: Graph, *, momentum: float = 0.1) -> None:
        super().__init__()
        self.graph = graph
        self.momentum = momentum
        trained = {op.inputs[i] for op in graph.ops for i in _TRAINABLE.get(op.kind, ()) if i < len(op.inputs)}
        for value in graph.values.values():
            if value.data is None:
                continue
            tensor = torch.tensor(value.data)
            if value.name in trained:
                self.register_parameter(_attribute(value.name), nn.Parameter(tensor))
            else:
                self.register_buffer(_attribute(value.name), tensor)
        self._last_reader = {name: op.output for op in graph.ops for name in op.inputs}

    @property
    def has_batch_norm(self) -> bool:
        """Whether any op computes differently in train mode."""
        return any(op.kind == "batch_norm" for op in self.graph.ops)

    def constant(self, name: str) -> Tensor:
        """The parameter or buffer of the graph's constant `name`."""
        tensor: Tensor = getattr(self, _attribute(name))
        return tensor

    def forward(self, *images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the graph."""
        graph = self.graph
        live = dict(zip(graph.inputs, images, strict=True))
        for op in graph.ops:
            tensors = [live[i] if i in live else self.constant(i) for i in op.inputs]
            live[op.output] = self._apply_op(op, tensors)
            for name in set(op.inputs):
                if self._last_reader[name] == op.output and name not in graph.outputs:
                    live.pop(name, None)
        outputs = tuple(live[name] for name in graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def to_graph(self) -> Graph:
        """The graph with the constants as they are now; names, ops and quantisation parameters are unchanged."""
        values = [
            v
            if v.data is None
            else replace(v, data=self.constant(v.name).detach().cpu().to(torch.float32).numpy().copy())
            for v in self.graph.values.values()
        ]
        return Graph.build(self.graph.name, self.graph.ops, values, self.graph.inputs, self.graph.outputs)

    def _apply_op(self, op: Op, tensors: list[Tensor]) -> Tensor:
        if op.kind == "batch_norm" and self.training:
            x, gamma, beta, mean, var = tensors
            return F.batch_norm(x, mean, var, gamma, beta, True, self.momentum, attrs_of(op)["eps"])
        return apply(op, tensors)


def _attribute(name: str) -> str:
    """The attribute for a constant: without dots, which PyTorch refuses, and never the name of a method."""
    return "const/" + name.replace(".", "/")
