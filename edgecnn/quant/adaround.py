"""AdaRound: which of the two nearest codes each weight takes is learned, piece by piece, from a few images.

Rounding to nearest is best for a weight alone, not for the sum it stands in. Here every weight keeps its scale and
chooses between the codes below and above it, so that the piece's output, computed with the codes of all that is before
it, is nearest to that of the float net.

Source: M. Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020 (the relaxation h, the
regulariser, inputs of the quantised net, targets behind the activation); Y. Li et al., BRECQ, ICLR 2021 (by blocks, and
the scales of activations).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgecnn.errors import InputError
from edgecnn.ir import quantized, reference
from edgecnn.ir.graph import Array, Graph, Note, Op, QParams
from edgecnn.quant.fake import Coded, FakeQuantModule
from edgecnn.quant.finish import finished
from edgecnn.quant.learned import Grid
from edgecnn.quant.segments import Segment, segments
from edgecnn.quant.ties import shared_groups

RULE = "adaround"
ZETA, GAMMA = 1.1, -0.1
"""How far the rectified sigmoid is stretched beyond 0 and 1, so that it reaches both."""


@dataclass(frozen=True)
class Settings:
    """How rounding is learned.

    Args:
        unit: `layer` (AdaRound) or `block` (BRECQ).
        steps: of Adam, per piece.
        batch_size: images per step.
        lr: of Adam.
        decided: weight of the regulariser, relative to the error that rounding to nearest makes in the piece.
        warmup: share of the steps without it.
        beta: its exponent, falling from the first to the second.
        scale_lr: of the scales of activations, relative to themselves; 0: they stay.
        memory_mb: the images at hand are cut to so many that what is kept of them fits.
    """

    unit: Literal["layer", "block"] = "block"
    steps: int = 200
    batch_size: int = 32
    lr: float = 3e-2
    decided: float = 5.0
    warmup: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    scale_lr: float = 2e-3
    memory_mb: int = 4096


@dataclass(frozen=True)
class Piece:
    """What was learned of one piece.

    Args:
        output: its output.
        weights: how many it has, and `moved`: how many of them changed their code.
        moved: see `weights`.
        before: mean squared error of its output on all images, relative to the power of the target, with the codes that
            it had; likewise `error` as learned.
        error: see `before`.
    """

    output: str
    weights: int
    moved: int
    before: float
    error: float


Progress = Callable[[int, int, Piece], None]


def reconstruct(
    float_graph: Graph,
    graph: Graph,
    images: Iterable[Array],
    *,
    settings: Settings = Settings(),
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Graph, list[Note]]:
    """`graph` with weights moved onto the codes that were chosen: `Value.codes` of each weight gives them.

    A piece whose error did not fall keeps the codes it has.

    Args:
        float_graph: the same net in real numbers, whose weights are rounded: the ops have the same names.
        graph: from `quant.assign`, or changed since.
        images: batches, float32 (N, C, H, W).
        settings: how.
        seed: of the draws of images.
        progress: called after each piece with its number, their number and what was learned.

    Returns:
        The graph, and a note for each piece with weights.

    Raises:
        InputError: there is no image, or the graph has no parameters.
    """
    run = _Run(float_graph, graph, _at_hand(images, graph, settings), settings, seed)
    pieces = segments(graph, settings.unit)
    notes = []
    for number, piece in enumerate(pieces):
        learned = run.step(piece)
        if learned is None:
            continue
        why = f"{learned.moved:,} of {learned.weights:,} weights changed their code"
        gained = 10 * np.log10(learned.before / learned.error) if learned.error > 0 else 0.0
        notes.append(Note(RULE, learned.output, learned.moved > 0, f"{why}: {gained:.1f} dB less noise"))
        if progress:
            progress(number + 1, len(pieces), learned)
    return run.graph, notes


def _at_hand(images: Iterable[Array], graph: Graph, settings: Settings) -> Array:
    """The images in one array, as many as memory allows for: of each, the widest values in real numbers and codes."""
    if all(value.q is None for value in graph.values.values()):
        raise InputError("the graph has no quantisation parameters", where=graph.name, do="assign first")
    sizes = sorted(int(np.prod(graph.shape(op.output)[1:])) for op in graph.ops)
    # A target in float32, what a residual keeps, and their codes: three values in flight, 6 bytes a number.
    most = max(1, int(settings.memory_mb * 2**20 / (6 * sum(sizes[-3:]))))
    kept: list[Array] = []
    for batch in images:
        kept.append(batch[: most - sum(map(len, kept))])
        if sum(map(len, kept)) >= most:
            break
    if not kept:
        raise InputError("there are no images to learn from", where=graph.name, do="give a folder with images")
    return np.concatenate(kept)


class _Run:
    """What is alive while pieces are learned in order: the float net's values, and the codes of the quantised one."""

    def __init__(self, float_graph: Graph, graph: Graph, images: Array, settings: Settings, seed: int) -> None:
        self.float_graph, self.graph, self.settings = float_graph, graph, settings
        self.draw = np.random.default_rng(seed)
        name, q = graph.inputs[0], graph.value(graph.inputs[0]).q
        self.real: dict[str, Array] = {name: images}
        self.codes: dict[str, Array] = {name: images if q is None else q.quantize(images)}
        self.last = {n: op.output for op in graph.ops for n in op.inputs}

    def step(self, piece: Segment) -> Piece | None:
        """Learns one piece, and goes over it in both nets."""
        target = self._float(piece)
        learned = self._learn(piece, target) if any(_is_coded(self.graph, op) for op in piece.layers) else None
        self._integers(piece)
        return learned

    def _learn(self, piece: Segment, target: Array) -> Piece | None:
        graph = piece.graph(self.graph)
        whole = [group for group in shared_groups(self.graph) if graph.values.keys() >= set(group.values)]
        own = {name for group in whole for name in group.values} if self.settings.scale_lr else set()
        floats = {
            op.inputs[1]: self.float_graph.const(self.float_graph.makers[op.output].inputs[1]) for op in piece.layers
        }
        module = SoftRounding(graph, floats, scales_of=own)
        inputs = [(self.codes[name], graph.value(name).q) for name in piece.inputs]
        before = _error(FakeQuantModule(graph), inputs, target)
        if before == 0.0:
            return None
        _optimise(module, inputs, target, before, self.settings, self.draw)
        error = _error(module, inputs, target)
        power = max(float(np.mean(np.square(target, dtype=np.float64))), 1e-30)
        if error >= before:
            return Piece(piece.output, module.weights, 0, before / power, before / power)
        edit, moved = self.graph.edit(), 0
        for name, codes in module.chosen().items():
            value = self.graph.value(name)
            assert value.q is not None  # it is rounded
            moved += int(np.count_nonzero(codes != value.codes))
            edit.values[name] = replace(value, data=value.q.dequantize(codes))
        self.graph = finished(edit.finish(), module.scales())
        return Piece(piece.output, module.weights, moved, before / power, error / power)

    def _float(self, piece: Segment) -> Array:
        """The float net over the piece; what it makes."""
        made = {op.output: self.float_graph.makers[op.output] for op in piece.ops}
        for op in made.values():
            self.real[op.output] = self._batched(
                lambda *x, op=op: _reference(self.float_graph, op, x), [self.real[n] for n in self._read(op)]
            )
            self._forget(self.real, op, keep=piece.output)
        return self.real[piece.output]

    def _integers(self, piece: Segment) -> None:
        """The quantised net over the piece, with what was learned."""
        for op in piece.ops:
            self.codes[op.output] = self._batched(
                lambda *x, op=op: _integers(self.graph, op, x), [self.codes[n] for n in self._read(op)]
            )
            self._forget(self.codes, op, keep=piece.output)

    def _read(self, op: Op) -> list[str]:
        return list(dict.fromkeys(self.graph.activations(op)))

    def _batched(self, compute: Callable[..., Array], operands: list[Array]) -> Array:
        size = self.settings.batch_size
        return np.concatenate(
            [compute(*(o[at : at + size] for o in operands)) for at in range(0, len(operands[0]), size)]
        )

    def _forget(self, live: dict[str, Array], op: Op, *, keep: str) -> None:
        for name in set(op.inputs):
            if self.last[name] == op.output and name != keep and name not in self.graph.outputs:
                live.pop(name, None)


def _is_coded(graph: Graph, op: Op) -> bool:
    return graph.value(op.inputs[1]).is_const and graph.value(op.inputs[1]).q is not None


def _reference(graph: Graph, op: Op, activations: tuple[Array, ...]) -> Array:
    live = dict(zip(dict.fromkeys(graph.activations(op)), activations, strict=True))
    with torch.inference_mode():
        operands = [torch.from_numpy(live[n] if n in live else graph.const(n)) for n in op.inputs]
        y: Array = reference.apply(op, operands).numpy()
    return y


def _integers(graph: Graph, op: Op, activations: tuple[Array, ...]) -> Array:
    live = dict(zip(dict.fromkeys(graph.activations(op)), activations, strict=True))
    return quantized.apply_codes(
        graph, op, [live[n] if n in live else quantized.stored(graph.value(n)) for n in op.inputs]
    )


Inputs = list[tuple[Array, QParams | None]]


def _real_batch(inputs: Inputs, chosen: Any) -> list[Tensor]:
    return [torch.from_numpy(x[chosen] if q is None else q.dequantize(x[chosen])) for x, q in inputs]


def _optimise(
    module: SoftRounding, inputs: Inputs, target: Array, before: float, settings: Settings, draw: np.random.Generator
) -> None:
    """Moves the rounding variables of `module`; its output's error and their indecision fall."""
    groups = [{"params": list(module.rounding.parameters()), "lr": settings.lr}]
    ratios = [part.ratio for part in module.free.values() if part.ratio is not None]
    if ratios:
        groups.append({"params": ratios, "lr": settings.scale_lr})
    optimizer = torch.optim.Adam(groups)
    warm = int(settings.warmup * settings.steps)
    first, final = settings.beta
    size = min(settings.batch_size, len(target))
    module.soft = True
    for step in range(settings.steps):
        chosen = draw.choice(len(target), size, replace=False)
        error = (module(*_real_batch(inputs, chosen)) - torch.from_numpy(target[chosen])).square().mean() / before
        if step >= warm:
            # Cosine, as in the authors' code: the exponent is high, and pulls only who is nearly decided, for long.
            share = (step - warm) / max(settings.steps - warm, 1)
            beta = final + 0.5 * (first - final) * (1 + np.cos(np.pi * share))
            error = error + settings.decided * module.indecision(float(beta))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        for group in optimizer.param_groups[1:]:
            group["lr"] = settings.scale_lr * 0.5 * (1 + np.cos(np.pi * (step + 1) / settings.steps))
    module.soft = False


@torch.no_grad()
def _error(module: FakeQuantModule, inputs: Inputs, target: Array, size: int = 64) -> float:
    """Mean squared error of the module's output on all images, weights rounded hard."""
    total = 0.0
    for at in range(0, len(target), size):
        chosen = slice(at, at + size)
        off = module(*_real_batch(inputs, chosen)) - torch.from_numpy(target[chosen])
        total += float(off.double().square().sum())
    return total / target.size


class SoftRounding(FakeQuantModule):
    """A quantised graph whose weights stand between two codes, as far as each is decided.

    Only the rounding variables can be trained, and some scales of activations. With `soft` False every weight has the
    code it is nearer to.

    Args:
        graph: with parameters on its values.
        floats: the weights in real numbers, by name; the graph's own where they are missing.
        scales_of: the activations whose scales are learned too, unless they are rigid (`quant.learned.is_rigid`).
    """

    def __init__(
        self, graph: Graph, floats: Mapping[str, Array] | None = None, *, scales_of: Collection[str] = ()
    ) -> None:
        super().__init__(graph)
        self.requires_grad_(False)
        keys = {self._learned_of[name] for name in scales_of if not graph.value(name).is_const}
        self.free = {key: self.learned[key].requires_grad_() for key in sorted(keys)}
        self.soft = False
        self.rounding = nn.ParameterDict()
        self._below: dict[str, Tensor] = {}
        for op in graph.ops:
            if op.kind in ("conv", "linear") and _is_coded(graph, op):
                name = op.inputs[1]
                q = graph.value(name).q
                assert q is not None  # `_is_coded`
                real = (floats or {}).get(name, graph.const(name))
                scale, _ = q.spread(real.ndim)
                steps = np.clip(real.astype(np.float64) / scale, q.qmin, q.qmax)
                below = np.floor(steps)
                self._below[name] = torch.from_numpy(below.astype(np.float32))
                # h of this is what is left of the weight, so that the soft weight begins as the float one.
                share = (torch.from_numpy((steps - below).astype(np.float32)) - GAMMA) / (ZETA - GAMMA)
                self.rounding[_key(name)] = nn.Parameter(torch.logit(share))

    def scales(self) -> dict[str, QParams]:
        """The parameters of the activations whose scales are learned."""
        q = {key: part.grid().q for key, part in self.free.items()}
        return {name: q[key] for name, key in self._learned_of.items() if key in q}

    @property
    def weights(self) -> int:
        """How many weights are rounded."""
        return sum(below.numel() for below in self._below.values())

    def up(self, name: str) -> Tensor:
        """How far each weight of the constant `name` is on its way to the code above: 0 to 1."""
        variable: Tensor = self.rounding[_key(name)]
        h = (torch.sigmoid(variable) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
        # Halves go to the even code, as everywhere.
        return h if self.soft else (self._below[name] + h).round() - self._below[name]

    def indecision(self, beta: float) -> Tensor:
        """0 if every weight is on a code, 1 if all are half-way; the mean over weights."""
        total = sum((1 - (2 * self.up(name) - 1).abs().pow(beta)).sum() for name in self._below)
        assert isinstance(total, Tensor)  # a segment that is learned has weights
        return total / self.weights

    def chosen(self) -> Mapping[str, Array]:
        """The codes of each weight, int8."""
        with torch.no_grad():
            return {name: self._codes(name).numpy().astype(np.int8) for name in self._below}

    def _codes(self, name: str) -> Tensor:
        q = self.graph.value(name).q
        assert q is not None  # it is rounded
        return (self._below[name] + self.up(name)).clamp(q.qmin, q.qmax)

    def _constant(
        self, op: Op, name: str, live: Mapping[str, Tensor | Coded], grid_of: Mapping[str, Grid]
    ) -> Tensor | Coded:
        if name in self._below:
            return Coded(self._codes(name), grid_of[name])
        return super()._constant(op, name, live, grid_of)


def _key(name: str) -> str:
    return name.replace(".", "/")
