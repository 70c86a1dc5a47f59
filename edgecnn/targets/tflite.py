"""The TFLite targets: int8, int8 weights under float activations, float, and float in half precision where there is.

A net becomes one file that XNNPACK takes as one partition: `tflite_ops` says how each op is lowered, `tflite_lower`
holds the file under construction, `tflite_file` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np

from edgecnn.errors import UnsupportedOp
from edgecnn.ir.graph import Graph, Note, Op, Pass, Source
from edgecnn.ir.ops import SAME_CODES
from edgecnn.passes.activations import fold_hard_sigmoid, split_silu
from edgecnn.passes.channel_shuffle import fold_channel_shuffle
from edgecnn.passes.deform_sampling import deform_sampling
from edgecnn.passes.even_pools import even_pools
from edgecnn.passes.group_shuffle import Shuffle, shuffle_into_rows, ungroup
from edgecnn.passes.group_width import widen_groups
from edgecnn.passes.hetconv import FORMS, hetconv
from edgecnn.passes.linear_to_conv import linear_to_conv
from edgecnn.passes.merge_branches import merge_branches
from edgecnn.passes.standard import STANDARD
from edgecnn.quant.scheme import LITERT, LITERT_S16, Scheme
from edgecnn.targets.settings import Settings
from edgecnn.targets.target import TARGETS, Cpu, EmitOptions, Emitted, Target
from edgecnn.targets.tflite_conv import absorbed_pads
from edgecnn.targets.tflite_file import Model, Tensor, serialize
from edgecnn.targets.tflite_gate import gated_maps
from edgecnn.targets.tflite_hetconv import fastest_form
from edgecnn.targets.tflite_limits import operator_limit
from edgecnn.targets.tflite_lower import Lowering, NotLowered
from edgecnn.targets.tflite_ops import RULES, lower

HALF_PRECISION = {"reduced_precision_support": b"fp16accfp16"}
"""The metadata by which XNNPACK runs a float32 file in half precision on cores that have it, and in float on others."""


def emit(graph: Graph, options: EmitOptions, *, target: str, metadata: Mapping[str, bytes] | None = None) -> Emitted:
    """The TFLite file of a graph: int8 if its input is coded, else float.

    The file's tensors are NHWC. One input is called `input`, several keep the graph's names; outputs likewise.

    Args:
        graph: after the target's passes and, for int8, after `assign`.
        options: see `EmitOptions`.
        target: the target's name, for messages.
        metadata: further entries of the file's metadata, by name.

    Raises:
        UnsupportedOp: an op has no TFLite form, or would have to keep to fewer codes than its type has; the error
            names its place in the user's program.
    """
    CHOICES.check(options.settings)
    _refuse_narrow_codes(graph, target)
    low = Lowering(graph, options)
    low.absorbed = absorbed_pads(graph) | gated_maps(graph, options.settings)
    inputs = {title: _bind_input(low, name) for title, name in _titles(graph.inputs, "input").items()}
    for op in graph.ops:
        if op.output not in low.absorbed:
            _lower(low, op, target)
    outputs = {title: _output(low, name) for title, name in _titles(graph.outputs, "output").items()}
    notes = [*low.notes, *_limits(low)]
    entries = {**(metadata or {}), "edgecnn": json.dumps(dict(options.metadata), sort_keys=True).encode()}
    model = Model(graph.name, tuple(low.operators), inputs, outputs, entries)
    return Emitted(serialize(model), tuple(notes))


def _refuse_narrow_codes(graph: Graph, target: str) -> None:
    """Refuses codes of fewer bits than their type has, which only a simulation has.

    Whatever computes saturates at the ends of its type, so a code beyond narrower bounds would come out; what only
    moves codes has none that its input has not, and constants are coded here.
    """
    computed = [op for op in graph.ops if op.kind not in SAME_CODES]
    for op in (*(Op("input", (), name, source=Source("the net's input")) for name in graph.inputs), *computed):
        q = graph.value(op.output).q
        if q is None:
            continue
        whole = np.iinfo(q.dtype)
        if q.qmin > whole.min + 1 or q.qmax < whole.max:  # one code less is a symmetric type, whose end is never hit
            raise UnsupportedOp(
                f"{target} saturates at the ends of {q.dtype} only",
                where=str(op.source),
                expected=f"codes from {whole.min} to {whole.max}",
                got=f"`{op.output}`, an {op.kind}, in codes from {q.qmin} to {q.qmax}: simulated bits",
                do="quantise with 8 bits for this target, or emit `onnx-int8`, which has a clip of codes",
            )


def _titles(names: tuple[str, ...], title: str) -> dict[str, str]:
    return {title: names[0]} if len(names) == 1 else {name: name for name in names}


def _lower(low: Lowering, op: Op, target: str) -> None:
    try:
        lower(low, op)
    except NotLowered as refusal:
        raise UnsupportedOp(
            f"{target} cannot lower `{op.kind}`",
            where=str(op.source),
            expected=None if op.kind in {*RULES, *REMEDIES} else "one of " + ", ".join(sorted(RULES)),
            got=f"`{op.output}`: {refusal}",
            do=REMEDIES.get(op.kind, f"replace the `{op.kind}`, or add a rule to edgecnn/targets/tflite_ops.py"),
        ) from None


REMEDIES = {
    "batch_norm": "run the target's passes before emitting",
    "deform_conv": "run the target's passes before emitting",
}
"""What to do about a kind, where there is something better than to add a rule."""


def _bind_input(low: Lowering, name: str) -> Tensor:
    """Makes an input of the file in the type that the caller wants, and what the net reads from it.

    uint8 goes through float: XNNPACK makes a table of that (20 us for a 224x224 image on x86), while QUANTIZE from
    uint8 is not delegated (104 us).
    """
    q, shape, wanted = low.graph.value(name).q, low.shape(name), low.options.input_type
    if q is None or wanted == "float32":
        tensor = Tensor(low.unique(f"{name}/outside"), shape, "float32")
    else:
        tensor = Tensor(low.unique(f"{name}/outside"), shape, wanted, q.recoded(wanted))
    if q is not None and wanted != q.dtype:
        low.notes.append(Note("input_type", name, True, f"{wanted} to {q.dtype}: one more pass over the input"))
    low.begin(Op("input", (), name))
    low.bind(name, tensor)
    return tensor


def _output(low: Lowering, name: str) -> Tensor:
    """The output of the file for a value of the graph, in the type that the caller wants."""
    low.begin(Op("output", (), name))
    tensor = low.read(name)
    if tensor.q is None or low.options.input_type == tensor.dtype:
        return tensor
    if low.options.input_type == "float32":
        return low.dequantize(tensor)
    return low.recode(tensor, tensor.q.recoded(low.options.input_type))


def _limits(low: Lowering) -> list[Note]:
    found = ((operator.output.name, operator_limit(operator)) for operator in low.operators)
    return [Note("int8", name, did=False, why=f"XNNPACK will not take it: {why}") for name, why in found if why]


# -------------------------------------------------------------------------------------------------------- targets

SETTINGS: dict[str, tuple[str, ...]] = {
    "hetconv_form": ("auto", *FORMS),
    "se": ("mul", "matmul"),
    "shuffle": ("fold", "transpose"),
    "stem": ("auto", "pair", "plain"),
    "columns": ("auto", "off"),
}
"""The settings with their legal values, the default first."""

MEANING: dict[str, str] = {
    "hetconv_form": "how a heterogeneous convolution runs: as grouped and pointwise, split, or one dense convolution; "
    "auto: grouped, in int8 on x86-amx by a cost model",
    "se": "matmul: squeeze-and-excitation gates multiply weights, not maps: faster on x86, a little less accurate",
    "shuffle": "channel shuffles: folded into the weights around them, or left as TRANSPOSE",
    "stem": "pair: a first layer of 3 channels and stride 2 reads pixels in pairs; auto: at least that, but not on A53",
    "columns": "auto: on x86-amx, convolutions of few channels read several columns as channels; off: never",
}
CHOICES = Settings(SETTINGS, MEANING)
INT8_SETTINGS = ("hetconv_form", "se", "shuffle", "stem", "columns")
FLOAT_SETTINGS = ("hetconv_form", "shuffle")


GROUP_WIDTH = 16
"""Channels that each group of an integer convolution reads at least: see `passes.group_width`."""


def int8_scheme(cpu: Cpu) -> Scheme:
    """int8 activations on every core."""
    return LITERT


def float_passes(cpu: Cpu, settings: Mapping[str, str]) -> tuple[Pass, ...]:
    """The rewrites of every TFLite target: whatever XNNPACK has a better form for, and no channel moved for nothing."""
    return (*_passes(settings, auto=hetconv("grouped")), merge_branches)


def _passes(settings: Mapping[str, str], *, auto: Pass, ungroups: bool = False) -> tuple[Pass, ...]:
    form = CHOICES.chosen(settings, "hetconv_form")
    forms = auto if form == "auto" else hetconv(form)  # type: ignore[arg-type]  # `setting` has checked it
    passes: list[Pass] = [*STANDARD, forms, deform_sampling, linear_to_conv]
    if CHOICES.chosen(settings, "shuffle") == "fold":
        passes.append(shuffle_into_rows)
        if ungroups:
            passes += [ungroup(pays), shuffle_into_rows]
        passes.append(fold_channel_shuffle)
    return tuple(passes)


def int8_passes(cpu: Cpu, settings: Mapping[str, str]) -> tuple[Pass, ...]:
    """The rewrites before measuring: those of the float targets, then the activations that int8 has in other forms.

    Raises:
        UsageError: the value of a setting is not legal, also of one that only emitting needs.
    """
    CHOICES.check(settings)
    x86 = cpu.startswith("x86")
    passes = _passes(settings, auto=fastest_form(cpu), ungroups=x86)
    widens = (widen_groups(GROUP_WIDTH),) if x86 else ()  # measured there only
    return (*passes, *widens, even_pools, fold_hard_sigmoid, split_silu)


def pays(added_macs: int, shuffles: list[Shuffle]) -> bool:
    """Whether a dense convolution is cheaper than its groups and the shuffles around them, which are TRANSPOSE.

    Measured with ShuffleNetV1 on x86 (AVX512-VNNI), op by op: TRANSPOSE moves a code in 0.54 to 0.69 ns, and 1x1
    convolutions do 230 multiply-adds in a nanosecond. Not measured on ARM.
    """
    return added_macs <= 140 * sum(shuffle.channels * shuffle.pixels for shuffle in shuffles)


TARGETS.add(
    "tflite-int8",
    Target(
        name="tflite-int8",
        runtime="litert",
        suffix=".tflite",
        input_types=("int8", "float32", "uint8"),
        scheme=int8_scheme,
        passes=int8_passes,
        emit=partial(emit, target="tflite-int8"),
        settings=CHOICES.described(INT8_SETTINGS),
    ),
)
TARGETS.add(
    "tflite-int16x8",
    Target(
        name="tflite-int16x8",
        runtime="litert",
        suffix=".tflite",
        input_types=("float32",),
        scheme=lambda cpu: LITERT_S16,
        passes=float_passes,
        emit=partial(emit, target="tflite-int16x8"),
        settings=CHOICES.described(FLOAT_SETTINGS),
    ),
)
FORMS_OF_WEIGHTS: dict[str, tuple[Literal["float", "int8", "dynamic"], Mapping[str, bytes]]] = {
    "tflite-fp32": ("float", {}),
    "tflite-fp16": ("float", HALF_PRECISION),
    "tflite-w8": ("int8", {}),
    "tflite-dynamic": ("dynamic", {}),
}
for _name, (_weights, _metadata) in FORMS_OF_WEIGHTS.items():
    TARGETS.add(
        _name,
        Target(
            name=_name,
            runtime="litert",
            suffix=".tflite",
            input_types=("float32",),
            scheme=None,
            passes=float_passes,
            emit=partial(emit, target=_name, metadata=_metadata),
            settings=CHOICES.described(FLOAT_SETTINGS),
            weights=_weights,
        ),
    )
