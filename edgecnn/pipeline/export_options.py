"""What `edgecnn export` is asked for, checked against what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecnn.errors import UsageError, unknown
from edgecnn.pipeline.source import NetSource
from edgecnn.quant.choose import BY_VALUE
from edgecnn.quant.estimate import ESTIMATORS
from edgecnn.targets import TARGETS, all_targets
from edgecnn.targets.target import Cpu, IoType, Target, core_named


@dataclass(frozen=True)
class ExportOptions:
    """What the caller decides about an export; the defaults are the command line's.

    Args:
        target: a name of `edgecnn list targets`.
        cpu: the core it is for; None: this machine's.
        weights: see `pipeline.source.load_source`.
        seed: of random weights and of calibration crops.
        input_shape: (C, H, W); None: the net's own.
        calibration: a profile, or a folder or archive of images.
        calibration_images: at most this many of them.
        skip_unreadable: leave out images that cannot be read.
        estimator: a name in `quant.estimate.ESTIMATORS`, or `choose`: of them the best for each value.
        max_drop: points of top-1 that quantisation may cost; the ladder is climbed as far as needed, on labelled
            images of `calibration`. None: ranges by `estimator`, whatever they cost.
        input_type: int8, uint8 or float32; None: the target's first.
        embed_normalization: the artifact takes raw 0-255 pixels.
        batch: images per call.
        net_options: the net's own options.
        settings: the target's own settings.
        min_coverage: the least share of multiply-adds in the runtime's fast path (0...1).
        per_op: check the artifact op by op.
        output: the folder to write to.
        stem: the artifact's file name without suffix; None: made from net, target and what differs from the defaults.
        overwrite: replace what exists.
        threads: of the export itself; None: all cores.
        labels: class names for the manifest.
    """

    target: str = "tflite-int8"
    cpu: str | None = None
    weights: str | None = None
    seed: int = 0
    input_shape: tuple[int, int, int] | None = None
    calibration: str = "photos"
    calibration_images: int = 256
    skip_unreadable: bool = False
    estimator: str = "mse"
    max_drop: float | None = None
    input_type: str | None = None
    embed_normalization: bool = False
    batch: int = 1
    net_options: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    min_coverage: float = 0.9
    per_op: bool = True
    output: Path = Path()
    stem: str | None = None
    overwrite: bool = False
    threads: int | None = None
    labels: Sequence[str] | None = None


def choose(options: ExportOptions) -> tuple[Target, Cpu, IoType]:
    """The target, core and input type the options mean.

    Raises:
        UsageError: an unknown target, core, input type, estimator or setting; the nearest names are offered.
    """
    all_targets()
    target = TARGETS[options.target]
    cpu = core_named(options.cpu)
    input_type = options.input_type or target.input_types[0]
    if input_type not in target.input_types:
        raise unknown(f"input type of {target.name}", input_type, target.input_types)
    if options.estimator not in (names := (*ESTIMATORS, BY_VALUE)):
        raise unknown("estimator", options.estimator, names)
    for key in options.settings:
        if key not in target.settings:
            raise unknown(f"setting of {target.name}", key, target.settings)
    if options.batch < 1:
        raise UsageError("the batch must be at least 1", got=str(options.batch))
    io: IoType = next(t for t in target.input_types if t == input_type)
    return target, cpu, io


def file_stem(source: NetSource, target: Target, cpu: Cpu, options: ExportOptions) -> str:
    """The artifact's file name without suffix: net, target, and each choice that is not the default."""
    parts = [source.name, *(f"{k}{v}" for k, v in sorted(source.options.items()) if k != "num_classes")]
    if options.input_shape:
        parts.append("x".join(map(str, options.input_shape)))
    parts.append(target.name)
    if options.cpu:
        parts.append(cpu)
    if options.batch > 1:
        parts.append(f"batch{options.batch}")
    if options.embed_normalization:
        parts.append("pixels")
    return "-".join(parts)
