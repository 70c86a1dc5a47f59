"""From a net, bundle or artifact to the findings about it on a target."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgecnn.artifact import Artifact
from edgecnn.coverage import Coverage, coverage_of
from edgecnn.data import load_profile
from edgecnn.errors import UnsupportedOp
from edgecnn.ir.graph import Graph, Note
from edgecnn.lint import Finding, Review, review_artifact, review_graphs
from edgecnn.passes.standard import STANDARD, run_passes
from edgecnn.pipeline.describe import is_artifact
from edgecnn.pipeline.source import load_source
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure as measure_ranges
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import EmitOptions, Target, core_named

IMAGES = 4
"""Enough for ranges: where a kernel runs and how long it takes depends on them only at their extremes."""


def lint(
    spec: str,
    *,
    target: str = "tflite-int8",
    cpu: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    options: Mapping[str, object] | None = None,
    measure: bool = True,
) -> Review:
    """The findings about a net, bundle or artifact; weights do not matter and are random where there are none.

    Costs are measured where `measure` is set and the core is this machine's; otherwise they are estimated.

    Raises:
        UsageError: unknown names, or a user's net without an input shape.
        InputError: a damaged file.
        UnsupportedOp: a net that cannot be imported.
    """
    if is_artifact(spec):
        Artifact.open(spec)
        return review_artifact(spec, coverage_of(spec))
    all_targets()
    chosen, core = TARGETS[target], core_named(cpu)
    weights = None if spec.endswith(".safetensors") else "random"
    source = load_source(spec, weights=weights, input_shape=input_shape, options=dict(options or {}))
    imported = source.to_graph()
    emit_options = EmitOptions(cpu=core)
    measure = measure and core == local_cpu()
    try:
        graph, notes = run_passes(imported, chosen.passes(core, {}))
        if chosen.scheme is not None:
            data = load_profile("photos", input_shape=source.input_shape)
            batches = (x for x, _ in data.batches(IMAGES, limit=IMAGES))
            ranges = measure_ranges(graph, batches, images="lint")
            graph, said = assign(graph, ranges, chosen.scheme(core), estimator="minmax")
            notes = [*notes, *said]
        coverage = _coverage(graph, chosen, emit_options, notes)
    except UnsupportedOp as refusal:
        return _refused(imported, refusal, chosen, emit_options)
    return review_graphs(graph, target=chosen, options=emit_options, notes=notes, coverage=coverage, measure=measure)


def _coverage(graph: Graph, target: Target, options: EmitOptions, notes: list[Note]) -> Coverage | None:
    """What the runtime installed here makes of the artifact; the emitter's notes are added to `notes`."""
    emitted = target.emit(graph, options)
    notes.extend(emitted.notes)
    with tempfile.TemporaryDirectory(prefix="edgecnn-lint-") as folder:
        path = Path(folder) / f"lint{target.suffix}"
        path.write_bytes(emitted.data)
        return coverage_of(path) if options.cpu == local_cpu() else None


def _refused(imported: Graph, refusal: UnsupportedOp, target: Target, options: EmitOptions) -> Review:
    """The findings about a net that the target cannot express: that, first of all, and estimates of the rest."""
    graph, _ = run_passes(imported, STANDARD)
    rest = review_graphs(graph, target=replace(target, scheme=None), options=options, measure=False)
    error = Finding(
        "not-expressible", "error", (refusal.where or "?",), f"{refusal.what}: {refusal.got}", refusal.do or ""
    )
    return replace(rest, target=target.name, findings=(error, *rest.findings))
