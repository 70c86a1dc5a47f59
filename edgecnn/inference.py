"""Asking an artifact: images in, class scores out, whatever its layout, element types and batch.

What an artifact expects stands in its manifest; for a file of another tool it is read from the file itself.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgecnn.artifact import Artifact
from edgecnn.data.preprocessing import Preprocessing
from edgecnn.errors import InputError
from edgecnn.runtime.tensor import TensorSpec
from edgecnn.targets.engine import explained, open_session

Floats = npt.NDArray[np.float32]


class Predictor:
    """An artifact opened for classification.

    Args:
        artifact: the file, with its manifest if it has one.
        threads: how many one inference may use.

    Raises:
        InputError: it is no classifier of a single image tensor.
    """

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        self.artifact = artifact
        self._session = open_session(artifact.path, threads=threads)
        if len(self._session.inputs) != 1 or len(self._session.inputs[0].shape) != 4:
            shapes = ", ".join(str(tuple(s.shape)) for s in self._session.inputs)
            self.close()
            raise InputError(
                f"`{artifact.path}` is no image classifier", expected="one input of four dimensions", got=shapes
            )
        self._input: TensorSpec = self._session.inputs[0]
        shape = tuple(self._input.shape)
        layout = artifact.manifest.get("input", {}).get("layout")
        # Channels are few and stand last in NHWC; a manifest says it outright.
        self._nhwc = layout == "NHWC" if layout else shape[3] in (1, 3) and shape[1] not in (1, 3)
        self.batch = int(shape[0])
        h, w, c = shape[1:] if self._nhwc else (shape[2], shape[3], shape[1])
        self.input_shape: tuple[int, int, int] = (int(c), int(h), int(w))
        self.takes_pixels = bool(artifact.manifest.get("preprocessing", {}).get("embedded", False))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Frees the engine."""
        self._session.close()

    def scores(self, x_nchw: Floats, preprocessing: Preprocessing) -> Floats:
        """Class scores for images that `preprocessing` has normalised.

        Shapes:
            Takes float32 (N, C, H, W) for any N; returns float32 (N, classes).
        """
        if self.takes_pixels:
            mean = np.asarray(preprocessing.mean, np.float32).reshape(-1, 1, 1)
            std = np.asarray(preprocessing.std, np.float32).reshape(-1, 1, 1)
            x_nchw = np.rint((x_nchw * std + mean) * 255)  # whole again: the pixels were uint8 before
        answers = []
        for at in range(0, len(x_nchw), self.batch):
            piece = x_nchw[at : at + self.batch]
            short = self.batch - len(piece)
            full = np.concatenate([piece, np.repeat(piece[-1:], short, 0)]) if short else piece
            with explained():
                answers.append(self._call(full)[: len(piece)])
        return np.concatenate(answers)

    def _call(self, x_nchw: Floats) -> Floats:
        x = x_nchw.transpose(0, 2, 3, 1) if self._nhwc else x_nchw
        codes = quantize_input(np.ascontiguousarray(x), self._input, self.artifact)
        y = self._session.run([codes])[0]
        spec = self._session.outputs[0]
        scale, zero = _coding(spec, self.artifact.manifest.get("output", {}))
        if np.issubdtype(y.dtype, np.integer) and scale:
            y = (y.astype(np.float32) - zero) * np.float32(scale)
        return y.reshape(len(y), -1).astype(np.float32)


def quantize_input(x: Floats, spec: TensorSpec, artifact: Artifact) -> npt.NDArray[np.generic]:
    """`x` in the element type the input wants.

    Raises:
        InputError: the input is of an integer type whose scale neither the file nor a manifest gives.
    """
    if not np.issubdtype(np.dtype(spec.dtype), np.integer):
        return x.astype(spec.dtype)
    scale, zero = _coding(spec, artifact.manifest.get("input", {}))
    if not scale:
        raise InputError(
            f"`{artifact.path}` takes {spec.dtype}, and neither the file nor a manifest says with what scale",
            do="keep the .json manifest beside the artifact",
        )
    info = np.iinfo(np.dtype(spec.dtype))
    codes = np.clip(np.rint(x.astype(np.float64) / scale) + zero, info.min, info.max)
    coded: npt.NDArray[np.generic] = codes.astype(spec.dtype)
    return coded


def _coding(spec: TensorSpec, manifest: dict[str, float]) -> tuple[float, int]:
    scale, zero = spec.scale, spec.zero_point
    if not scale:
        scale, zero = manifest.get("scale"), manifest.get("zero_point")  # type: ignore[assignment]
    return float(scale or 0.0), int(zero or 0)
