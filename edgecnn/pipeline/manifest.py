"""The manifest of an export: what the artifact is, from what, what it expects, and what was proved of it.

It holds no time of day and no absolute path of this machine's temporary files: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn import __version__
from edgecnn.artifact import sha256_of
from edgecnn.data import Dataset
from edgecnn.ir.graph import Graph, Note
from edgecnn.pipeline.source import NetSource
from edgecnn.quant.ranges import Ranges, to_bytes
from edgecnn.quant.scheme import Scheme
from edgecnn.runtime.tensor import TensorSpec
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import Cpu, IoType, Target

if TYPE_CHECKING:
    from edgecnn.pipeline.export_options import ExportOptions

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "flatbuffers", "safetensors")


@dataclass(frozen=True)
class Draft:
    """A manifest before the artifact exists; `finish` adds what is read from the file and what was proved."""

    content: dict[str, Any]
    graph: Graph
    input_type: IoType

    def metadata(self) -> dict[str, str]:
        """What goes into the artifact's own metadata fields: enough to feed it without the manifest."""
        content = self.content
        fields = {
            "edgecnn.version": __version__,
            "edgecnn.net": content["net"]["name"],
            "edgecnn.target": content["target"],
            "edgecnn.cpu": content["cpu"],
            "edgecnn.input": json.dumps(
                {"meaning": content["input"]["meaning"], "layout": content["input"]["layout"]}, sort_keys=True
            ),
            "edgecnn.preprocessing": json.dumps(content["preprocessing"], sort_keys=True),
        }
        if content["weights"]["untrained"]:
            fields["edgecnn.untrained"] = "true"
        if content["calibration"] and content["calibration"].get("unfit"):
            fields["edgecnn.calibration_unfit"] = "true"
        return fields

    def finish(
        self, draft: Path, *, parity: dict[str, Any], coverage: dict[str, Any], notes: Sequence[Note]
    ) -> dict[str, Any]:
        """The whole manifest; shapes and types are read back from the file itself."""
        session = open_session(draft)
        try:
            spec_in, spec_out = session.inputs[0], session.outputs[0]
        finally:
            session.close()
        content = dict(self.content)
        content["input"] = {**content["input"], **_tensor(spec_in, self._coding(self.graph.inputs[0]))}
        content["output"] = {**_tensor(spec_out, self._coding(self.graph.outputs[0])), "meaning": "class scores"}
        content["parity"], content["coverage"] = parity, coverage
        made = Counter(content["rewrites"]) + Counter(n.rule for n in notes if n.did)
        content["rewrites"] = dict(sorted(made.items()))
        content["notes"] = [str(n) for n in notes]
        return content

    def _coding(self, name: str) -> dict[str, float | int]:
        q = self.graph.value(name).q
        if q is None or self.input_type == "float32":
            return {}
        return {"scale": float(q.scale), "zero_point": int(q.recoded(self.input_type).zero_point)}


def _tensor(spec: TensorSpec, coding: Mapping[str, float | int]) -> dict[str, Any]:
    own = {k: v for k, v in (("scale", spec.scale), ("zero_point", spec.zero_point)) if v is not None}
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, **coding, **own}


def build_manifest(
    *,
    source: NetSource,
    target: Target,
    cpu: Cpu,
    input_type: IoType,
    options: ExportOptions,
    data: Dataset,
    graph: Graph,
    macs: int,
    rewrites: dict[str, int],
    ranges: Ranges | None,
    ranges_file: str | None,
    calibration_images: int,
) -> Draft:
    """The part of the manifest that is known before the artifact is emitted."""
    scheme: Scheme | None = target.scheme(cpu) if target.scheme else None
    channels = "RGB" if source.input_shape[0] == 3 else "gray"
    embedded = options.embed_normalization
    content: dict[str, Any] = {
        "edgecnn": __version__,
        "target": target.name,
        "cpu": cpu,
        "net": {
            "name": source.name,
            "options": source.options,
            "params": source.params,
            "macs": macs,
            "source": source.entry.source if source.entry else source.spec,
        },
        "weights": source.weights.to_json(),
        "input": {
            "layout": "NHWC" if target.nhwc else "NCHW",
            "meaning": f"raw {channels} pixels, 0-255"
            if embedded
            else f"normalised {channels}: (pixel / 255 - mean) / std",
        },
        "preprocessing": {**data.preprocessing.model_dump(mode="json"), "embedded": embedded},
        "labels": list(options.labels or source.labels or ()) or _known_labels(source),
        "quantization": _quantization(source, target, scheme, options),
        "calibration": _calibration(source, scheme, data, ranges, ranges_file, calibration_images),
        "recipe": _recipe(options, cpu, input_type),
        "rewrites": rewrites,
        "versions": {"python": platform.python_version(), **_versions()},
    }
    return Draft(content, graph, input_type)


def _calibration(
    source: NetSource,
    scheme: Scheme | None,
    data: Dataset,
    ranges: Ranges | None,
    ranges_file: str | None,
    images: int,
) -> dict[str, Any] | None:
    """Which images the codes were chosen on: now, or when the bundle was made."""
    if scheme is None:
        return None
    if source.coding is not None:
        return None if source.coding.calibration is None else dict(source.coding.calibration)
    return {
        "data": data.name,
        "images": images,
        "unfit": data.unfit,
        "images_sha256": ranges.images if ranges else None,
        "ranges_file": ranges_file,
        "ranges_sha256": sha256_of(to_bytes(ranges)) if ranges else None,
    }


def _quantization(
    source: NetSource, target: Target, scheme: Scheme | None, options: ExportOptions
) -> dict[str, str] | None:
    if source.coding is not None and scheme is not None:
        return {"scheme": scheme.name, "method": source.coding.method}
    if target.weights != "float":
        return {"scheme": "weights" if target.weights == "int8" else "weights, inputs as they run"}
    return {"scheme": scheme.name, "estimator": options.estimator} if scheme else None


def _known_labels(source: NetSource) -> str | None:
    # A net with official ImageNet weights answers with the 1000 classes in their usual order.
    return "imagenet-1k" if source.weights.kind == "imagenet" else None


def _recipe(options: ExportOptions, cpu: Cpu, input_type: IoType) -> dict[str, Any]:
    """The resolved options, so that the same export can be asked for again."""
    skip = {"output", "overwrite", "stem", "labels", "threads"}
    content = {k: v for k, v in vars(options).items() if k not in skip}
    return content | {
        "cpu": cpu,
        "input_type": input_type,
        "net_options": {k: str(v) for k, v in options.net_options.items()},
        "settings": dict(options.settings),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # tflite-runtime in place of LiteRT, for one
            continue
    return found
