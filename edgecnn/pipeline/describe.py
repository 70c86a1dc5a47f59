"""What a net, bundle or artifact is: its layers with all they cost; why a rewrite left a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from edgecnn.artifact import Artifact
from edgecnn.coverage import coverage_of
from edgecnn.errors import UnsupportedOp, UsageError
from edgecnn.ir import bundle, text
from edgecnn.ir.complexity import ELEMENT_BYTES, Complexity, LayerCost, complexity_of
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph, Note
from edgecnn.nets import NETS, build_net, load_user_net
from edgecnn.nets.auxiliary import drop_auxiliary
from edgecnn.nets.user_net import is_user_net
from edgecnn.passes.hetconv import find_hetconv
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.evaluate import ARTIFACT_SUFFIXES
from edgecnn.pipeline.source import macs_total
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import Cpu, core_named


@dataclass(frozen=True)
class Description:
    """A graph described.

    Args:
        net: its name.
        input_shape: (C, H, W).
        params: of the net as deployed: what its module holds, or a bundle's constants.
        complexity: the layers and their costs.
        executed: multiply-adds of one image as each target executes them, on `cpu`; None where a target refuses.
        graph: what `complexity` is of: as imported, or as `facts["target"]` rewrites it.
        facts: source, summary, target, core, forms of heterogeneous convolutions, what deployment leaves out.
        notes: of the rewrites.
    """

    net: str
    input_shape: tuple[int, ...]
    params: int
    complexity: Complexity
    executed: Mapping[str, int | None]
    graph: Graph
    facts: Mapping[str, Any]
    notes: tuple[Note, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.complexity.total("macs")

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "net": self.net,
            "input": list(self.input_shape),
            "total": self.totals(),
            "executed_macs": dict(self.executed),
            "by_type": [vars(share) for share in self.complexity.by_type()],
            **self.facts,
            "layers": [_layer_json(layer) for layer in self.complexity.layers],
            "notes": [str(n) for n in self.notes],
        }

    def totals(self) -> dict[str, Any]:
        """The sums over all layers, units in the names."""
        c = self.complexity
        moved, operations = c.total("moved"), c.total("operations")
        return {
            "params": self.params,
            "params_without_batch_norm": self.params - c.total("batch_norm_params"),
            "macs": self.macs,
            "operations": operations,
            "layers": len(c.layers),
            "activation_bytes": {t: c.activations * n for t, n in ELEMENT_BYTES.items()},
            "peak_activation_bytes": {t: c.peak * n for t, n in ELEMENT_BYTES.items()},
            "peak_at": c.peak_at,
            "moved_bytes": {t: moved * n for t, n in ELEMENT_BYTES.items()},
            "operations_per_byte": {t: operations / (moved * n) if moved else 0.0 for t, n in ELEMENT_BYTES.items()},
        }


def _layer_json(layer: LayerCost) -> dict[str, Any]:
    size, stride = layer.field.size, layer.field.stride
    return {
        "name": layer.name,
        "module": layer.module,
        "type": layer.type,
        "form": layer.form,
        "shape": list(layer.shape),
        "params": layer.params,
        "params_without_batch_norm": layer.weights + layer.biases,
        "macs": layer.macs,
        "operations": layer.operations,
        "activation_bytes": {t: layer.written * n for t, n in ELEMENT_BYTES.items()},
        "read_bytes": {t: (layer.moved - layer.written) * n for t, n in ELEMENT_BYTES.items()},
        "written_bytes": {t: layer.written * n for t, n in ELEMENT_BYTES.items()},
        "operations_per_byte": {t: layer.intensity / n for t, n in ELEMENT_BYTES.items()},
        "receptive_field": None if layer.field.whole else list(size),
        "stride": list(stride),
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
    forms, zeros = find_hetconv(graph), set[str]()
    if forms:
        facts = {**facts, "hetconv": [str(form) for form in forms]}
        zeros = {form.pointwise.output for form in forms}
    core = core_named(cpu)
    all_targets()
    executed = executed_macs(graph, core)
    if target is not None:
        graph, notes = run_passes(graph, TARGETS[target].passes(core, {}))
        facts = {**facts, "target": target}
    complexity = complexity_of(graph, zeros=zeros)
    shape = graph.shape(graph.inputs[0])[1:]
    return Description(graph.name, shape, params, complexity, executed, graph, {**facts, "cpu": core}, tuple(notes))


def executed_macs(graph: Graph, core: Cpu) -> dict[str, int | None]:
    """Multiply-adds of one image as each target executes them: padded channels and the zeros of dense forms count.

    None stands for a target that refuses the net.
    """
    found: dict[str, int | None] = {}
    known: dict[tuple[object, ...], int | None] = {}
    for name, target in sorted(TARGETS.items()):
        passes = target.passes(core, {})
        same = (target.runtime, target.scheme is None)  # fp16 is the float file with another entry of metadata
        if same not in known:
            try:
                known[same] = macs_total(run_passes(graph, passes)[0])
            except UnsupportedOp:
                known[same] = None
        found[name] = known[same]
    return found


def _graph_of(
    spec: str, input_shape: tuple[int, int, int] | None, options: dict[str, object]
) -> tuple[Graph, int, dict[str, Any]]:
    if spec.endswith(".safetensors"):
        graph, provenance = bundle.load(Path(spec))
        return graph, complexity_of(graph).total("params"), {"provenance": provenance}
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
    whole = _params(module)
    drop_auxiliary(module)
    deployed = _params(module)
    if whole != deployed:
        facts = {**facts, "params_of_training_only": whole - deployed}
    return import_module(module, shape, name=name), deployed, facts


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


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
