"""What the user named as a net, loaded: a net of the zoo, a module of their own, or a bundle; as a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn.artifact import sha256_of_file
from edgecnn.data import Preprocessing
from edgecnn.errors import InputError, UsageError
from edgecnn.ir import bundle
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import macs_of
from edgecnn.nets import NETS, NetEntry, build_net, load_user_net, load_weights
from edgecnn.nets.auxiliary import drop_auxiliary
from edgecnn.nets.download import Progress
from edgecnn.nets.registry import Pretrained
from edgecnn.nets.user_net import is_user_net
from edgecnn.pipeline.coded import Coding

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Weights:
    """Where the weights come from; `untrained` marks everything that is made of them."""

    kind: str
    untrained: bool = False
    source: str | None = None
    sha256: str | None = None
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {k: v for k, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class NetSource:
    """A net ready for the line.

    Args:
        name: for file names and tables.
        spec: as the user wrote it.
        input_shape: (C, H, W).
        weights: where they come from.
        module: the torch module; None for a bundle.
        graph: the graph of a bundle; None for a module, which is imported as a stage of its own.
        options: the net's options as given.
        preprocessing: of the official weights; None: the calibration profile's.
        labels: class names known from a bundle's provenance.
        params: trainable parameters, without those of auxiliary classifiers, which are not deployed.
        macs: multiply-adds of the net that a bundle with codes was rewritten from; None: those of its own graph.
        entry: of the zoo, if it is one of its nets.
        coding: what a bundle's graph was quantised for; None: it is in float.
    """

    name: str
    spec: str
    input_shape: Shape
    weights: Weights
    module: nn.Module | None
    graph: Graph | None
    options: dict[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    params: int = 0
    macs: int | None = None
    entry: NetEntry | None = None
    coding: Coding | None = None

    def to_graph(self) -> Graph:
        """The graph: the bundle's, or imported from the module now."""
        if self.graph is not None:
            return self.graph
        assert self.module is not None  # one of the two is always there
        return import_module(self.module, self.input_shape, name=self.name)

    def macs_of(self, imported: Graph) -> int:
        """Multiply-adds of one image as the net was defined; `imported` is what `to_graph` gave."""
        return macs_total(imported) if self.macs is None else self.macs


def macs_total(graph: Graph) -> int:
    """Multiply-adds of one image (convolutions and linear layers)."""
    return sum(macs_of(graph, op) for op in graph.ops)


def load_source(
    spec: str,
    *,
    weights: str | None = None,
    seed: int = 0,
    input_shape: Shape | None = None,
    options: Mapping[str, object] | None = None,
    on_bytes: Progress | None = None,
) -> NetSource:
    """The net that `spec` names, with its weights.

    Args:
        spec: a net's name, a bundle (`.safetensors` written by edgecnn), `file.py:callable` or `module:callable`.
        weights: `imagenet`, `random`, or a file; None: imagenet for nets that have official weights, else an error
            that names the choices.
        seed: of random weights.
        input_shape: (C, H, W); None: the net's own. Required for a user's module.
        options: the net's options.
        on_bytes: called with (bytes so far, bytes in all or None) while official weights are downloaded.

    Raises:
        UsageError: unknown net or option, or a choice that has to be made.
        InputError: weights or bundle that cannot be used.
        EnvironmentFailure: official weights cannot be downloaded.
    """
    given = dict(options or {})
    if spec.endswith(".safetensors") or Path(spec).suffix == ".safetensors":
        return _bundle(spec, weights=weights, options=given, input_shape=input_shape)
    if spec not in NETS and is_user_net(spec):
        return _user_net(spec, weights=weights, seed=seed, input_shape=input_shape, options=given)
    return _zoo_net(spec, weights=weights, seed=seed, input_shape=input_shape, options=given, on_bytes=on_bytes)


def _bundle(spec: str, *, weights: str | None, options: dict[str, object], input_shape: Shape | None) -> NetSource:
    path = Path(spec)
    if options or weights:
        raise UsageError(
            "a bundle brings its weights and options with it", where=spec, do="leave out --weights and --net-option"
        )
    graph, provenance = bundle.load(path)
    own = graph.shape(graph.inputs[0])[1:]
    if input_shape is not None and tuple(input_shape) != own:
        raise UsageError(
            "a bundle's input shape is fixed",
            where=spec,
            expected="x".join(map(str, own)),
            got="x".join(map(str, input_shape)),
        )
    recorded = provenance.get("preprocessing")
    labels = provenance.get("labels")
    return NetSource(
        name=graph.name,
        spec=spec,
        input_shape=(own[0], own[1], own[2]),
        weights=Weights("bundle", provenance.get("untrained") == "true", path.name, sha256_of_file(path)),
        module=None,
        graph=graph,
        preprocessing=Preprocessing.model_validate_json(recorded) if recorded else None,
        labels=tuple(labels.split("\n")) if labels else None,
        params=int(provenance.get("params", sum(v.data.size for v in graph.values.values() if v.data is not None))),
        macs=int(provenance["macs"]) if "macs" in provenance else None,
        coding=Coding.of(provenance),
    )


def _user_net(
    spec: str, *, weights: str | None, seed: int, input_shape: Shape | None, options: dict[str, object]
) -> NetSource:
    if input_shape is None:
        raise UsageError(
            "the input shape of your own net is not known", where=spec, do="give it, such as --input 3x224x224"
        )
    if weights == "imagenet":
        raise UsageError("there are no official weights for your own net", where=spec, do="give --weights FILE")
    module = load_user_net(spec, options, seed=seed)
    name = spec.rsplit(":", 1)[-1]
    # A net of the user's may come with its weights from its factory: without --weights they are kept as they are.
    loaded = Weights("own") if weights is None else _fill(module, weights, seed=seed, input_shape=input_shape)
    return _from_module(module, name=name, spec=spec, input_shape=input_shape, weights=loaded, options=options)


def _zoo_net(
    spec: str,
    *,
    weights: str | None,
    seed: int,
    input_shape: Shape | None,
    options: dict[str, object],
    on_bytes: Progress | None,
) -> NetSource:
    entry = NETS[spec]
    shape = input_shape or entry.input_for(**options)
    module = build_net(spec, seed=seed, **options)
    choice = weights or ("imagenet" if entry.pretrained else None)
    if choice is None:
        raise UsageError(
            f"there are no official weights for `{entry.name}`",
            expected="--weights FILE (.safetensors, .pth or .pt), or --weights random",
            do="train it (`edgecnn run`), or give --weights random to try the line with an untrained net",
        )
    if choice == "imagenet":
        _check_fixed_options(entry, options)
    loaded = _fill(module, choice, seed=seed, input_shape=shape, entry=entry, on_bytes=on_bytes)
    preprocessing = None
    official = entry.pretrained
    if official and loaded.kind == "imagenet":
        preprocessing = official_preprocessing(official, shape)
    return _from_module(
        module,
        name=entry.name,
        spec=spec,
        input_shape=shape,
        weights=loaded,
        options=options,
        preprocessing=preprocessing,
        entry=entry,
    )


def official_preprocessing(official: Pretrained, shape: Shape) -> Preprocessing:
    """How images get ready for official weights: as when these were evaluated, at any size in the same proportion."""
    _, height, width = shape
    return Preprocessing(
        resize=(height * official.resize // official.crop, width * official.resize // official.crop),
        crop=(height, width),
        interpolation=official.interpolation,  # type: ignore[arg-type]
        mean=official.mean,
        std=official.std,
    )


def _check_fixed_options(entry: NetEntry, given: Mapping[str, object]) -> None:
    """Refuses options under which the official weights do not fit, or would load and yet be wrong."""
    replaced = entry.replaces_convolutions(given)
    if replaced:
        raise UsageError(
            f"the official weights are for standard convolutions, not for conv={replaced}",
            where=f"net {entry.name}",
            do="train the net (`edgecnn run`) and give --weights FILE, or --weights random to try the line",
        )
    for option in entry.options:
        if entry.pretrained is None or option.name not in entry.pretrained.fixed or option.name not in given:
            continue
        if option.coerce(given[option.name], where=f"net {entry.name}") != option.default:
            raise UsageError(
                f"the official weights are not for `{option.name}={given[option.name]}`, though they would load",
                where=f"net {entry.name}",
                expected=f"{option.name}={option.default}",
                do=f"leave out --net-option {option.name}, or give weights that were trained with it",
            )


def _fill(
    module: nn.Module,
    choice: str,
    *,
    seed: int,
    input_shape: Shape,
    entry: NetEntry | None = None,
    on_bytes: Progress | None = None,
) -> Weights:
    loaded = load_weights(module, choice, entry=entry, input_shape=input_shape, seed=seed, progress=on_bytes)
    return Weights(
        loaded.kind,
        untrained=loaded.untrained,
        source=loaded.source,
        sha256=loaded.sha256,
        seed=seed if loaded.untrained else None,
    )


def _from_module(
    module: nn.Module,
    *,
    name: str,
    spec: str,
    input_shape: Shape,
    weights: Weights,
    options: dict[str, object],
    preprocessing: Preprocessing | None = None,
    entry: NetEntry | None = None,
) -> NetSource:
    for parameter_name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"the weights have NaN or infinite numbers in `{parameter_name}`",
                where=weights.source or spec,
                do="train or convert the weights again",
            )
    drop_auxiliary(module)
    return NetSource(
        name=name,
        spec=spec,
        input_shape=input_shape,
        weights=weights,
        module=module.eval(),
        graph=None,
        options={k: str(v) for k, v in options.items()},
        preprocessing=preprocessing,
        params=sum(p.numel() for p in module.parameters()),
        entry=entry,
    )
