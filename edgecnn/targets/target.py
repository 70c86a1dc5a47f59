"""What a target is: data. One record names its runtime, its quantisation scheme, its passes and its emitter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgecnn.errors import unknown
from edgecnn.ir.graph import Graph, Note, Pass
from edgecnn.quant.scheme import Scheme
from edgecnn.registry import Registry
from edgecnn.runtime.cpu import local_cpu

Cpu = Literal["x86", "x86-amx", "armv8-a53", "armv8", "armv8-dot", "armv8-i8mm"]
CPUS: tuple[Cpu, ...] = ("x86", "x86-amx", "armv8-a53", "armv8", "armv8-dot", "armv8-i8mm")
"""The kinds of core that decide a lowering: x86 with VNNI, and with AMX; ARMv8 plain, with dot product, with i8mm."""


def core_named(name: str | None) -> Cpu:
    """The core of this name; this machine's if there is none.

    Raises:
        UsageError: there is no such core; the nearest are named.
    """
    wanted = name or local_cpu()
    for cpu in CPUS:
        if cpu == wanted:
            return cpu
    raise unknown("cpu", wanted, CPUS)


IoType = Literal["int8", "uint8", "int16", "float32"]


@dataclass(frozen=True)
class EmitOptions:
    """What the caller decides about an artifact.

    Args:
        cpu: the core it is meant for.
        batch: the number of images per call, fixed in the file.
        input_type: the element type of the input; the output has the same (float32 stays float32).
        metadata: key-value pairs for the artifact's own metadata fields.
        settings: `--set key=value` pairs, each a name the target documents in `Target.settings`.
    """

    cpu: Cpu = "x86"
    batch: int = 1
    input_type: IoType = "float32"
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Emitted:
    """The bytes of an artifact, and what its lowering chose or could not choose."""

    data: bytes
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Target:
    """A runtime with a precision.

    Args:
        name: what the user writes, such as `tflite-int8`.
        runtime: the module of `edgecnn.runtime` that runs it.
        suffix: of the file, with the dot.
        input_types: the input types it can take; the first is the default.
        scheme: the quantisation scheme for a core; None for a float target.
        weights: how a target without a scheme stores weights: `float`, `int8`, or `dynamic`: int8, and the inputs of
            layers coded as they run (`quant.weights_only`).
        passes: the rewrites for a core, in order; run before measuring. Given the settings of `--set`.
        emit: graph (quantised if there is a scheme) to bytes. Raises UnsupportedOp.
        settings: the names that `--set` takes, each with its meaning and default.
    """

    name: str
    runtime: Literal["litert", "ort"]
    suffix: str
    input_types: tuple[IoType, ...]
    scheme: Callable[[Cpu], Scheme] | None
    passes: Callable[[Cpu, Mapping[str, str]], tuple[Pass, ...]]
    emit: Callable[[Graph, EmitOptions], Emitted]
    settings: Mapping[str, str] = field(default_factory=dict)
    weights: Literal["float", "int8", "dynamic"] = "float"

    @property
    def nhwc(self) -> bool:
        """Whether the artifact's images are NHWC (TFLite) instead of NCHW (ONNX)."""
        return self.runtime == "litert"


TARGETS: Registry[Target] = Registry("target")
