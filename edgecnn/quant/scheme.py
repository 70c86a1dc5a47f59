"""How a runtime wants its numbers: the part of quantisation that differs between targets, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.ir.graph import IntType


@dataclass(frozen=True)
class Scheme:
    """The rules `assign` follows.

    Args:
        name: for messages and the manifest.
        act_dtype: type of activation codes.
        symmetric: zero point in the middle of the codes (TensorRT); otherwise asymmetric.
        hard_swish: `table`: any input parameters, the runtime looks the result up (LiteRT). `clip_mul`: the input is
            coded with scale 6/k and zero point k/2, so that the gate is the same codes clipped to 0...k and read with
            scale 1/k (ONNX Runtime; k even, as large as the range allows).
        clip_codes: a clip that is not fused clips codes, so its output shares its input's parameters (ONNX Runtime).
        float_bias: the bias stays float (TensorRT) instead of int32 with scale s_x * s_w.
        float_kinds: op kinds that stay float in this runtime.
        xnnpack_limits: keep the ratios of scales within what XNNPACK's kernels take; beyond them an op silently
            leaves the fast path.
    """

    name: str
    act_dtype: IntType = "int8"
    symmetric: bool = False
    hard_swish: Literal["table", "clip_mul"] = "table"
    clip_codes: bool = False
    float_bias: bool = False
    float_kinds: frozenset[str] = frozenset()
    xnnpack_limits: bool = False


LITERT = Scheme("litert-s8", xnnpack_limits=True)
ORT_U8 = Scheme("ort-u8s8", "uint8", hard_swish="clip_mul", clip_codes=True)
ORT_S8 = Scheme("ort-s8s8", "int8", hard_swish="clip_mul", clip_codes=True)
