"""Which int8 operations LiteRT computes otherwise on ARM than on x86, and by how much: one by one.

    scripts/arm64/device.sh kit
    .venv/bin/python scripts/arm64/differences.py

Every operation is emitted alone and fed with the same codes here (x86), on emulated ARM cores and in our integer
reference; the codes that differ are counted. Prints a Markdown table. The exit code is 1 if an operation differs that
is not known to (`KNOWN`), or by more than one code. Needs no trained weights: it is about arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecnn.bench.instructions import CORES, Job, count
from edgecnn.ir.graph import Array, Graph
from edgecnn.ir.quantized import run_codes
from edgecnn.ir.text import parse
from edgecnn.quant.assign import assign
from edgecnn.quant.measure import measure
from edgecnn.quant.scheme import LITERT
from edgecnn.targets import all_targets
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions

KNOWN = {
    "mul": "ARM multiplies in fixed point and rounds half up, x86 in float32 and to even",
}

PAIRS = "a = slice(x) axis=1 start=0 stop=1\n  b = slice(x) axis=1 start=1 stop=2\n  y = {}(a, b)"
BODIES = {
    "conv 3x3": "y = conv(x, w[8,2,3,3], b[8]) pad=(1,1,1,1)",
    "conv 1x1": "y = conv(x, w[16,2,1,1], b[16])",
    "depthwise conv": "y = conv(x, w[2,1,3,3], b[2]) pad=(1,1,1,1) groups=2",
    "add": PAIRS.format("add"),
    "sub": PAIRS.format("sub"),
    "mul": PAIRS.format("mul"),
    "hard_swish": "y = hard_swish(x)",
    "hard_sigmoid": "y = hard_sigmoid(x)",
    "sigmoid": "y = sigmoid(x)",
    "silu": "y = silu(x)",
    "tanh": "y = tanh(x)",
    "leaky_relu": "y = leaky_relu(x) slope=0.1",
    "softmax": "r = transpose(x) perm=(0,3,1,2)\n  y = softmax(r) axis=1",
    "max_pool": "y = max_pool(x) kernel=(2,2) stride=(2,2)",
    "avg_pool": "y = avg_pool(x) kernel=(2,2) stride=(2,2)",
    "global_pool": "y = global_pool(x)",
    "concat": "z = sigmoid(x)\n  y = concat(x, z) axis=1",
    "upsample": "y = upsample(x) factor=(2,2)",
}
SCALES = {"": 0.0371, ", powers of two": 2.0**-5}
"""Of the inputs. Products of powers of two fall on ties, where roundings differ most."""


@dataclass(frozen=True)
class Difference:
    """How many codes of an operation differ, and by how many steps at most.

    Args:
        name: the operation, with what is special about its scales.
        core: of `bench.instructions.CORES`.
        values: codes compared.
        here: those that differ from x86.
        reference: those that differ from our integer reference.
        largest: the largest difference of either.
    """

    name: str
    core: str
    values: int
    here: int
    reference: int
    largest: int

    @property
    def expected(self) -> bool:
        """Whether the operation is known to differ, and does so by one code at most; others may not differ from x86."""
        return self.here == 0 or (self.name.split(",")[0] in KNOWN and self.largest <= 1)


def every_pair() -> Array:
    """Codes (1, 2, 256, 256) in which every pair of int8 codes meets once."""
    codes = np.arange(-128, 128, dtype=np.int64)
    return np.stack(np.meshgrid(codes, codes, indexing="ij"))[None]


def graph_of(body: str, scale: float) -> Graph:
    """A quantised graph whose input has exactly this scale."""
    graph = parse(f"graph one(x: [N,2,256,256]) {{\n  {body}\n  return y\n}}")
    images = (every_pair() * scale).astype(np.float32)
    return assign(graph, measure(graph, [images]), LITERT)[0]


def differences(names: list[str], cores: list[str], folder: Path) -> list[Difference]:
    """The operations on each core."""
    codes = every_pair().astype(np.int8)
    np.save(folder / "x.npy", codes.transpose(0, 2, 3, 1))
    cases = {f"{name}{special}": (BODIES[name], scale) for name in names for special, scale in SCALES.items()}
    expected: dict[str, tuple[Array, Array]] = {}
    jobs: list[Job] = []
    for number, (name, (body, scale)) in enumerate(cases.items()):
        graph = graph_of(body, scale)
        path = folder / f"{number}.tflite"
        options = EmitOptions(cpu="armv8-dot", input_type="int8")
        path.write_bytes(all_targets()["tflite-int8"].emit(graph, options).data)
        with closing(open_session(path)) as session:
            here = session.run([np.load(folder / "x.npy")])[0]
        reference = run_codes(graph, codes.astype(np.int32))[0]
        expected[name] = here, reference.transpose(0, 2, 3, 1) if reference.ndim == 4 else reference
        jobs.append(Job(str(path), (str(folder / "x.npy"),), (str(folder / f"{number}.npy"),)))
    found = []
    for core in cores:
        count(jobs, cores=[core])
        for name, job in zip(cases, jobs, strict=True):
            there = np.load(job.outputs[0]).astype(np.int64)
            apart = [np.abs(there - other.reshape(there.shape)) for other in expected[name]]
            here, reference = (int(np.sum(one > 0)) for one in apart)
            found.append(Difference(name, core, there.size, here, reference, int(max(one.max() for one in apart))))
    return found


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", choices=sorted(BODIES), default=list(BODIES))
    parser.add_argument("--cores", nargs="+", choices=sorted(CORES), default=list(CORES))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgecnn-differences-") as folder:
        found = differences(chosen.ops, chosen.cores, Path(folder))
    print("EMULATED by QEMU; codes of every operation that differ somewhere, of all compared.\n")
    print("| operation | core | codes | differ from x86 | differ from our reference | at most |")
    print("|---|---|---:|---:|---:|---:|")
    for one in found:
        if one.here or one.reference:
            print(f"| {one.name} | {one.core} | {one.values} | {one.here} | {one.reference} | {one.largest} |")
    same = sorted({one.name.split(",")[0] for one in found} - {one.name.split(",")[0] for one in found if one.here})
    print(f"\nEverywhere as on x86, to the last bit: {', '.join(same) or 'none'}.")
    for one in (wrong := [one for one in found if not one.expected]):
        print(f"not accounted for: {one.name} on {one.core}: {one.here} codes, at most {one.largest}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
