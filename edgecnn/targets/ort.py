"""ONNX Runtime on its CPU provider: the targets `onnx-int8` and `onnx-fp32`, and what each core decides.

The choices follow measurements; the team's `facts/runtimes.md` (sections 3 and 6.3) holds those of Zen 5 and ARM:

- Activations are uint8, except on cores with the int8 dot product but without int8 matrix multiply: there, and only
  there, the kernels for int8 activations are lighter. int8 stays asymmetric.
- Depthwise channels are padded to multiples of 16: the fast depthwise kernel has no other form.
- The stem reads 2x2 blocks of pixels as channels (`onnx_stem`) on x86 and on ARM with the dot product.
- On x86 only: linear layers run as 1x1 convolutions (with the stem a few per cent of a MobileNet on one AVX512-VNNI
  machine, in few noisy runs: measure again before relying on it).
- A heterogeneous convolution is split or dense on x86 (`ort_hetconv`), grouped on ARM.
- ShuffleNet's shuffles are folded into weights on x86 and with int8 matrix multiply; elsewhere moving bytes costs less
  than multiplying them by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from edgecnn.ir.graph import Graph, Pass
from edgecnn.passes.activations import fold_hard_sigmoid, split_silu
from edgecnn.passes.deform_sampling import deform_sampling
from edgecnn.passes.group_shuffle import Shuffle, shuffle_into_rows, ungroup
from edgecnn.passes.group_width import widen_groups
from edgecnn.passes.hetconv import hetconv
from edgecnn.passes.linear_to_conv import linear_to_conv
from edgecnn.passes.merge_branches import merge_branches
from edgecnn.passes.pad_channels import pad_channels
from edgecnn.passes.shuffle_onehot import shuffle_onehot
from edgecnn.passes.standard import STANDARD
from edgecnn.quant.scheme import ORT_S8, ORT_U8, Scheme
from edgecnn.targets import onnx
from edgecnn.targets.onnx_writer import Form
from edgecnn.targets.ort_hetconv import fastest_hetconv
from edgecnn.targets.settings import Settings
from edgecnn.targets.target import TARGETS, Cpu, EmitOptions, Emitted, Target

SETTINGS: dict[str, tuple[str, ...]] = {
    "hetconv_form": ("auto", "grouped", "split", "dense"),
    "stem": ("auto", "fold", "pad", "plain"),
    "pad_channels": ("auto", "16", "32", "off"),
    "shuffle": ("auto", "fold", "transpose"),
    "silu": ("int8", "float"),
    "linear": ("auto", "conv", "gemm"),
}
"""The settings of both targets with their legal values, the default first."""

MEANING: dict[str, str] = {
    "hetconv_form": "how a heterogeneous convolution runs: grouped and pointwise, split, or dense; auto: the fastest",
    "stem": "fold: the first convolution reads 2x2 blocks as channels; pad: four channels; auto: fold, not on armv8",
    "pad_channels": "depthwise channels are padded to a multiple of this; auto: 16",
    "shuffle": "channel shuffles: fold them into weights, or transpose; auto: fold on x86 and with i8mm",
    "silu": "int8: SiLU as an integer sigmoid and product; float: computed in float, fused",
    "linear": "how a linear layer behind a pool runs: as 1x1 convolution, or Gemm; auto: conv on x86",
}
MATRIX_CORES: tuple[Cpu, ...] = ("x86", "x86-amx", "armv8-i8mm")
"""Where a shuffle as part of a matrix product is cheaper than a transpose; instructions of ShuffleNetV2 with transposes
instead: Cortex-A76 0.930, with i8mm 1.021 (`scripts/arm64/lowerings.py`)."""

FOLDING_CORES: tuple[Cpu, ...] = (*MATRIX_CORES, "armv8-dot")
"""Where a stem that reads 2x2 blocks as channels is cheaper; instructions of MobileNetV3-Small with it: A53 1.010, A72
0.998, A76 0.979, with i8mm 0.974."""

GROUP_WIDTH = 32
"""Channels that each group of an integer convolution reads at least: see `passes.group_width`."""

CHOICES = Settings(SETTINGS, MEANING)
INT8_SETTINGS = ("hetconv_form", "stem", "pad_channels", "shuffle", "silu", "linear")
FLOAT_SETTINGS = ("hetconv_form",)


def int8_scheme(cpu: Cpu) -> Scheme:
    """uint8 or int8 activations, by core."""
    return ORT_S8 if cpu == "armv8-dot" else ORT_U8


def int8_passes(cpu: Cpu, settings: Mapping[str, str]) -> tuple[Pass, ...]:
    """The rewrites before measuring: the standard ones, then the forms that integer kernels are fast in."""
    form = CHOICES.chosen(settings, "hetconv_form")
    fastest = form == "auto" and cpu.startswith("x86")
    passes: list[Pass] = [*STANDARD, fastest_hetconv if fastest else _hetconv(form), deform_sampling, fold_hard_sigmoid]
    if CHOICES.chosen(settings, "silu") == "int8":
        passes.append(split_silu)
    shuffle = CHOICES.chosen(settings, "shuffle")
    if shuffle == "fold" or (shuffle == "auto" and cpu in MATRIX_CORES):
        passes += [shuffle_into_rows, ungroup(pays), shuffle_into_rows, shuffle_onehot]
    if cpu.startswith("x86"):  # measured there only
        passes.append(widen_groups(GROUP_WIDTH))
    linear = CHOICES.chosen(settings, "linear")
    if linear == "conv" or (linear == "auto" and cpu.startswith("x86")):
        passes.append(linear_to_conv)
    multiple = CHOICES.chosen(settings, "pad_channels")
    if multiple != "off":
        passes.append(partial(pad_channels, multiple=16 if multiple == "auto" else int(multiple)))
    return tuple(passes)


def pays(added_macs: int, shuffles: list[Shuffle]) -> bool:
    """Whether a dense convolution is cheaper than its groups and the shuffles around them.

    A shuffle as a convolution of its own takes its channels squared products per pixel, and starting it as much again
    twice over. The factor fits ShuffleNetV1 with 3 groups (where dense was the faster) and with 8 (one-hot) on one x86
    machine; nothing else was measured.
    """
    return added_macs <= 3 * sum(shuffle.channels**2 * shuffle.pixels for shuffle in shuffles)


def float_passes(cpu: Cpu, settings: Mapping[str, str]) -> tuple[Pass, ...]:
    """The rewrites of the float target: ONNX Runtime fuses the rest by itself."""
    return (*STANDARD, merge_branches, _hetconv(CHOICES.chosen(settings, "hetconv_form")))


def _hetconv(form: str) -> Pass:
    # Grouped is fastest in float, and on ARM in either precision.
    return hetconv("grouped" if form == "auto" else form)  # type: ignore[arg-type]  # `setting` has checked it


def emit_int8(graph: Graph, options: EmitOptions) -> Emitted:
    """The QDQ model of a quantised graph for the core in `options`."""
    stem = CHOICES.chosen(options.settings, "stem")
    if stem == "auto":
        stem = "fold" if options.cpu in FOLDING_CORES else "plain"
    form = Form(stem=stem)  # type: ignore[arg-type]  # `setting` has checked it
    return onnx.emit(graph, options, form=form)


def emit_float(graph: Graph, options: EmitOptions) -> Emitted:
    """The float model of a graph."""
    return onnx.emit(graph, options)


TARGETS.add(
    "onnx-int8",
    Target(
        name="onnx-int8",
        runtime="ort",
        suffix=".onnx",
        input_types=("float32", "uint8", "int8"),
        scheme=int8_scheme,
        passes=int8_passes,
        emit=emit_int8,
        settings=CHOICES.described(INT8_SETTINGS),
    ),
)
TARGETS.add(
    "onnx-fp32",
    Target(
        name="onnx-fp32",
        runtime="ort",
        suffix=".onnx",
        input_types=("float32",),
        scheme=None,
        passes=float_passes,
        emit=emit_float,
        settings=CHOICES.described(FLOAT_SETTINGS),
    ),
)
