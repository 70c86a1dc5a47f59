"""A per-channel map y = scale * x + shift, and how it moves into a convolution or linear layer.

With a layer W x + b (W rows are output channels, W columns input channels):

    after it:   scale * (W x + b) + shift  =  (scale W) x + (scale b + shift)
    before it:  W (scale x + shift) + b    =  (W scale) x + (W shift + b)

The first always holds. The second needs a layer without padding: at a border the layer sees zeros, not `shift`.
Everything is computed in float64 and rounded once to the float32 of constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgecnn.ir.graph import Array, Editor, Graph, Op, Source, Value
from edgecnn.ir.ops import NO_CLIP, Clip, attrs_of
from edgecnn.passes import clips

LAYERS = frozenset({"conv", "deform_conv", "linear"})
"""Kinds that have a weight and a bias, so that an affine map can move into them."""


class Refused(Exception):
    """A rewrite does not apply at a place; the text says why and becomes a note."""


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift, both float64 with one entry per channel."""

    scale: Array
    shift: Array

    @staticmethod
    def of_batch_norm(graph: Graph, op: Op) -> Affine:
        """The map of a `batch_norm` in eval mode: gamma / sqrt(var + eps), beta - mean * scale."""
        gamma, beta, mean, var = (graph.const(name).astype(np.float64) for name in op.inputs[1:])
        scale = gamma / np.sqrt(var + attrs_of(op)["eps"])
        return Affine(scale, beta - mean * scale)

    @staticmethod
    def of_arithmetic(graph: Graph, op: Op) -> Affine:
        """The map of an `add`, `sub` or `mul` of a value and a constant, without its fused activation.

        Raises:
            Refused: no operand or both are constant, or the constant is not one number per channel.
        """
        constants = [i for i in op.inputs if graph.value(i).is_const]
        if len(constants) != 1:
            raise Refused(f"`{op.output}` has {len(constants)} constant operands")
        constant = constants[0]
        source = next(i for i in op.inputs if i != constant)
        shape = graph.shape(source)
        if graph.shape(op.output) != shape or len(shape) < 2:
            raise Refused(f"the constant `{constant}` widens `{source}`")
        data = graph.const(constant).astype(np.float64)
        data = data.reshape((1,) * (len(shape) - data.ndim) + data.shape)
        if data.size != data.shape[1]:
            raise Refused(f"the constant `{constant}` is not one number per channel")
        number = np.broadcast_to(data.ravel(), shape[1:2])
        one, zero = np.ones(shape[1]), np.zeros(shape[1])
        if op.kind == "mul":
            return Affine(number, zero)
        if op.kind == "add":
            return Affine(one, number)
        return Affine(one, -number) if op.inputs[0] == source else Affine(-one, number)

    @staticmethod
    def uniform(channels: int, *, scale: float = 1.0, shift: float = 0.0) -> Affine:
        """The same scale and shift for every channel."""
        return Affine(np.full(channels, scale), np.full(channels, shift))

    @property
    def channels(self) -> int:
        """The number of channels."""
        return len(self.scale)

    @property
    def without_shift(self) -> Affine:
        """The scale alone."""
        return Affine(self.scale, np.zeros_like(self.shift))

    def then(self, later: Affine) -> Affine:
        """This map and `later` on what it gives, as one."""
        return Affine(later.scale * self.scale, later.scale * self.shift + later.shift)

    @property
    def positive_factor(self) -> float | None:
        """The number that the map multiplies with, if it does nothing else and the number is positive."""
        first = float(self.scale[0])
        return first if first > 0 and np.all(self.scale == first) and not np.any(self.shift) else None

    def before_shuffle(self, groups: int) -> Affine:
        """This map on what a `channel_shuffle` gives, as the same map on what it reads."""
        order = np.arange(self.channels).reshape(groups, -1).T.ravel()  # output channel i is input channel order[i]
        places = np.argsort(order)
        return Affine(self.scale[places], self.shift[places])

    def part(self, start: int, stop: int) -> Affine:
        """The map of the channels from `start` up to `stop`."""
        return Affine(self.scale[start:stop], self.shift[start:stop])


def absorb(edit: Editor, earlier: Op, later: Op) -> Op:
    """Removes `later` and gives its name to `earlier`, whose only reader it was; returns the renamed op."""
    renamed = replace(earlier, output=later.output)
    edit.remove(later)
    edit.swap(earlier, renamed)
    return renamed


def fold_after(edit: Editor, layer: Op, affine: Affine) -> Op:
    """Moves a map that follows `layer` into its weight and bias; a fused activation is scaled along.

    The layer gets constants of its own, so another call of the same weight is left as it is.
    """
    weight = _float64(edit, layer.inputs[1])
    scaled = weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    folded = _with_constants(edit, layer, scaled, _bias(edit, layer) * affine.scale + affine.shift)
    clip = attrs_of(layer)["clip"]
    if clip == NO_CLIP:
        return folded
    if affine.positive_factor is None:
        raise Refused(f"`{layer.output}` has an activation of its own, {clip}")
    return set_clip(edit, folded, clips.scale(clip, affine.positive_factor))


def fold_before(edit: Editor, layer: Op, affine: Affine) -> Op:
    """Moves a map that precedes `layer` into its weight and bias; exact only where the layer does not pad.

    Args:
        edit: the graph under change.
        layer: a `conv` with any groups, or a `linear` over channels.
        affine: the map, with one entry per input channel.
    """
    weight = _float64(edit, layer.inputs[1])
    rows, columns = weight.shape[:2]
    # The rows of group g see the input channels g * columns ... (g + 1) * columns - 1.
    groups = attrs_of(layer).get("groups", 1)
    taps = weight.reshape(groups, rows // groups, columns, -1)
    scale, shift = (entries.reshape(groups, 1, columns) for entries in (affine.scale, affine.shift))
    offset = (taps.sum(-1) * shift).sum(-1).reshape(rows)
    return _with_constants(edit, layer, (taps * scale[..., None]).reshape(weight.shape), _bias(edit, layer) + offset)


def set_clip(edit: Editor, op: Op, clip: Clip) -> Op:
    """Sets the fused activation of `op`; returns the new op."""
    clipped = op.with_attrs(clip=clip)
    edit.swap(op, clipped)
    return clipped


def depthwise(edit: Editor, affine: Affine, *, source: str, output: str, origin: Source) -> Op:
    """A depthwise 1x1 convolution that computes `affine` on `source`; the caller puts it into the graph."""
    weight = edit.const(f"{output}_weight", affine.scale.reshape(-1, 1, 1, 1))
    bias = edit.const(f"{output}_bias", affine.shift)
    return Op("conv", (source, weight, bias), output, {"groups": affine.channels}, origin)


def layers_behind(graph: Graph, name: str, affine: Affine, *, reader: Op) -> list[tuple[Op, Affine]]:
    """The layers into which a map applied to `name` can move, each with its share of the map.

    The map moves through a sum (both branches are scaled, the first alone is shifted), through a concatenation of
    channels (each part takes its channels) and through a channel shuffle.

    Args:
        graph: the graph.
        name: the value that `reader` maps.
        affine: the map.
        reader: the op that applies the map; nothing else may read `name` or the values behind it.

    Raises:
        Refused: some value on the way is needed as it is.
    """
    op = graph.makers.get(name)
    if op is None:
        raise Refused(f"`{name}` is {'a constant' if graph.value(name).is_const else 'an input of the graph'}")
    sole_reader(graph, name, reader)
    clip = attrs_of(op).get("clip", NO_CLIP)
    if op.kind in LAYERS:
        if clip != NO_CLIP and affine.positive_factor is None:
            raise Refused(f"`{name}` has an activation of its own, {clip}")
        if op.kind == "linear" and len(graph.shape(name)) != 2:
            raise Refused(f"`{name}` is a linear layer over its last axis, not over channels")
        return [(op, affine)]
    if op.kind in ("add", "sub") and clip == NO_CLIP:
        first, second = op.inputs
        if first == second or any(graph.shape(i)[1:2] != (affine.channels,) for i in op.inputs):
            raise Refused(f"the operands of `{name}` are not two branches of {affine.channels} channels")
        rest = affine.without_shift
        return [*layers_behind(graph, first, affine, reader=op), *layers_behind(graph, second, rest, reader=op)]
    if op.kind == "concat" and op.attrs["axis"] == 1:
        if len(set(op.inputs)) != len(op.inputs):
            raise Refused(f"`{name}` reads one value twice")
        return _layers_of_parts(graph, op, affine)
    if op.kind == "channel_shuffle":
        return layers_behind(graph, op.inputs[0], affine.before_shuffle(op.attrs["groups"]), reader=op)
    raise Refused(f"`{name}` is made by {op.kind}" + (" with an activation" if clip != NO_CLIP else ""))


def sole_reader(graph: Graph, name: str, reader: Op) -> None:
    """Checks that nothing but `reader` needs the value `name`.

    Raises:
        Refused: another op reads it, or it is an output of the graph.
    """
    if name in graph.outputs:
        raise Refused(f"`{name}` is an output of the graph")
    if others := [u.output for u in graph.users[name] if u.output != reader.output]:
        raise Refused(f"`{name}` is also read by " + ", ".join(f"`{o}`" for o in others))


def _layers_of_parts(graph: Graph, concat: Op, affine: Affine) -> list[tuple[Op, Affine]]:
    found, start = [], 0
    for name in concat.inputs:
        stop = start + graph.shape(name)[1]
        found += layers_behind(graph, name, affine.part(start, stop), reader=concat)
        start = stop
    return found


def _float64(edit: Editor, name: str) -> Array:
    data = edit.values[name].data
    if data is None:
        raise Refused(f"the weight `{name}` is computed by the graph")
    return data.astype(np.float64)


def _bias(edit: Editor, layer: Op) -> Array:
    if len(layer.inputs) > 2:
        return _float64(edit, layer.inputs[2])
    return np.zeros(edit.values[layer.inputs[1]].shape[0])


def _with_constants(edit: Editor, layer: Op, weight: Array, bias: Array) -> Op:
    source, old_weight, *rest = layer.inputs
    inputs = [source, own_constant(edit, old_weight, weight)]
    if rest:
        inputs += [own_constant(edit, rest[0], bias), *rest[1:]]  # a deformable one has offsets behind its bias
    elif np.any(bias):
        inputs.append(edit.const(old_weight.removesuffix("weight").rstrip("_.") + "_bias", bias))
    changed = replace(layer, inputs=tuple(inputs))
    edit.swap(layer, changed)
    return changed


def own_constant(edit: Editor, name: str, data: Array) -> str:
    """Stores `data` under `name` if one op alone reads it there, else under a fresh name."""
    if sum(op.inputs.count(name) for op in edit.ops) > 1:
        return edit.const(name, data)
    with np.errstate(over="ignore"):  # what overflows is found, with the layer's name, when ranges are measured
        array = np.ascontiguousarray(data, np.float32)
    edit.values[name] = Value(name, array.shape, array)
    return name
