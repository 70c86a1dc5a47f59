"""What an artifact says about its inputs and outputs, and the check that an array fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .errors import BadRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact, in the artifact's own layout.

    Args:
        name: as the file has it.
        shape: the sizes used here; free ones are 1 unless the caller chose otherwise.
        dtype: numpy's name of the element type.
        scale: of the codes; None if the tensor is not quantised or the file does not say.
        zero_point: likewise.
        free: the dimensions the file leaves open.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: str
    scale: Optional[float] = None
    zero_point: Optional[int] = None
    free: Tuple[int, ...] = ()

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of `shape` may be fed: equal but for the free dimensions."""
        return len(shape) == len(self.shape) and all(
            i in self.free or size == self.shape[i] for i, size in enumerate(shape)
        )

    def to_json(self) -> Dict[str, Any]:
        """The record as plain data."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scale": self.scale,
            "zero_point": self.zero_point,
        }


def check_arrays(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> None:
    """Checks that `arrays` can be fed to inputs of `specs`.

    Raises:
        BadRequest: another number of arrays, another shape, or another element type; nothing is converted silently.
    """
    if len(arrays) != len(specs):
        names = ", ".join(f"`{s.name}`" for s in specs)
        raise BadRequest(f"{len(arrays)} arrays for {len(specs)} inputs", do=f"give one array for each of {names}")
    for i, spec in enumerate(specs):
        array = arrays[i]
        if array.dtype.name != spec.dtype or not spec.accepts(array.shape):
            raise BadRequest(
                f"input `{spec.name}` takes {spec.dtype} of shape {list(spec.shape)}, "
                f"not {array.dtype.name} of shape {list(array.shape)}",
                where=spec.name,
                do="convert the array to the artifact's own layout and type",
            )


def random_arrays(specs: Sequence[TensorSpec], *, seed: int) -> List[Array]:
    """Seeded random arrays that fit `specs`: all codes for 8-bit integers, standard normal for floats, 0 or 1 else.

    Wider integers are mostly indices or flags, for which 0 and 1 are always legal.
    """
    rng = np.random.default_rng(seed)
    arrays: List[Array] = []
    for spec in specs:
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays.append(rng.standard_normal(spec.shape).astype(dtype))
        elif dtype.itemsize == 1 and dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            arrays.append(rng.integers(bounds.min, bounds.max, spec.shape, dtype=dtype, endpoint=True))
        else:
            arrays.append(rng.integers(0, 2, spec.shape).astype(dtype))
    return arrays
