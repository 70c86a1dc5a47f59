"""How a runtime wants its numbers: the part of quantisation that differs between targets, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgecnn.errors import UsageError
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
        act_bits: bits of an activation's code, 2 up to those of `act_dtype`. Fewer are simulated: codes stay in
            `act_dtype` and use a part of it (int8 with 4 bits: -8 to 7; uint8: 0 to 15).
        weight_bits: bits of a weight's code, 2 to 8, in int8; biases stay int32.

    Raises:
        UsageError: a number of bits out of range.
    """

    name: str
    act_dtype: IntType = "int8"
    symmetric: bool = False
    hard_swish: Literal["table", "clip_mul"] = "table"
    clip_codes: bool = False
    float_bias: bool = False
    float_kinds: frozenset[str] = frozenset()
    xnnpack_limits: bool = False
    act_bits: int = 8
    weight_bits: int = 8

    def __post_init__(self) -> None:
        widest = np.iinfo(self.act_dtype).bits
        for what, bits, most in (("activations", self.act_bits, widest), ("weights", self.weight_bits, 8)):
            if not 2 <= bits <= most:
                raise UsageError(f"{what} cannot have {bits} bits", where=self.name, expected=f"2 to {most}")

    @property
    def act_codes(self) -> tuple[int, int]:
        """The smallest and largest code of an activation.

        A symmetric scheme leaves the smallest unused, as TensorRT does, so that negation stays inside the codes.
        """
        half = 2 ** (self.act_bits - 1)
        if self.symmetric:
            return 1 - half, half - 1
        return (0, 2 * half - 1) if self.act_dtype.startswith("uint") else (-half, half - 1)

    @property
    def weight_max(self) -> int:
        """The largest code of a weight; the smallest is its negative."""
        return int(2 ** (self.weight_bits - 1)) - 1


LITERT = Scheme("litert-s8", xnnpack_limits=True)
LITERT_S16 = Scheme("litert-s16", "int16", symmetric=True, act_bits=16)
ORT_U8 = Scheme("ort-u8s8", "uint8", hard_swish="clip_mul", clip_codes=True)
ORT_S8 = Scheme("ort-s8s8", "int8", hard_swish="clip_mul", clip_codes=True)
