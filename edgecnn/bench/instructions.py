"""Executed ARM instructions per inference, counted under emulation: for ARM without a board, and never a time.

`qemu-aarch64` runs the artifacts' real engine in user mode; its plugin (`scripts/arm64/insncount.c`) counts what is
executed between two marks that `edgecnn.runtime.count` makes. Regions of n and of 2n inferences are counted and their
difference is divided by n, so that nothing but the inferences is left. The same files give the same counts. There are
no caches and no pipelines here: compare within one kind of core and one engine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn.device.zipapp import write_zipapp
from edgecnn.errors import EdgecnnError, EnvironmentFailure, InputError, UsageError, unknown
from edgecnn.runtime.errors import from_json
from edgecnn.targets.engine import check_artifact, explain
from edgecnn.targets.target import Cpu

LABEL = "emulated, instructions, not time"
DEVICE = "arm64-emulated"
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Core:
    """A kind of core that QEMU emulates.

    Args:
        qemu: the model's name for `qemu-aarch64 -cpu`.
        cpu: the lowering that artifacts for it should have (`edgecnn export --cpu`).
    """

    qemu: str
    cpu: Cpu


# With SME, QEMU 7.2 computes wrong int8 results in XNNPACK's kernels for it; without SVE, the core is the least that
# has i8mm.
CORES: dict[str, Core] = {
    "cortex-a53": Core("cortex-a53", "armv8-a53"),
    "cortex-a72": Core("cortex-a72", "armv8"),
    "cortex-a76": Core("cortex-a76", "armv8-dot"),
    "i8mm": Core("max,sme=off,sve=off", "armv8-i8mm"),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "multiply-add": ("fma", "imac"),
    "dot": ("dot",),
    "i8mm": ("mmla",),
    "load": ("load", "vload"),
    "store": ("store", "vstore"),
    "vector": ("vother",),
    "scalar": ("int", "branch"),
    "other": ("prefetch", "svesme", "other"),
}
"""What the plugin tells apart, as tables show it: multiply-adds of vectors, dot products, matrix products of i8mm, both
kinds of loads and of stores, other vector instructions, integers and branches, and the rest."""
CLASSES = tuple(name for names in GROUPS.values() for name in names)


@dataclass(frozen=True)
class InstructionCount:
    """What one inference executes on one kind of core.

    Args:
        artifact: the path as it was given.
        core: of `CORES`.
        classes: executed instructions per inference for each of `CLASSES`.
        engine: name and version of what ran the artifact in the emulator.
    """

    artifact: str
    core: str
    classes: Mapping[str, int]
    engine: Mapping[str, str]

    @property
    def total(self) -> int:
        """Executed instructions per inference."""
        return sum(self.classes.values())

    @property
    def groups(self) -> dict[str, int]:
        """The counts as tables show them."""
        return {group: sum(self.classes[name] for name in names) for group, names in GROUPS.items()}

    def to_json(self) -> dict[str, Any]:
        """As plain data, with the label that says what the numbers are."""
        return {
            "artifact": self.artifact,
            "core": self.core,
            "kind": LABEL,
            "instructions_per_inference": self.total,
            "groups": self.groups,
            "classes": dict(self.classes),
            "engine": dict(self.engine),
        }


@dataclass(frozen=True)
class Job:
    """An artifact to count, with .npy files for its inputs (random without) and for its outputs (none written)."""

    artifact: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `edgecnn.runtime.count` reads it; paths absolute."""
        return {
            "artifact": os.path.abspath(self.artifact),
            "inputs": [os.path.abspath(path) for path in self.inputs],
            "outputs": [os.path.abspath(path) for path in self.outputs],
        }


def core_named(name: str) -> Core:
    """The core of this name.

    Raises:
        UsageError: there is none; the nearest are named.
    """
    if name not in CORES:
        raise unknown("core", name, CORES)
    return CORES[name]


@dataclass(frozen=True)
class Emulator:
    """The folder that `scripts/arm64/device.sh kit` makes: root file system, one sysroot per core, the plugin.

    Args:
        folder: by default `ARM64_DEVICE_DIR`, or `edgecnn-arm64` in the user's cache.
    """

    folder: Path = field(default_factory=lambda: default_folder())

    @property
    def plugin(self) -> Path:
        """The plugin that counts."""
        return self.folder / "libinsncount.so"

    def sysroot(self, core: str) -> Path:
        """The sysroot whose /proc and /sys tell of this core."""
        return self.folder / "sysroot" / core

    def check(self, cores: Sequence[str]) -> None:
        """Makes sure that everything is there.

        Raises:
            EnvironmentFailure: something is missing; the command that makes it is named.
        """
        for program, package in (("qemu-aarch64", "qemu-user"), ("setarch", "util-linux")):
            if shutil.which(program) is None:
                raise EnvironmentFailure(
                    f"`{program}` is not installed", do=f"apt-get install --no-install-recommends {package}"
                )
        # Without `possible`, LiteRT's look at the processor fails and it silently runs without XNNPACK.
        needed = [self.plugin, self.folder / "rootfs/opt/py/edgecnn/numpy"]
        needed += [self.sysroot(core) / "sys/devices/system/cpu/possible" for core in cores]
        for path in needed:
            if not path.exists():
                raise EnvironmentFailure(
                    "the emulated ARM device is not built, or not whole",
                    where=str(path),
                    do=f"ARM64_DEVICE_DIR={self.folder} scripts/arm64/device.sh kit   (in edgecnn's sources)",
                )

    def command(self, core: str, *, runtime: Path, jobs: Path, counts: Path) -> list[str]:
        """The command that does the jobs of a file on `core`, without the randomness of addresses."""
        program = f"import sys; sys.path[0] = {str(runtime)!r}; from runtime.count import main; sys.exit(main())"
        qemu = ["qemu-aarch64", "-cpu", core_named(core).qemu, "-L", str(self.sysroot(core))]
        plugin = ["-plugin", f"{self.plugin},out={counts}"]
        python = str(self.sysroot(core) / "usr/bin/python3")
        return ["setarch", "-R", *qemu, *plugin, python, "-c", program, str(jobs)]

    def environment(self, core: str) -> dict[str, str]:
        """Nothing of the user's, so that counts do not depend on it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": str(self.sysroot(core) / "opt/py/edgecnn"),
        }


def default_folder() -> Path:
    """Where the emulated device is."""
    if chosen := os.environ.get("ARM64_DEVICE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecnn-arm64"


def count(
    jobs: Sequence[str | os.PathLike[str] | Job],
    *,
    cores: Sequence[str] = tuple(CORES),
    runs: int = 1,
    emulator: Emulator | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[InstructionCount]:
    """Executed instructions per inference of each artifact on each core: one emulator per core, one thread.

    Args:
        jobs: .tflite and .onnx files, or `Job`s.
        cores: names of `CORES`.
        runs: inferences in the shorter of the two regions.
        emulator: where the emulated device is.
        progress: called with a line per core.

    Raises:
        UsageError: no artifacts, an unknown core, or one named twice.
        InputError: an artifact is missing or damaged, or the engine died on it.
        EnvironmentFailure: the emulator or an engine in it is missing.
    """
    listed = [job if isinstance(job, Job) else Job(os.fspath(job)) for job in jobs]
    if not listed:
        raise UsageError("no artifacts to count", do="give one or more .tflite or .onnx files")
    if not cores or len(set(cores)) != len(cores):
        raise UsageError("a core is named twice, or none is", got=", ".join(cores) or "none")
    if runs < 1:
        raise UsageError(f"{runs} runs", expected="at least 1")
    for core in cores:
        core_named(core)
    for job in listed:
        check_artifact(job.artifact)
    emulator = emulator or Emulator()
    emulator.check(cores)
    found: list[InstructionCount] = []
    with tempfile.TemporaryDirectory(prefix="edgecnn-count-") as name:
        folder = Path(name)
        write_zipapp(folder / "runtime.pyz")
        (folder / "jobs.json").write_text(json.dumps({"runs": runs, "jobs": [job.to_json() for job in listed]}))
        for core in cores:
            if progress is not None:
                progress(f"{core}: {len(listed)} artifacts under qemu-aarch64")
            found += _on_core(emulator, core, listed, runs, folder)
    return found


def _on_core(emulator: Emulator, core: str, jobs: Sequence[Job], runs: int, folder: Path) -> list[InstructionCount]:
    counts = folder / "counts.jsonl"
    command = emulator.command(core, runtime=folder / "runtime.pyz", jobs=folder / "jobs.json", counts=counts)
    try:
        done = subprocess.run(
            command,
            env=emulator.environment(core),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"no end of it after {TIMEOUT_S} s under emulation", where=core) from error
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        if not answer["ok"]:
            raise explain(from_json(answer["error"]))
    if done.returncode or len(answers) != len(jobs):
        died = jobs[len(answers)].artifact if len(answers) < len(jobs) else None
        raise InputError(
            f"the emulated process ended with code {done.returncode} on core `{core}`",
            where=died,
            got="\n".join(done.stderr.strip().splitlines()[-3:]) or None,
        )
    classes = per_inference(counts.read_text(), artifacts=len(jobs), runs=runs)
    return [
        InstructionCount(job.artifact, core, c, answer["engine"])
        for job, answer, c in zip(jobs, answers, classes, strict=True)
    ]


def per_inference(text: str, *, artifacts: int, runs: int) -> list[dict[str, int]]:
    """The counts per inference, from the plugin's lines: two regions per artifact, of `runs` and `2 * runs` inferences.

    Raises:
        EdgecnnError: the plugin wrote something else; it is of another version, or the guest made other marks.
    """
    try:
        regions = [{name: int(line[name]) for name in CLASSES} for line in map(json.loads, text.splitlines())]
    except (ValueError, KeyError, TypeError) as error:
        raise EdgecnnError("the counting plugin wrote lines that cannot be read", got=text[:200]) from error
    if len(regions) != 2 * artifacts:
        raise EdgecnnError(f"the counting plugin wrote {len(regions)} regions", expected=f"{2 * artifacts}")
    pairs = zip(regions[::2], regions[1::2], strict=True)
    return [{name: round((long[name] - short[name]) / runs) for name in CLASSES} for short, long in pairs]
