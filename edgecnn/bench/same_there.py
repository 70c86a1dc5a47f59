"""Does an artifact compute on a device what it computes here? Asked with random inputs before anything is timed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from math import inf, log10
from pathlib import Path

import numpy as np

from edgecnn.bench.stats import Array
from edgecnn.bench.worker import Worker
from edgecnn.device.place import Remote
from edgecnn.errors import CheckFailed, DeviceFailed, EnvironmentFailure
from edgecnn.runtime.tensor import random_arrays
from edgecnn.targets.engine import open_session

INPUTS = 4
LEAST_DB = {"int8": 20.0, "float": 40.0}
"""Signal to difference below which the device computes something else.

Runtimes round differently: int8 codes a step or a few apart leave 25 dB and more, float32 sums in another order over
100, half-precision arithmetic about 60; a wrong kernel or layout leaves next to nothing.
"""


@dataclass(frozen=True)
class SameThere:
    """How far the outputs there are from those here.

    Args:
        inputs: how many were tried; 0 where this machine lacks the engine.
        values: how many output values that made.
        equal: how many of them are bit for bit the same.
        largest: the largest difference, in codes for integer outputs.
        db: signal to difference, in decibel; infinite if all are equal.
        integer: whether the outputs are integer codes.
        device: its name.
    """

    inputs: int
    values: int
    equal: int
    largest: float
    db: float
    integer: bool
    device: str

    @property
    def sentence(self) -> str:
        """The finding as a line for a report."""
        if self.inputs == 0:
            return f"outputs on {self.device} were not compared: this machine lacks the engine"
        if self.equal == self.values:
            return f"outputs on {self.device} are bit for bit those here, on {self.inputs} random inputs"
        by = f"{self.largest:.0f} code(s)" if self.integer else f"{self.largest:.2g}"
        return (
            f"outputs on {self.device}: {self.equal} of {self.values} values as here, "
            f"the others at most {by} off ({self.db:.0f} dB), on {self.inputs} random inputs"
        )


def compare_there(
    path: str, worker: Worker, device: Remote, *, shapes: Mapping[str, tuple[int, ...]] | None = None, seed: int = 0
) -> SameThere:
    """Runs the artifact here and there on the same random inputs.

    Raises:
        CheckFailed: the outputs differ by more than rounding can explain, or in shape or type.
        DeviceFailed: what comes back is no array.
    """
    here: list[Array] = []
    there: list[Array] = []
    try:
        session = open_session(path, shapes=shapes)
    except EnvironmentFailure:
        return SameThere(0, 0, 0, 0.0, inf, False, device.name)
    with closing(session), tempfile.TemporaryDirectory(prefix="edgecnn-parity-") as folder:
        for number in range(INPUTS):
            arrays = random_arrays(session.inputs, seed=seed + number)
            here += session.run(arrays)
            files = []
            for array in arrays:
                file = Path(folder) / "x.npy"
                np.save(file, array, allow_pickle=False)
                files.append(device.send(file, suffix=".npy")[0])
            names = [f"y{i}.npy" for i in range(len(session.outputs))]
            worker.ask("run", files=files, out=[f"{device.folder}/{name}" for name in names])
            there += [_array(device.fetch(name), device.name) for name in names]
    return judge(here, there, inputs=INPUTS, path=path, device=device.name)


def _array(content: bytes, device: str) -> Array:
    try:
        array: Array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.kind in "biuf":
            return array
    except (ValueError, EOFError, OSError, SyntaxError, MemoryError):
        pass
    raise DeviceFailed(f"`{device}` sent back outputs that are no .npy of numbers", got=repr(content[:60]))


def judge(here: list[Array], there: list[Array], *, inputs: int, path: str, device: str) -> SameThere:
    """The comparison of two lists of outputs.

    Raises:
        CheckFailed: see `compare_there`.
    """
    expected, got = ([(a.shape, str(a.dtype)) for a in side] for side in (here, there))
    if expected != got:
        raise CheckFailed(
            f"outputs on `{device}` have other shapes or types than here",
            where=path,
            expected=str(expected),
            got=str(got),
        )
    integer = all(a.dtype.kind in "iu" for a in here)
    a, b = (np.concatenate([x.astype(np.float64).ravel() for x in side]) for side in (here, there))
    # Codes are measured from their mean: a zero point far from 0 is no signal.
    signal, noise = float(np.mean((a - a.mean()) ** 2)), float(np.mean((a - b) ** 2))
    broken = not np.isfinite(b).all()
    db = inf if noise == 0 else -inf if signal == 0 or broken else 10 * log10(signal / noise)
    found = SameThere(inputs, a.size, int(np.sum(a == b)), float(np.max(np.abs(a - b))), db, integer, device)
    least = LEAST_DB["int8" if integer else "float"]
    if not db >= least:
        raise CheckFailed(
            f"`{device}` does not compute what this machine computes",
            where=path,
            expected=f"at least {least:.0f} dB of signal to difference",
            got=found.sentence,
            do="update the runtime there, or export for that core (`--cpu`) and for its runtime's version",
        )
    return found
