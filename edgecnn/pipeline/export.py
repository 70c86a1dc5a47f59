"""The straight line: a net in, a proved artifact with its manifest out."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edgecnn import coverage as coverage_module
from edgecnn import parity as parity_module
from edgecnn.artifact import Artifact, manifest_path, refuse_existing
from edgecnn.data import Dataset, load_profile
from edgecnn.errors import CheckFailed, InputError, UsageError
from edgecnn.ir.graph import Array, Graph, Note, Pass
from edgecnn.passes.embed_normalization import embed_normalization
from edgecnn.passes.standard import run_passes
from edgecnn.pipeline.coded import Coding
from edgecnn.pipeline.export_options import ExportOptions, choose, file_stem
from edgecnn.pipeline.manifest import build_manifest
from edgecnn.pipeline.quantize import QuantizeOptions, quantize
from edgecnn.pipeline.source import NetSource, load_source
from edgecnn.pipeline.stages import Stages
from edgecnn.quant.assign import DEFAULT_ESTIMATOR, assign
from edgecnn.quant.choose import BY_VALUE, PROBES
from edgecnn.quant.choose import choose as choose_ranges
from edgecnn.quant.measure import measure
from edgecnn.quant.ranges import Ranges
from edgecnn.quant.ranges import load as load_ranges
from edgecnn.quant.ranges import save as save_ranges
from edgecnn.quant.weights_only import code_weights
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets.target import Cpu, EmitOptions, IoType, Target

CALIBRATION_BATCH = 8
PARITY_IMAGES = 2


def export(
    net: str | NetSource,
    *,
    options: ExportOptions | None = None,
    stages: Stages | None = None,
    data: Dataset | None = None,
) -> Artifact:
    """The artifact of `net` for a target, proved and written together with its manifest and ranges.

    Nothing is written before everything is proved.

    Args:
        net: what `load_source` takes, or a net that is loaded already.
        options: see `ExportOptions`.
        stages: told about each stage.
        data: calibration images that are open already; None: `options.calibration` is loaded.

    Raises:
        UsageError: an unknown name or an illegal value.
        InputError: weights or images that cannot be used.
        UnsupportedOp: an op the target cannot express.
        CheckFailed: the artifact is not equal to the net, or too little of it runs in the fast path.
        EnvironmentFailure: a runtime is missing, or the folder cannot be written.
    """
    options, stages = options or ExportOptions(), stages or Stages()
    target, cpu, input_type = choose(options)
    if isinstance(net, str):
        with stages.stage("load") as stage:
            source = load_source(
                net,
                weights=options.weights,
                seed=options.seed,
                input_shape=options.input_shape,
                options=options.net_options,
                on_bytes=stages.on_bytes,
            )
            stage.outcome = f"{source.name}, weights: {source.weights.kind}"
    else:
        source = net
    if source.coding is not None:
        _require_coding(source.coding, target, cpu, options, where=source.spec)
    path = options.output / f"{options.stem or file_stem(source, target, cpu, options)}{target.suffix}"
    ranges_path = path.with_name(path.name + ".ranges.json")
    refuse_existing(path, manifest_path(path), overwrite=options.overwrite)
    with thread_limit(options.threads):
        if options.max_drop is not None:
            source = _through_ladder(source, target, cpu, options, stages, data)
        line = _Line(source, target, cpu, input_type, options, stages, data, ranges_path)
        return line.run(path)


@contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Torch uses `threads` threads inside the block; None leaves it alone."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _through_ladder(
    source: NetSource, target: Target, cpu: Cpu, options: ExportOptions, stages: Stages, data: Dataset | None
) -> NetSource:
    """The net with codes that lose no more than `max_drop` points.

    Raises:
        CheckFailed: no rung of the ladder is good enough.
        EdgecnnError: as `pipeline.quantize.quantize`.
    """
    assert options.max_drop is not None  # the caller has seen to it
    if options.embed_normalization:
        raise UsageError(
            "the ladder quantises for normalised images", do="leave out --embed-normalization or --max-drop"
        )
    found = quantize(
        source,
        data=data or options.calibration,
        options=QuantizeOptions(
            target=target.name,
            cpu=cpu,
            settings=options.settings,
            max_drop=options.max_drop,
            # The ladder begins with one estimator for all; which is best for each value, is its second rung.
            estimator=DEFAULT_ESTIMATOR if options.estimator == BY_VALUE else options.estimator,
            images=options.calibration_images,
            latency=False,
            seed=options.seed,
            skip_unreadable=options.skip_unreadable,
        ),
        stages=stages,
    )
    if not found.within:
        raise CheckFailed(
            "no way of quantising the net loses as little as it may",
            where=source.name,
            expected=f"at most {options.max_drop:g} points of top-1 on `{options.calibration}`",
            got=f"{found.step.lost:.2f} points by `{found.best}`",
            do="train it with its codes (`edgecnn qat`), or allow more",
        )
    return replace(source, module=None, graph=found.graph, coding=found.coding, preprocessing=found.preprocessing)


def _require_coding(coding: Coding, target: Target, cpu: Cpu, options: ExportOptions, *, where: str) -> None:
    """Refuses what a bundle with codes cannot become: they are for one target, and for normalised images."""
    coding.require(target.name, cpu, options.settings, where=where)
    if options.embed_normalization:
        raise UsageError(
            "the codes of the bundle are for normalised images",
            where=where,
            do="leave out --embed-normalization, or export the float net",
        )


@dataclass
class _Line:
    """One export under way; `run` is the straight line, the methods are its stages."""

    source: NetSource
    target: Target
    cpu: Cpu
    input_type: IoType
    options: ExportOptions
    stages: Stages
    data: Dataset | None
    ranges_path: Path

    def run(self, path: Path) -> Artifact:
        imported = self._import()
        graph, notes = self._rewrite(imported)
        data = self._open_data()
        ranges, images = self._measure(graph, data)
        quantized = self._assign(graph, ranges, data, notes)
        # The artifact's final form is known only now; its own metadata says what it expects and where it comes from.
        manifest = build_manifest(
            source=self.source,
            target=self.target,
            cpu=self.cpu,
            input_type=self.input_type,
            options=self.options,
            data=data,
            graph=quantized or graph,
            macs=self.source.macs_of(imported),
            rewrites=dict(sorted(Counter(n.rule for n in notes if n.did).items())),
            ranges=ranges,
            ranges_file=self.ranges_path.name if ranges else None,
            calibration_images=images,
        )
        emit_options = EmitOptions(
            cpu=self.cpu,
            batch=self.options.batch,
            input_type=self.input_type,
            metadata=manifest.metadata(),
            settings=self.options.settings,
        )
        with self.stages.stage("emit") as stage:
            emitted = self.target.emit(quantized or graph, emit_options)
            stage.outcome = f"{len(emitted.data):,} bytes"
        for note in emitted.notes:
            if not note.did:
                self.stages.note(str(note))
        with tempfile.TemporaryDirectory(prefix="edgecnn-export-") as folder:
            draft = Path(folder) / f"artifact{self.target.suffix}"
            draft.write_bytes(emitted.data)
            parity = self._check(draft, imported, graph, quantized, data, emit_options)
            coverage = self._coverage(draft)
            content = manifest.finish(draft, parity=parity.to_json(), coverage=coverage.to_json(), notes=emitted.notes)
        with self.stages.stage("write") as stage:
            if ranges:
                save_ranges(ranges, self.ranges_path)
            artifact = Artifact.write(path, emitted.data, content, overwrite=self.options.overwrite)
            stage.outcome = str(path)
        return artifact

    def _import(self) -> Graph:
        with self.stages.stage("import") as stage:
            graph = self.source.to_graph()
            stage.outcome = f"{len(graph.ops)} ops, {self.source.macs_of(graph):,} multiply-adds"
        return graph

    def _rewrite(self, imported: Graph) -> tuple[Graph, list[Note]]:
        with self.stages.stage("rewrite") as stage:
            if self.source.coding is not None:
                stage.skipped, stage.outcome = True, f"the bundle is rewritten for {self.target.name}"
                return imported, []
            passes: list[Pass] = []
            if self.options.embed_normalization:
                passes.append(embed_normalization(*self._mean_std()))
            graph, notes = run_passes(imported, [*passes, *self.target.passes(self.cpu, self.options.settings)])
            stage.outcome = f"{len(graph.ops)} ops after {sum(n.did for n in notes)} rewrites"
        return graph, notes

    def _mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        preprocessing = self._open_data().preprocessing
        return preprocessing.mean, preprocessing.std

    def _open_data(self) -> Dataset:
        if self.data is None:
            self.data = load_profile(
                self.options.calibration,
                input_shape=self.source.input_shape,
                preprocessing=self.source.preprocessing,
                seed=self.options.seed,
                skip_unreadable=self.options.skip_unreadable,
            )
            for text in self.data.notes if self.target.scheme else ():
                self.stages.note(text)
        return self.data

    def _inputs(self, data: Dataset, limit: int) -> Iterator[Array]:
        """Calibration images as the final graph takes them: normalised, or raw pixels."""
        if self.options.embed_normalization:
            for pixels, _ in data.raw_batches(CALIBRATION_BATCH, split="calibration", limit=limit):
                yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
        else:
            for x, _ in data.batches(CALIBRATION_BATCH, split="calibration", limit=limit):
                yield x

    def _measure(self, graph: Graph, data: Dataset) -> tuple[Ranges | None, int]:
        if self.target.scheme is None or self.source.coding is not None:
            return None, 0
        limit = self.options.calibration_images
        with self.stages.stage("measure") as stage:
            print_of_images = data.fingerprint("calibration", limit=limit)
            if self.options.embed_normalization:
                print_of_images += "-pixels"
            count = len(data.indices("calibration", limit=limit)) - len(data.skipped)
            known = self._known_ranges(graph, print_of_images)
            if known is not None:
                stage.skipped, stage.outcome = True, f"ranges of {self.ranges_path.name}"
                return known, count
            ranges = measure(graph, self._inputs(data, limit), images=print_of_images)
            count = ranges.stats[graph.inputs[0]].images
            stage.outcome = f"{count} images of `{data.name}`"
            if data.skipped:
                self.stages.note(f"{len(data.skipped)} unreadable images were left out: {', '.join(data.skipped[:5])}")
        return ranges, count

    def _known_ranges(self, graph: Graph, images: str) -> Ranges | None:
        if not self.ranges_path.is_file():
            return None
        try:  # a stale or damaged file is measured anew
            return load_ranges(self.ranges_path, graph=graph, images=images)
        except InputError:
            return None

    def _assign(self, graph: Graph, ranges: Ranges | None, data: Dataset, notes: list[Note]) -> Graph | None:
        if self.source.coding is not None:
            with self.stages.stage("assign") as stage:
                stage.skipped, stage.outcome = True, f"the bundle has codes, by {self.source.coding.method}"
            return graph
        if self.target.weights != "float":
            with self.stages.stage("assign") as stage:
                coded_weights, said = code_weights(graph, dynamic=self.target.weights == "dynamic")
                notes.extend(said)
                stage.outcome = f"the weights of {len(said)} layers in 8 bits"
            return coded_weights
        if self.target.scheme is None or ranges is None:
            return None
        with self.stages.stage("assign") as stage:
            if self.options.embed_normalization:
                ranges = with_pixel_range(ranges, graph.inputs[0])
            scheme = self.target.scheme(self.cpu)
            estimator = self.options.estimator
            if estimator == BY_VALUE:
                limit = min(PROBES, self.options.calibration_images)
                chosen = choose_ranges(graph, ranges, scheme, np.concatenate(list(self._inputs(data, limit))))
                quantized, said = chosen.graph, chosen.notes
            else:
                quantized, said = assign(graph, ranges, scheme, estimator=estimator)
            notes.extend(said)
            coded = sum(v.q is not None for v in quantized.values.values())
            stage.outcome = f"{coded} values in {scheme.act_bits} bits, ranges by {estimator}"
        return quantized

    def _check(
        self,
        draft: Path,
        imported: Graph,
        graph: Graph,
        quantized: Graph | None,
        data: Dataset,
        emit_options: EmitOptions,
    ) -> parity_module.Parity:
        with self.stages.stage("check") as stage:
            normalised = next(data.batches(PARITY_IMAGES, split="calibration", limit=PARITY_IMAGES))[0]
            images = next(iter(self._inputs(data, PARITY_IMAGES)))
            expected = None
            if self.source.module is not None:
                with torch.inference_mode():
                    expected = self.source.module(torch.from_numpy(normalised)).numpy()
            found = parity_module.check(
                self.target,
                artifact=draft,
                options=emit_options,
                images=images,
                before=imported,
                after=graph,
                quantized=quantized,
                torch_outputs=expected,
                before_images=normalised,
                per_op=self.options.per_op,
            )
            parity_module.require(found, where=self.source.name)
            stage.outcome = found.summary
        return found

    def _coverage(self, draft: Path) -> coverage_module.Coverage:
        with self.stages.stage("coverage") as stage:
            found = coverage_module.coverage_of(draft)
            stage.outcome = f"{100 * found.macs_share:.1f} % of the multiply-adds in the fast path"
            if self.cpu == local_cpu():
                coverage_module.gate(found, threshold=self.options.min_coverage)
            else:
                # What this machine's engine makes of another core's artifact (ONNX Runtime on x86 runs int8
                # activations in float) says nothing about that core.
                stage.outcome += f" of this machine ({local_cpu()}); meant for {self.cpu}, so not judged"
        return found


def with_pixel_range(ranges: Ranges, name: str) -> Ranges:
    """The ranges with the input's set to all pixels, 0...255, whatever the calibration images happened to hold."""
    stats = replace(ranges.stats[name], mean_min=0.0, mean_max=255.0, min=0.0, max=255.0)
    return replace(ranges, stats={**ranges.stats, name: stats})
