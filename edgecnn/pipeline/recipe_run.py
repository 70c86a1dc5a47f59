"""`edgecnn run`: train, export, check, evaluate, bench and compare what a recipe names, skipping what is up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgecnn import recipe
from edgecnn.artifact import Artifact, atomic_write, sha256_of_file
from edgecnn.bench.run import bench
from edgecnn.data import Dataset, load_profile, profile_names, shipped
from edgecnn.errors import InputError
from edgecnn.nets import NETS, build_net
from edgecnn.nets.registry import NetEntry
from edgecnn.pipeline.evaluate import evaluate
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions, choose
from edgecnn.pipeline.source import load_source
from edgecnn.pipeline.stages import Stages
from edgecnn.pipeline.train import RunOptions, train_to_bundle
from edgecnn.pipeline.workfolder import WorkFolder, key_of
from edgecnn.quant.choose import BY_VALUE
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.recipe import NetTable, Recipe
from edgecnn.runtime.cpu import local_cpu
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import CPUS
from edgecnn.train.trainer import NO_SAY, EpochReport

OnEpoch = Callable[[str, EpochReport], None]


@dataclass(frozen=True)
class Outcome:
    """What a recipe came to: one row per artifact, and the promises that were not kept."""

    folder: Path
    rows: tuple[dict[str, Any], ...]
    broken: tuple[str, ...]
    bench: dict[str, Any]
    title: str = ""

    def table_rows(self) -> list[dict[str, Any]]:
        """The rows as the comparison table of `edgecnn.report` takes them."""
        return [
            {
                "net": row["net"],
                "target": row["target"],
                "params": row["params"],
                "macs": row["macs"],
                "accuracy": row["top1"] / 100,
                "size_bytes": row["size_bytes"],
                "latency_ms": row["latency"]["median_ms"],
                "ci95_ms": row["latency"]["ci95_ms"],
                "ratio": row["latency"]["ratio"],
                "ratio_ci95": row["latency"]["ratio_ci95"],
                "marks": [
                    *(["untrained"] if row["untrained"] else []),
                    *(["unstable"] if row["latency"]["unstable"] else []),
                ],
            }
            for row in self.rows
        ]


def find_recipe(spec: str) -> Path:
    """The file of a recipe: a path, or one that ships with edgecnn (`recipes/digits.toml` or `digits`)."""
    path = Path(spec)
    if path.is_file():
        return path
    inside = shipped("recipes") / (path.name if path.suffix == ".toml" else f"{path.name}.toml")
    return inside if inside.is_file() else path


def load_recipe(path: Path) -> Recipe:
    """The recipe in `path`, its names checked against what there is; see `edgecnn.recipe.load`."""
    all_targets()
    names = {
        "nets.net": sorted({*NETS, *(a for _, e in NETS.items() for a in e.aliases)}),
        "data.profile": profile_names(),
        "export.targets": list(TARGETS),
        "export.estimator": [*ESTIMATORS, BY_VALUE],
        "export.cpu": list(CPUS),
    }
    return recipe.load(path, names=names)


def run_recipe(
    spec: str | Path,
    *,
    work: Path | None = None,
    data: str | None = None,
    stages: Stages | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Runs the recipe and leaves nets, artifacts, tables and the resolved recipe in the work folder.

    Args:
        spec: a recipe's file or shipped name.
        work: the folder; None: `work/<name of the recipe>`.
        data: a profile or path in place of the recipe's own, for images that lie elsewhere on each machine.
        stages: told about each stage.
        on_epoch: called with the net's label after each epoch of training.

    Raises:
        UsageError: the recipe has mistakes (all are listed).
        InputError: data that cannot be used.
        CheckFailed: an artifact is not equal to its net.
    """
    path = find_recipe(str(spec))
    resolved = load_recipe(path)
    if data is not None:
        resolved = resolved.model_copy(update={"data": resolved.data.model_copy(update={"profile": data})})
    folder = WorkFolder(work or Path("work") / resolved.name)
    atomic_write(folder.path / "recipe.toml", resolved.to_toml())
    return _Run(resolved, folder, stages or Stages(), on_epoch).run()


@dataclass(frozen=True)
class _Trained:
    label: str
    entry: NetEntry
    bundle: Path
    accuracy: dict[str, float]
    macs: int
    params: int


class _Run:
    def __init__(self, resolved: Recipe, folder: WorkFolder, stages: Stages, on_epoch: OnEpoch | None) -> None:
        self.recipe, self.folder, self.stages, self.on_epoch = resolved, folder, stages, on_epoch
        self.data: Dataset = load_profile(resolved.data.profile, input_shape=resolved.data.input, seed=resolved.seed)
        if self.data.classes is None:
            raise InputError("a recipe that trains needs labels", where=resolved.data.profile)
        self.classes = self.data.classes

    def run(self) -> Outcome:
        rows: list[dict[str, Any]] = []
        for table in self.recipe.nets:
            trained = self._train(table)
            for target in self.recipe.export.targets:
                rows.append(self._artifact(trained, target))
        report = self._bench([row["artifact"] for row in rows])
        for row, run in zip(rows, report["runs"], strict=True):
            row["latency"] = run
        broken = self._broken(rows)
        self.folder.write_json("comparison.json", {"recipe": self.recipe.name, "rows": rows, "broken": broken})
        return Outcome(self.folder.path, tuple(rows), tuple(broken), report, self.recipe.title)

    def _label(self, table: NetTable) -> str:
        if table.label:
            return table.label
        # The stem follows from the recipe's input and is the same for all; a name need not say it.
        options = "".join(f"-{k}{v}" for k, v in sorted(table.options.items()) if k != "stem")
        return f"{NETS[table.net].name}{options}"

    def _train(self, table: NetTable) -> _Trained:
        label, entry = self._label(table), NETS[table.net]
        place = self.folder.path / label
        saved, record = place / "float.safetensors", f"{label}/train.json"
        train = self.recipe.train
        key = key_of(
            self.recipe.seed,
            self.recipe.data.model_dump(mode="json"),
            self.data.fingerprint("calibration"),
            train.model_dump(mode="json", exclude=NO_SAY),
            table.model_dump(mode="json"),
            torch.__version__,
        )
        with self.stages.stage("train") as stage:
            if self.folder.up_to_date(f"{label}/train", key, [saved, self.folder.path / record]):
                content = self.folder.read_json(record)
                stage.skipped = True
            else:
                content = self._train_now(table, label, entry, saved)
                self.folder.write_json(record, content)
                self.folder.stamp(f"{label}/train", key)
            accuracy = content["accuracy"]
            stage.outcome = f"{label}: {accuracy['top1']:.2f} % of {accuracy['n']} held-out images"
        return _Trained(label, entry, saved, accuracy, content["macs"], content["params"])

    def _train_now(self, table: NetTable, label: str, entry: NetEntry, saved: Path) -> dict[str, Any]:
        options = {"num_classes": len(self.classes), **table.options}
        module = build_net(table.net, seed=self.recipe.seed, **options)
        found = train_to_bundle(
            module,
            self.data,
            name=label,
            settings=self.recipe.train,
            run=RunOptions(saved, on_epoch=partial(self.on_epoch, label) if self.on_epoch else None),
            seed=self.recipe.seed,
            provenance={"net": entry.name, "recipe": self.recipe.name},
        )
        return found.to_json()

    def _artifact(self, trained: _Trained, target: str) -> dict[str, Any]:
        table = self.recipe.export
        cpu = table.cpu or local_cpu()
        options = ExportOptions(
            target=target,
            cpu=cpu,
            seed=self.recipe.seed,
            calibration_images=self.recipe.data.calibration_images,
            estimator=table.estimator,
            output=self.folder.path / trained.label,
            stem=target,
            overwrite=True,
            labels=self.classes,
        )
        suffix = choose(options)[0].suffix
        path = options.output / f"{target}{suffix}"
        key = key_of(sha256_of_file(trained.bundle), target, cpu, table.estimator, self.recipe.data.calibration_images)
        name = f"{trained.label}/{target}"
        with self.stages.stage("export") as stage:
            if self.folder.up_to_date(name, key, [path, path.with_name(path.name + ".json")]):
                artifact, stage.skipped = Artifact.open(path), True
            else:
                artifact = export(load_source(str(trained.bundle)), options=options, data=self.data)
                self.folder.stamp(name, key)
            stage.outcome = f"{name}: {artifact.size_bytes:,} bytes"
        record, eval_key = f"{name}.eval.json", key_of(artifact.manifest["sha256"], self.data.fingerprint("evaluation"))
        with self.stages.stage("eval") as stage:
            if self.folder.up_to_date(record, eval_key, [self.folder.path / record]):
                found, stage.skipped = self.folder.read_json(record), True
            else:
                found = evaluate(str(path), data=self.data).to_json()
                self.folder.write_json(record, found)
                self.folder.stamp(record, eval_key)
            stage.outcome = f"{name}: {found['top1']:.2f} %"
        return {
            "net": trained.label,
            "target": target,
            "cpu": cpu,
            "artifact": str(path),
            "params": trained.params,
            "macs": trained.macs,
            "size_bytes": artifact.size_bytes,
            "float_top1": trained.accuracy["top1"],
            "top1": found["top1"],
            "images": found["n"],
            "coverage": artifact.manifest["coverage"]["macs_share"],
            "untrained": found["untrained"],
        }

    def _bench(self, paths: list[str]) -> dict[str, Any]:
        table = self.recipe.bench
        key = key_of([sha256_of_file(p) for p in paths], table.model_dump(mode="json"))
        with self.stages.stage("bench") as stage:
            if self.folder.up_to_date("bench", key, [self.folder.path / "bench.json"]):
                stage.skipped = True
                report: dict[str, Any] = self.folder.read_json("bench.json")
            else:
                found = bench(paths, threads=table.threads, min_seconds=table.min_seconds, seed=self.recipe.seed)
                report = found.to_json()
                self.folder.write_json("bench.json", report)
                self.folder.stamp("bench", key)
            stage.outcome = f"{len(paths)} artifacts, interleaved, {table.threads} thread(s)"
        return report

    def _broken(self, rows: list[dict[str, Any]]) -> list[str]:
        limit = self.recipe.export.max_drop
        return [
            f"{row['net']} as {row['target']} loses {row['float_top1'] - row['top1']:.2f} points, "
            f"at most {limit} are allowed"
            for row in rows
            if row["float_top1"] - row["top1"] > limit + 1e-9
        ]
