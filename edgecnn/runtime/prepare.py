"""From a picture's pixels to an artifact's input, as a device does it for each frame: part of the end-to-end time.

What a net expects is in the artifact itself: the channels' means and deviations, the layout, and for int8 the scale.
Since a pixel has 256 values, normalising and quantising are one look-up in a table. Decoding a picture's file and
scaling it to the net's size are not part of it: a camera's own hardware does both.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Sequence

import numpy as np

from .errors import BadRequest

if TYPE_CHECKING:
    from .tensor import Array, TensorSpec


def preparation(
    inputs: Sequence[TensorSpec], metadata: Mapping[str, str], *, seed: int = 0
) -> Callable[[], List[Array]]:
    """A function that makes the input out of one random picture of the net's own size, anew at each call.

    Args:
        inputs: of the artifact.
        metadata: of the artifact; `edgecnn.preprocessing` and `edgecnn.input` as `edgecnn export` writes them.
        seed: of the picture.

    Raises:
        BadRequest: the artifact does not say what it expects, or takes something other than one picture.
    """
    known = _record(metadata, "edgecnn.preprocessing")
    layout = _record(metadata, "edgecnn.input").get("layout")
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or layout not in ("NCHW", "NHWC"):
        raise BadRequest(
            "this artifact does not say how a picture becomes its input", do="artifacts of `edgecnn export` do"
        )
    spec = inputs[0]
    n, h, w, c = spec.shape if layout == "NHWC" else (spec.shape[0], *spec.shape[2:], spec.shape[1])
    tables = _tables(spec, known, c)
    picture = np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)

    def prepare() -> List[Array]:
        made = np.empty(spec.shape, spec.dtype)
        for channel, table in enumerate(tables):
            plane = made[..., channel] if layout == "NHWC" else made[:, channel]
            plane[...] = table[picture[..., channel]]
        return [made]

    return prepare


def _tables(spec: TensorSpec, known: Mapping[str, Any], channels: int) -> List[Array]:
    """By channel, what each of the 256 values of a pixel becomes."""
    pixels = np.arange(256, dtype=np.float64)
    mean, std = known.get("mean"), known.get("std")
    if known.get("embedded"):
        values = [pixels] * channels
    elif isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == channels:
        values = [(pixels / 255 - mean[i]) / std[i] for i in range(channels)]
    else:
        raise BadRequest("this artifact does not say how its pixels are normalised")
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return [value.astype(dtype) for value in values]
    if not spec.scale:
        raise BadRequest(f"input `{spec.name}` takes {spec.dtype} of an unknown scale")
    info = np.iinfo(dtype)
    codes = [np.rint(value / spec.scale) + (spec.zero_point or 0) for value in values]
    return [np.clip(code, info.min, info.max).astype(dtype) for code in codes]


def _record(metadata: Mapping[str, str], key: str) -> Mapping[str, Any]:
    """A record of the artifact's metadata; LiteRT files hold all of them in one JSON under `edgecnn`."""
    try:
        text = metadata.get(key)
        if text is None:
            text = json.loads(metadata.get("edgecnn", "{}")).get(key, "{}")
        record = json.loads(text)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
