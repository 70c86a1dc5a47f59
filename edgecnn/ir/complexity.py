"""What a graph costs, exactly: parameters, multiply-adds, operations, memory, bytes moved; by layer and by type.

A layer here is an op together with the batch norm and the activation right behind it: every target fuses those, so
they take no memory of their own. Multiply-adds are those of convolutions and linear layers, as the papers count them;
an operation is half a multiply-add. Memory is that of activations as separate buffers, freed after their last reader:
no op works in place, and no allocator's gaps are modelled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecnn.ir.graph import Graph, Op
from edgecnn.ir.ops import attrs_of, macs_of
from edgecnn.ir.receptive import Field, fields

ELEMENT_BYTES = {"float32": 4, "int8": 1}
LAYERS = frozenset({"conv", "linear", "deform_conv"})
FUSABLE = frozenset({"batch_norm", "clip"})
TYPES = {
    "batch_norm": "Batch norm",
    **dict.fromkeys(("max_pool", "avg_pool", "global_pool"), "Pooling"),
    **dict.fromkeys(("add", "sub", "mul"), "Element-wise"),
    **dict.fromkeys(
        ("clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh", "gelu", "softmax"), "Activation"
    ),
    "lrn": "Local response normalisation",
    **dict.fromkeys(("concat", "slice", "channel_shuffle", "pad", "upsample"), "Data movement"),
    **dict.fromkeys(("flatten", "reshape", "transpose"), "Data movement"),
}
"""The layer type of every kind without a kernel."""


@dataclass(frozen=True)
class LayerCost:
    """One layer of a graph; sizes are of one image, in elements.

    Args:
        name: of its first op.
        module: in the user's program.
        type: as in Table 2 of the MobileNetV1 paper: `Conv 1x1`, `Conv DW 3x3`, `Fully connected`, ...
        form: stride, groups and what is fused behind it, in words.
        shape: of its output, without the batch.
        weights: parameters of its kernel.
        biases: parameters of its bias.
        batch_norm_params: scales and shifts of the batch norm behind it; running statistics are no parameters.
        macs: multiply-adds.
        read: activations read.
        written: activations written.
        field: receptive field and stride of its output.
    """

    name: str
    module: str
    type: str
    form: str
    shape: tuple[int, ...]
    weights: int
    biases: int
    batch_norm_params: int
    macs: int
    read: int
    written: int
    field: Field

    @property
    def params(self) -> int:
        """All its parameters."""
        return self.weights + self.biases + self.batch_norm_params

    @property
    def operations(self) -> int:
        """Two per multiply-add."""
        return 2 * self.macs

    @property
    def moved(self) -> int:
        """Elements read and written, parameters of kernel and bias included: the memory access cost."""
        return self.read + self.written + self.weights + self.biases

    @property
    def intensity(self) -> float:
        """Operations per element moved; divide by the bytes of an element."""
        return self.operations / self.moved if self.moved else 0.0


@dataclass(frozen=True)
class TypeShare:
    """All layers of one type."""

    type: str
    layers: int
    weights: int
    macs: int
    macs_share: float
    weights_share: float


@dataclass(frozen=True)
class Complexity:
    """The costs of a graph.

    Args:
        layers: in order.
        activations: elements of all layers' outputs.
        peak: elements that are alive at once, at most: inputs and output of a layer and what later ones still need.
        peak_at: the layer at which that is.
    """

    layers: tuple[LayerCost, ...]
    activations: int
    peak: int
    peak_at: str

    def total(self, what: str) -> int:
        """The sum of an attribute of the layers."""
        return sum(int(getattr(layer, what)) for layer in self.layers)

    def by_type(self) -> list[TypeShare]:
        """The types by their multiply-adds, largest first.

        Shares of parameters are shares of the kernels' weights alone, as in the MobileNetV1 paper's Table 2.
        """
        macs, weights = max(1, self.total("macs")), max(1, self.total("weights"))
        found: list[TypeShare] = []
        for name in dict.fromkeys(layer.type for layer in self.layers):
            own = [layer for layer in self.layers if layer.type == name]
            m, w = sum(x.macs for x in own), sum(x.weights for x in own)
            found.append(TypeShare(name, len(own), w, m, m / macs, w / weights))
        return sorted(found, key=lambda share: (-share.macs, -share.weights, share.type))


def complexity_of(graph: Graph, *, zeros: Iterable[str] = ()) -> Complexity:
    """The costs of a graph.

    Args:
        graph: as imported, or after a target's passes.
        zeros: ops whose weights hold zeros that are no parameters (the 1x1 of a heterogeneous convolution).
    """
    lead = _leaders(graph)
    chains: dict[str, list[Op]] = {}
    for op in graph.ops:
        chains.setdefault(lead[op.output], []).append(op)
    known, counted, masked = fields(graph), set[str](), frozenset(zeros)
    layers = tuple(_layer(graph, chain, known, counted, masked) for chain in chains.values())
    peak, at = _peak(graph, chains)
    return Complexity(layers, sum(layer.written for layer in layers), peak, at)


def _leaders(graph: Graph) -> dict[str, str]:
    """For each op the one it is fused behind, or itself."""
    lead: dict[str, str] = {}
    for op in graph.ops:
        lead[op.output] = op.output
        x = op.inputs[0]
        maker = graph.makers.get(x)
        if op.kind in FUSABLE and maker is not None and graph.only_user(x) is op:
            first = graph.makers[lead[x]]
            if first.kind in LAYERS or (op.kind == "clip" and first.kind in ("add", "sub", "mul", "batch_norm")):
                lead[op.output] = lead[x]
    return lead


def _layer(
    graph: Graph, chain: list[Op], known: dict[str, Field], counted: set[str], masked: frozenset[str]
) -> LayerCost:
    first, last = chain[0], chain[-1]
    weights = biases = norms = 0
    for op in chain:
        constants = [i for i in op.inputs if graph.value(i).is_const and i not in counted]
        counted.update(constants)
        if op.kind == "batch_norm":
            norms += sum(prod(graph.shape(c)) for c in constants if c in op.inputs[1:3])
        elif op.kind in LAYERS:
            kernels = [c for c in constants if len(graph.shape(c)) > 1]
            weights += sum(_stored(graph, c, op.name in masked) for c in kernels)
            biases += sum(_bias(graph, op, c) for c in constants if c not in kernels)
    read = sum(prod(graph.shape(n)[1:]) for n in dict.fromkeys(graph.activations(first)))
    return LayerCost(
        first.name,
        first.source.module,
        layer_type(graph, first),
        _form(chain),
        graph.shape(last.output)[1:],
        weights,
        biases,
        norms,
        sum(macs_of(graph, op) for op in chain),
        read,
        prod(graph.shape(last.output)[1:]),
        known[last.output],
    )


def _stored(graph: Graph, name: str, masked: bool) -> int:
    return int(np.count_nonzero(graph.const(name))) if masked else prod(graph.shape(name))


def _bias(graph: Graph, op: Op, name: str) -> int:
    # The import gives a deformable convolution a bias of zeros where the net has none: the kind always has one.
    idle = op.kind == "deform_conv" and not graph.const(name).any()
    return 0 if idle else prod(graph.shape(name))


def layer_type(graph: Graph, op: Op) -> str:
    """The type of an op, with its kernel where it has one."""
    if op.kind == "linear":
        return "Fully connected"
    if op.kind not in LAYERS:
        return TYPES[op.kind]
    weight = next(i for i in op.inputs if graph.value(i).is_const and len(graph.shape(i)) == 4)
    out, per_group, rows, columns = graph.shape(weight)
    attrs = attrs_of(op)
    groups, dilated = attrs.get("groups", 1), attrs["dilation"] != (1, 1)
    depthwise = groups > 1 and per_group == 1 and out % groups == 0
    name = "Deformable conv" if op.kind == "deform_conv" else "Conv DW" if depthwise else "Conv"
    grouped = " grouped" if groups > 1 and not depthwise else ""
    return f"{name} {rows}x{columns}{grouped}{' dilated' if dilated else ''}"


def _form(chain: list[Op]) -> str:
    attrs = attrs_of(chain[0])
    words = []
    if attrs.get("stride", (1, 1)) != (1, 1):
        words.append("/" + "x".join(map(str, dict.fromkeys(attrs["stride"]))))
    if attrs.get("groups", 1) > 1:
        words.append(f"g{attrs['groups']}")
    if chain[0].kind not in LAYERS:
        words.append(chain[0].kind)
    clips = [a["clip"] for op in chain if (a := attrs_of(op)).get("clip", (None, None)) != (None, None)]
    clips += [(op.attrs["lo"], op.attrs["hi"]) for op in chain[1:] if op.kind == "clip"]
    words += ["BN" for op in chain[1:] if op.kind == "batch_norm"]
    words += [{(0.0, None): "ReLU", (0.0, 6.0): "ReLU6"}.get(bounds, "clip") for bounds in clips]
    return " ".join(words)


def _peak(graph: Graph, chains: dict[str, list[Op]]) -> tuple[int, str]:
    """The most elements alive at once, and the layer at which: its inputs, its output, and what is needed later."""
    order = list(chains.values())
    size = {name: prod(value.shape[1:]) for name, value in graph.values.items() if not value.is_const}
    last: dict[str, int] = {name: len(order) for name in graph.outputs}
    for at, chain in enumerate(order):
        for name in graph.activations(chain[0]):
            last[name] = max(last.get(name, at), at)
    alive, most, where = set(graph.inputs), 0, ""
    for at, chain in enumerate(order):
        alive.add(chain[-1].output)
        now = sum(size[name] for name in alive)
        if now > most:
            most, where = now, chain[0].name
        alive = {name for name in alive if last.get(name, -1) > at}
    return most, where
