"""The page of a building block: what it computes and costs, beside the standard convolution, and where it runs.

Where it runs is found out, not known: the block is exported to every target and the runtime is asked.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import nn

from edgecnn.data import Dataset, load_profile
from edgecnn.data.dataset import Batch
from edgecnn.errors import EdgecnnError, InputError, UsageError, unknown
from edgecnn.ir.from_torch import import_module
from edgecnn.ir.graph import Graph
from edgecnn.ir.ops import macs_of
from edgecnn.nets import NETS, init_random
from edgecnn.nets.block_registry import BLOCKS, EXAMPLE_INPUT, BlockEntry, build_block, evaluate
from edgecnn.nets.random_weights import smooth_images
from edgecnn.nets.user_net import is_user_net
from edgecnn.pipeline.export import export
from edgecnn.pipeline.export_options import ExportOptions
from edgecnn.pipeline.source import NetSource, Shape, Weights
from edgecnn.targets import TARGETS, all_targets

SEED = 0
MAPS = 8
"""How many random feature maps a block is calibrated on: 6272 values of each channel at the example size."""


@dataclass(frozen=True)
class Cost:
    """A cost as a formula, its value, and the value's share of the standard convolution's; None if it has none."""

    formula: str
    value: int
    share: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a block runs on one target.

    Args:
        target: its name.
        where: `int8`, `int8 in part`, `float`, `float in part` or `no`; in part: some operators are outside of the
            runtime's fast path. `float` of an int8 target: all of it between conversions from and to codes.
        macs: multiply-adds that the runtime executes, padding and zeros included.
        macs_share: of the multiply-adds in the fast path, 0...1; None where the block has no multiply-adds.
        operators: that the runtime executes, borders included.
        reasons: why it is `no` or in part.
    """

    target: str
    where: str
    macs: int = 0
    macs_share: float | None = None
    operators: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockPage:
    """All that the page says; shapes are (C, H, W) of one image."""

    entry: BlockEntry
    options: Mapping[str, object]
    input_shape: Shape
    output_shape: tuple[int, ...]
    symbols: Mapping[str, Fraction]
    params: Cost
    norm_params: Cost
    macs: Cost
    identities: tuple[tuple[str, str, Fraction], ...]
    graph: Graph
    places: tuple[Place, ...]

    @property
    def ops(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Kind, output shape and multiply-adds of each op of the block's graph."""
        graph = self.graph
        return [(op.kind, graph.shape(op.output)[1:], macs_of(graph, op)) for op in graph.ops]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        entry = self.entry
        return {
            "block": entry.name,
            "summary": entry.summary,
            "source": entry.source,
            "computes": list(entry.computes),
            "options": dict(self.options),
            "input": list(self.input_shape),
            "output": list(self.output_shape),
            "symbols": {k: float(v) for k, v in self.symbols.items()},
            "params": vars(self.params),
            "norm_params": vars(self.norm_params),
            "macs": vars(self.macs),
            "identities": [{"what": a, "formula": b, "value": float(v)} for a, b, v in self.identities],
            "remarks": list(entry.remarks),
            "ops": [{"kind": kind, "output": list(shape), "macs": macs} for kind, shape, macs in self.ops],
            "targets": [{**vars(p), "reasons": list(p.reasons)} for p in self.places],
        }


def names_block(spec: str) -> bool:
    """Whether `spec` names a block; no if it names a net, a file or code of the user's.

    Raises:
        UsageError: it is a plain word that names neither a net nor a block; the nearest of both are offered.
    """
    if spec in BLOCKS:
        return True
    if spec in NETS or is_user_net(spec) or Path(spec).suffix:
        return False
    aliases = [alias for _, entry in NETS.items() for alias in entry.aliases]
    raise unknown("net or block", spec, [*NETS, *aliases, *BLOCKS])


def block_page(
    name: str,
    *,
    input_shape: Shape | None = None,
    options: Mapping[str, object] | None = None,
    targets: Sequence[str] | None = None,
    cpu: str | None = None,
) -> BlockPage:
    """The page of a block.

    Args:
        name: a name in `BLOCKS`.
        input_shape: (C, H, W); C is the option `channels`. None: `EXAMPLE_INPUT`, with as many channels as the option.
        options: the block's own.
        targets: to export to; None: all.
        cpu: the core that artifacts are for; None: this machine's.

    Raises:
        UsageError: unknown names, illegal values, or an input that the block does not fit.
    """
    entry = BLOCKS[name]
    all_targets()
    chosen = [TARGETS[t].name for t in (targets if targets is not None else sorted(TARGETS))]
    typed, shape = _fitted(entry, dict(options or {}), input_shape)
    module = build_block(name, seed=SEED, **typed)
    init_random(module, SEED, shape)
    graph = import_module(module, shape, name=name)
    output_shape = graph.shape(graph.outputs[0])[1:]
    symbols = entry.symbols(typed, shape, output_shape)
    standard = BLOCKS["standard_conv"]
    # The standard convolution has the block's kernel, or 3x3, as the blocks without that option have.
    plain = {"k": Fraction(3)} | symbols
    return BlockPage(
        entry,
        typed,
        shape,
        output_shape,
        symbols,
        _cost(entry.params, symbols, evaluate(standard.params, plain)),
        _cost(entry.norm_params, symbols, None),
        _cost(entry.macs, symbols, evaluate(standard.macs, plain)),
        tuple((label, formula, evaluate(formula, symbols)) for label, formula in entry.identities),
        graph,
        tuple(_place(t, module, graph, shape, cpu) for t in chosen),
    )


def _fitted(entry: BlockEntry, options: dict[str, object], shape: Shape | None) -> tuple[dict[str, object], Shape]:
    """All options and the input shape, which agree in the number of channels: either may bring it."""
    if shape is not None and "channels" not in {o.lower() for o in options}:
        options["channels"] = shape[0]
    typed = entry.typed(options)
    channels = typed["channels"]
    assert isinstance(channels, int)
    shape = shape or (channels, *EXAMPLE_INPUT[1:])
    if shape[0] != channels:
        raise UsageError(
            "the input has not the block's channels",
            where=f"block {entry.name}",
            expected=f"{channels} channels",
            got="x".join(map(str, shape)),
            do=f"leave out `channels`, or give --input {channels}x{shape[1]}x{shape[2]}",
        )
    return typed, shape


def _cost(formula: str, symbols: Mapping[str, Fraction], standard: Fraction | None) -> Cost:
    value = evaluate(formula, symbols)
    assert value.denominator == 1, formula  # a block that could be built has whole costs
    return Cost(formula, int(value), float(value / standard) if value and standard else None)


# ------------------------------------------------------------------------------------------------- where it runs


@dataclass(frozen=True)
class FeatureMaps(Dataset):
    """Random smooth feature maps of any number of channels in place of images."""

    shape: Shape = EXAMPLE_INPUT

    def batches(self, batch_size: int, *, split: str = "all", limit: int | None = None) -> Iterator[Batch]:
        """The same maps each time. Shapes: float32 (N, C, H, W)."""
        maps = smooth_images(min(MAPS, limit or MAPS), self.shape, seed=self.seed).numpy()
        for start in range(0, len(maps), batch_size):
            yield maps[start : start + batch_size], None

    def fingerprint(self, split: str = "all", *, limit: int | None = None) -> str:
        """A hash of all that the maps are made from."""
        return hashlib.sha256(repr((self.shape, self.seed, MAPS)).encode()).hexdigest()


def _place(target: str, module: nn.Module, graph: Graph, shape: Shape, cpu: str | None) -> Place:
    noise = load_profile("random", input_shape=(3, *shape[1:]), seed=SEED)
    data = FeatureMaps(**{**vars(noise), "name": "random feature maps"}, shape=shape)
    weights = Weights("random", untrained=True, seed=SEED)
    source = NetSource(graph.name, graph.name, shape, weights, module, graph)
    with tempfile.TemporaryDirectory(prefix="edgecnn-block-") as folder:
        options = ExportOptions(target=target, cpu=cpu, min_coverage=0.0, per_op=False, output=Path(folder))
        try:
            artifact = export(source, options=options, data=data)
        except EdgecnnError as error:
            if isinstance(error, (UsageError, InputError)):
                raise
            return Place(target, "no", reasons=tuple(r for r in (error.what, error.expected, error.got) if r))
    return judge(target, artifact.manifest["coverage"])


def judge(target: str, coverage: Mapping[str, Any]) -> Place:
    """Where a block runs on `target`, from the coverage that its manifest states."""
    missed = [op for op in coverage["details"] if op["place"] == "outside"]
    fast = coverage["operators"] - len(coverage["details"])
    if coverage["precision"] == "int8" and missed and not fast:
        where = "float"
    else:
        where = coverage["precision"] + (" in part" if missed and fast else ", slow" if missed else "")
    kinds_by_reason: dict[str, dict[str, None]] = {}
    for op in missed:
        kinds_by_reason.setdefault(op["reason"], {})[op["kind"]] = None
    reasons = tuple(f"{', '.join(kinds)}: {reason}" for reason, kinds in kinds_by_reason.items())
    share = coverage["macs_share"] if coverage["macs"] else None
    return Place(target, where, coverage["macs"], share, coverage["operators"], reasons)
