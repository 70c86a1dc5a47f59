"""The rungs of quantisation without loss, each a step from one quantised graph to a better one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgecnn.data import Dataset
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.module import GraphModule
from edgecnn.pipeline.costs import float_costs
from edgecnn.quant.adaround import Settings, reconstruct
from edgecnn.quant.assign import assign
from edgecnn.quant.bias import correct_bias
from edgecnn.quant.choose import choose
from edgecnn.quant.equalize import channel_reach, equalize
from edgecnn.quant.measure import measure
from edgecnn.quant.mixed import spend
from edgecnn.quant.ranges import Ranges
from edgecnn.quant.scheme import Scheme
from edgecnn.quant.segments import Unit
from edgecnn.quant.simulate import Simulation, decibels, float_constants, lost
from edgecnn.targets.target import Cpu, Target
from edgecnn.train.qat import QAT, quantization_aware

BATCH = 16
FLOAT_SHARE = 0.1
"""Of the time that the ops of a net take, what computing some of them in float may add."""


@dataclass(frozen=True)
class State:
    """Where the ladder stands.

    Args:
        graph: the net in real numbers, rewritten for the target.
        ranges: measured on it.
        coded: the net with parameters; its constants may differ from those of `graph`.
        said: what the last rung did, in a line.
    """

    graph: Graph
    ranges: Ranges
    coded: Graph
    said: str = ""


@dataclass(frozen=True)
class Tools:
    """What rungs work with.

    Args:
        scheme: the rules of the runtime.
        dataset: training images to calibrate on; the evaluation split is not touched.
        images: how many of them give ranges and means.
        probes: how many of them are run for each trial of a parameter.
        estimator: of the first rung.
        target: what the net is for, and `cpu` its core.
        cpu: see `target`.
    """

    scheme: Scheme
    dataset: Dataset
    images: int
    probes: int
    estimator: str
    target: Target
    cpu: Cpu

    def calibration(self) -> Iterator[Array]:
        """Batches of the images that give ranges."""
        return (x for x, _ in self.dataset.batches(BATCH, split="calibration", limit=self.images))

    def some(self, count: int) -> Array:
        """The first `count` of them, in one array."""
        limit = min(count, self.images)
        return np.concatenate([x for x, _ in self.dataset.batches(BATCH, split="calibration", limit=limit)])

    def unseen(self) -> Array:
        """Training images that no rung has seen, where there are enough; else those that were calibrated on."""
        limit = self.images + self.probes
        more = [x for x, _ in self.dataset.batches(BATCH, split="calibration", limit=limit)]
        return np.concatenate(more)[-self.probes :]


@dataclass(frozen=True)
class Rung:
    """One step.

    Args:
        name: for `--to` and tables.
        does: what it does, in a few words.
        climb: from a state to the next.
    """

    name: str
    does: str
    climb: Callable[[State, Tools], State]


def first_state(graph: Graph, tools: Tools) -> State:
    """The lowest rung: ranges by one estimator, weights per channel."""
    ranges = measure(graph, tools.calibration())
    coded, _ = assign(graph, ranges, tools.scheme, estimator=tools.estimator)
    return State(graph, ranges, coded, f"ranges by {tools.estimator}")


def _ranges(state: State, tools: Tools) -> State:
    return state


def _choose(state: State, tools: Tools) -> State:
    found = choose(state.graph, state.ranges, tools.scheme, tools.some(tools.probes))
    others = sum(name != found.best_single for name in found.estimators.values())
    said = f"{found.best_single}, and another estimator for {others} of {len(found.estimators)} values"
    return replace(state, coded=found.graph, said=said)


def _bias(state: State, tools: Tools) -> State:
    coded, notes = correct_bias(state.graph, state.coded, tools.some(_whole(state.graph, tools.images)))
    return replace(state, coded=coded, said=f"the means of {len(notes)} layers")


def _equalize(state: State, tools: Tools) -> State:
    even, notes = equalize(state.graph, channel_reach(state.graph, tools.calibration()))
    if not notes:
        return replace(state, said="nothing to equalise: no activation between two layers allows it")
    ranges = measure(even, tools.calibration())
    found = _choose(State(even, ranges, even), tools)
    return replace(_bias(found, tools), said=f"the channels of {len(notes)} activations")


def _round(unit: Unit) -> Callable[[State, Tools], State]:
    def climb(state: State, tools: Tools) -> State:
        coded, notes = reconstruct(
            state.graph, state.coded, tools.calibration(), settings=Settings(unit=unit), seed=tools.dataset.seed
        )
        better = sum(note.did for note in notes)
        # Weights that were rounded for what a layer makes of its noisy input have taken other means.
        coded, _ = correct_bias(state.graph, coded, tools.some(_whole(state.graph, tools.images)))
        return replace(state, coded=coded, said=f"the weights of {better} of {len(notes)} {unit}s chose anew")

    return climb


def _mix(state: State, tools: Tools) -> State:
    costs = float_costs(tools.target, tools.cpu, state.graph, state.coded)
    budget_us = FLOAT_SHARE * sum(costs.coded_us.values())
    found = spend(
        state.graph,
        state.coded,
        tools.some(tools.probes),
        costs.extra_us,
        budget_us=budget_us,
        lone=tools.target.runtime != "ort",
    )
    if not found.ops:
        return replace(state, said=f"no op in float buys anything for {100 * FLOAT_SHARE:.0f} % more time")
    names = ", ".join(found.ops[:3]) + (f" and {len(found.ops) - 3} more" if len(found.ops) > 3 else "")
    share = 100 * found.extra_us / sum(costs.coded_us.values())
    gained = 10 * np.log10(found.before / found.after)
    return replace(state, coded=found.graph, said=f"{names} in float: {gained:.1f} dB for {share:.1f} % more time")


def _train(state: State, tools: Tools) -> State:
    data = tools.dataset
    if data.split_of("calibration") == data.split_of("evaluation"):
        return replace(state, said="no training images besides those that accuracy is measured on")
    trained = quantization_aware(
        state.coded, data, settings=QAT, teacher=GraphModule(state.graph).eval(), seed=data.seed
    )
    return replace(state, coded=trained.graph, said=f"{QAT.epochs} epochs, taught by the net in float")


def _whole(graph: Graph, images: int) -> int:
    """How many images can be in memory at once: the widest activations of the net below 2**28 numbers."""
    widest = max(int(np.prod(graph.shape(op.output)[1:])) for op in graph.ops)
    return max(8, min(images, 2**28 // widest))


RUNGS: tuple[Rung, ...] = (
    Rung("ranges", "per-channel weights, one range estimator", _ranges),
    Rung("choose", "the range estimator of each value by the error of the output", _choose),
    Rung("bias", "bias correction", _bias),
    Rung("equalize", "cross-layer equalisation, then estimators and biases again", _equalize),
    Rung("adaround", "weights rounded for the output of their layer (AdaRound)", _round("layer")),
    Rung("blocks", "weights rounded for the output of their block, with its scales (BRECQ)", _round("block")),
    Rung("mixed", f"ops in float that buy most, for at most {100 * FLOAT_SHARE:.0f} % more time", _mix),
    Rung("qat", "training with the codes, weights and scales", _train),
)


def signal(state: State, graph: Graph, images: Array) -> float:
    """Signal to noise of the quantised net's output in dB, against the net `graph` in real numbers."""
    wanted = Simulation(graph, float_constants(graph)).run(images, {})
    return decibels(lost(Simulation(state.coded).run(images), wanted))


def same_function(before: Graph, after: Graph, images: Array) -> float:
    """Signal to noise between two float graphs, in dB, computed in float32."""
    with torch.inference_mode():
        wanted, got = (GraphModule(g).eval()(torch.from_numpy(images)) for g in (before, after))
    return decibels(lost(got, wanted))
