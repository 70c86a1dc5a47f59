"""What a net, bundle or artifact is, layer by layer: shapes, parameters, multiply-adds; why a rewrite left a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgecnn.artifact import Artifact
from edgecnn.coverage import coverage_of
from edgecnn.errors import UsageError
from edgecnn.ir import bundle, text
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph, Note, Op
from edgecnn.ir.ops import macs_of
from edgecnn.nets import NETS, build_net, load_user_net
from edgecnn.nets.auxiliary import drop_auxiliary
from edgecnn.nets.user_net import is_user_net
from edgecnn.passes.hetconv import find_hetconv
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.evaluate import ARTIFACT_SUFFIXES
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import core_named


@dataclass(frozen=True)
class Layer:
    """One op of a graph. `shape` is the output's for one image; `macs` counts convolutions and linear layers."""

    name: str
    kind: str
    module: str
    shape: tuple[int, ...]
    params: int
    macs: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Description:
    """A graph described."""

    net: str
    input_shape: tuple[int, ...]
    params: int
    layers: tuple[Layer, ...]
    graph: Graph
    facts: Mapping[str, Any]
    notes: tuple[Note, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return sum(layer.macs for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        by_kind: dict[str, dict[str, int]] = {}
        for layer in self.layers:
            entry = by_kind.setdefault(layer.kind, {"layers": 0, "params": 0, "macs": 0})
            entry["layers"] += 1
            entry["params"] += layer.params
            entry["macs"] += layer.macs
        return {
            "net": self.net,
            "input": list(self.input_shape),
            "total": {"params": self.params, "macs": self.macs, "layers": len(self.layers)},
            "by_kind": by_kind,
            **self.facts,
            "layers": [layer.to_json() for layer in self.layers],
            "notes": [str(n) for n in self.notes],
        }


def describe(
    spec: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    options: Mapping[str, object] | None = None,
    target: str | None = None,
    cpu: str | None = None,
) -> Description:
    """The graph of a net or bundle, layer by layer; with `target`, as that target rewrites it, with the notes.

    No weights are needed: a net of the zoo is built with fresh ones.

    Raises:
        UsageError: unknown names, or a user's net without an input shape.
        InputError: a damaged bundle.
        UnsupportedOp: a net that cannot be imported.
    """
    graph, params, facts = _graph_of(spec, input_shape, dict(options or {}))
    notes: list[Note] = []
    forms = find_hetconv(graph)
    if target is not None:
        all_targets()
        core = core_named(cpu)
        graph, notes = run_passes(graph, TARGETS[target].passes(core, {}))
        facts = {**facts, "target": target, "cpu": core}
    layers = tuple(
        Layer(op.name, op.kind, op.source.module, graph.shape(op.output)[1:], params_of(graph, op), macs_of(graph, op))
        for op in graph.ops
    )
    if forms:
        facts = {**facts, "hetconv": [str(form) for form in forms]}
    return Description(graph.name, graph.shape(graph.inputs[0])[1:], params, layers, graph, facts, tuple(notes))


def _graph_of(
    spec: str, input_shape: tuple[int, int, int] | None, options: dict[str, object]
) -> tuple[Graph, int, dict[str, Any]]:
    if spec.endswith(".safetensors"):
        graph, provenance = bundle.load(Path(spec))
        return graph, sum(params_of(graph, op) for op in graph.ops), {"provenance": provenance}
    facts: dict[str, Any] = {}
    if spec not in NETS and is_user_net(spec):
        if input_shape is None:
            raise UsageError("the input shape of your own net is not known", where=spec, do="give --input 3x224x224")
        module, name, shape = load_user_net(spec, options), spec.rsplit(":", 1)[-1], input_shape
    else:
        entry = NETS[spec]
        module, name = build_net(spec, seed=0, **options), entry.name
        shape = input_shape or entry.input_for(**options)
        facts = {"source": entry.source, "summary": entry.summary}
    drop_auxiliary(module)
    graph = import_module(module, shape, name=name)
    return graph, sum(p.numel() for p in module.parameters()), facts


def params_of(graph: Graph, op: Op) -> int:
    """Parameters that `op` reads; the running statistics of batch norm are none."""
    constants = [i for i in op.inputs if graph.value(i).is_const]
    if op.kind == "batch_norm":
        constants = constants[:2]
    return sum(prod(graph.shape(c)) for c in constants)


def graph_text(graph: Graph) -> str:
    """The graph in its text form."""
    return text.dumps(graph)


def describe_artifact(path: str) -> dict[str, Any]:
    """What an artifact expects and holds: from the file itself, its manifest, and what the engine makes of it.

    Raises:
        InputError: a missing or damaged file.
    """
    artifact = Artifact.open(path)
    session = open_session(path)
    try:
        content = {
            "artifact": path,
            "size_bytes": artifact.size_bytes,
            "engine": dict(session.engine),
            "inputs": [s.to_json() for s in session.inputs],
            "outputs": [s.to_json() for s in session.outputs],
            "metadata": dict(session.metadata),
        }
    finally:
        session.close()
    content["coverage"] = coverage_of(path).to_json()
    content["manifest"] = artifact.manifest or None
    return content


def is_artifact(spec: str) -> bool:
    """Whether `spec` names a file for a runtime."""
    return spec.endswith(ARTIFACT_SUFFIXES)
