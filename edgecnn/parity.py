"""The proof that an artifact computes what the net computed: a chain of four points, not one number.

(0) the torch module, (1) the float reference of the graph, (2) its integer reference, (3) the artifact in its runtime.
0-1 must be float noise. 1-2 is what quantisation costs (signal to quantisation noise, per value, the worst named).
2-3 must agree within a code or two per operator, and is checked operator by operator: each op is cut from the graph,
emitted alone, and fed with the reference's own codes, so that rounding cannot accumulate and a wrong lowering is named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgecnn.errors import CheckFailed
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Array, Graph, Op
from edgecnn.ir.quantized import apply_codes, run_codes, stored
from edgecnn.ir.reference import run
from edgecnn.runtime.session import Session
from edgecnn.targets.engine import open_session
from edgecnn.targets.target import EmitOptions, Target

FLOAT_TOLERANCE = 1e-4
"""Relative error that float32 arithmetic in another order may cause. A dot product of n terms is off by about
sqrt(n) * 2^-24 relative to its terms; n is below 10^5 in every net, so one layer gives 2e-5, and layers average out.
Rewrites are compared in float64, where only the folded constants are rounded, so this bound is wide for them, unless
the net amplifies that rounding as it amplifies any other: see `NOISE_FACTOR`."""

NOISE_FACTOR = 4
"""Some nets amplify noise (untrained ones, EfficientNet above all). There the float32 reference is itself further off
from float64; two float32 computations may then differ by the sum of their two errors, here with a margin of two."""

ROUNDING = 2.0**-19
"""Relative rounding error of one op in float32, whatever the order of its sums and the way its runtime approximates an
exponential: sqrt(n) * 2^-24 for n = 1024 terms. A run in float64 with so much noise on every op tells what the net
makes of it; it is asked where the float32 reference alone, one of many orders, makes an artifact look wrong."""

WHOLE_NET_DB = 6.0
"""How much more than its integer reference the whole artifact may lose against the float graph. Rounding that differs
by a code here and there adds at most a noise like that of quantisation itself (twice the amplitude is 6 dB); ops that
are right one by one but wired wrongly, or with each other's constants, lose the signal."""

OP_SHARE_EXACT, OP_MAX_CODES = 0.999, 2
"""Per op, at least this share of values within one code, and no value further off than this many codes."""


@dataclass(frozen=True)
class OpDifference:
    """How far one op's artifact is from the integer reference, in codes, fed with the same codes."""

    op: str
    kind: str
    source: str
    share_exact: float
    share_within_one: float
    max_codes: int

    @property
    def ok(self) -> bool:
        """Whether the op keeps the tolerance."""
        return self.share_within_one >= OP_SHARE_EXACT and self.max_codes <= OP_MAX_CODES


@dataclass(frozen=True)
class Parity:
    """What the chain found; a point that does not apply (no module, no quantisation) is None."""

    images: int
    torch_error: float | None = None
    passes_error: float | None = None
    codes: str = "int8"
    sqnr_db: float | None = None
    worst_values: tuple[tuple[str, float], ...] = ()
    artifact_error: float | None = None
    float_noise: float | None = None
    artifact_sqnr_db: float | None = None
    argmax_agreement: float | None = None
    max_codes_end_to_end: int | None = None
    ops: tuple[OpDifference, ...] = field(default=())

    @property
    def failures(self) -> list[str]:
        """Every broken promise in words; empty if the artifact is proved."""
        found = []
        noise = max(FLOAT_TOLERANCE, NOISE_FACTOR * (self.float_noise or 0.0))
        for label, error, bound in (
            ("graph against torch", self.torch_error, noise),
            ("graph after its rewrites against the graph before", self.passes_error, noise),
            ("float artifact against the graph", self.artifact_error, noise),
        ):
            if error is not None and not error <= bound:
                found.append(f"{label}: relative error {error:.2g}, at most {bound:.1g} is float noise")
        if self.sqnr_db is not None and self.artifact_sqnr_db is not None:
            # What computes in float cannot be nearer to the float graph than float noise is, though nothing be coded.
            lost = min(self.sqnr_db, -20 * float(np.log10(noise))) - self.artifact_sqnr_db
            if lost > WHOLE_NET_DB:
                found.append(
                    f"whole artifact against the float graph: {self.artifact_sqnr_db:.1f} dB, its integer reference "
                    f"has {self.sqnr_db:.1f} dB; at most {WHOLE_NET_DB:.0f} dB may be lost to rounding"
                )
        found += [
            f"op `{d.op}` ({d.kind}, {d.source}): {100 * (1 - d.share_within_one):.2f} % of the codes differ by more "
            f"than 1, at most by {d.max_codes}"
            for d in self.ops
            if not d.ok
        ]
        return found

    @property
    def summary(self) -> str:
        """The chain in one line."""
        parts = []
        if self.torch_error is not None:
            parts.append(f"graph = torch to {self.torch_error:.1e}")
        if self.artifact_error is not None:
            parts.append(f"artifact = graph to {self.artifact_error:.1e}")
        if self.sqnr_db is not None:
            parts.append(f"{self.codes} {self.sqnr_db:.1f} dB")
        if self.ops:
            exact = sum(d.share_exact == 1.0 for d in self.ops)
            off = len(self.ops) - exact
            rest = f", {off} off by at most {max(d.max_codes for d in self.ops)} in single codes" if off else ""
            parts.append(f"{exact} of {len(self.ops)} ops bit-exact in the runtime{rest}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest and `--json`."""
        content: dict[str, Any] = {
            "ok": not self.failures,
            "summary": self.summary,
            "images": self.images,
            "torch_relative_error": self.torch_error,
            "passes_relative_error": self.passes_error,
            "artifact_relative_error": self.artifact_error,
            "float32_noise": self.float_noise,
        }
        if self.sqnr_db is not None:
            content |= {
                "sqnr_db": _finite(self.sqnr_db),
                "artifact_sqnr_db": _finite(self.artifact_sqnr_db),
                "worst_values": [{"value": n, "sqnr_db": _finite(s)} for n, s in self.worst_values],
                "argmax_agreement": self.argmax_agreement,
                "max_codes_end_to_end": self.max_codes_end_to_end,
            }
        if self.ops:
            worst = min(self.ops, key=lambda d: (d.ok, d.share_within_one, -d.max_codes, d.share_exact))
            content["per_op"] = {
                "ops": len(self.ops),
                "exact_ops": sum(d.share_exact == 1.0 for d in self.ops),
                "within_one_code_min_share": min(d.share_within_one for d in self.ops),
                "max_codes": max(d.max_codes for d in self.ops),
                "worst": {"op": worst.op, "kind": worst.kind, "share_exact": round(worst.share_exact, 6)},
            }
        return content


def _finite(decibels: float | None) -> float | None:
    """Two decimals for JSON, which has no infinity: None stands for equal numbers."""
    return round(decibels, 2) if decibels is not None and np.isfinite(decibels) else None


def relative_error(found: Array, expected: Array) -> float:
    """Euclidean norm of the difference over that of `expected`."""
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    off = float(np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64)))
    return off / norm if norm > 0 else off


def sqnr_db(found: Array, expected: Array) -> float:
    """Signal to quantisation noise ratio in dB; infinite where they are equal."""
    noise = float(np.sum((found.astype(np.float64) - expected) ** 2))
    signal = float(np.sum(expected.astype(np.float64) ** 2))
    return float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-30) / noise))


def check(
    target: Target,
    *,
    artifact: Path,
    options: EmitOptions,
    images: Array,
    before: Graph,
    after: Graph,
    quantized: Graph | None,
    torch_outputs: Array | None,
    before_images: Array | None = None,
    per_op: bool = True,
) -> Parity:
    """The whole chain for one artifact.

    Args:
        target: the target it was emitted for.
        artifact: the file.
        options: what it was emitted with.
        images: input of the final graph, float32 NCHW.
        before: the graph as imported.
        after: the graph after the target's rewrites, float.
        quantized: `after` with quantisation parameters; None for a float target.
        torch_outputs: the module's outputs for `before_images`; None if there is no module (a bundle).
        before_images: input of `before`, if it differs from `images` (normalisation embedded by the rewrites).
        per_op: also check op by op.
    """
    start = images if before_images is None else before_images
    imported, rewritten = run(before, start)[0], run(after, images)[0]
    exact = run(after, images, dtype=torch.float64)[0]
    parity = Parity(
        images=len(images),
        torch_error=None if torch_outputs is None else relative_error(imported, torch_outputs),
        passes_error=relative_error(exact, run(before, start, dtype=torch.float64)[0]),
        float_noise=relative_error(rewritten, exact),
    )
    parity = _with_noise(parity, after, images, exact)
    with closing(open_session(artifact)) as session:
        if quantized is None:
            found = np.concatenate(
                [feed(session, after, x, options=options, nhwc=target.nhwc) for x in batches(images, options.batch)]
            )
            return _with_noise(
                replace(parity, artifact_error=relative_error(found[: len(images)], rewritten)), after, images, exact
            )
        parity = _against_integers(
            parity, session, quantized, after, images, options, float_out=rewritten, nhwc=target.nhwc
        )
    if per_op:
        parity = replace(parity, ops=tuple(op_differences(target, quantized, images[:1], cpu_options=options)))
    return parity


def _with_noise(parity: Parity, after: Graph, images: Array, exact: Array) -> Parity:
    """`parity`, with what the net makes of rounding on every op where the float32 reference's own error is too small
    to explain a difference."""
    if not parity.failures:
        return parity
    noisy = run(after, images, dtype=torch.float64, jitter=ROUNDING)[0]
    return replace(parity, float_noise=max(parity.float_noise or 0.0, relative_error(noisy, exact)))


def batches(images: Array, size: int) -> Iterator[Array]:
    """`images` in batches of exactly `size`; the last is filled up by repeating its last image."""
    for at in range(0, len(images), size):
        piece = images[at : at + size]
        yield np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), 0)]) if len(piece) < size else piece


def to_artifact(x_nchw: Array, *, nhwc: bool) -> Array:
    """`x_nchw` in the artifact's layout."""
    return np.ascontiguousarray(x_nchw.transpose(0, 2, 3, 1) if nhwc and x_nchw.ndim == 4 else x_nchw)


def from_artifact(y: Array, shape: tuple[int, ...], *, nhwc: bool) -> Array:
    """An output of the artifact in the graph's layout; `shape` is the graph's (batch first)."""
    if nhwc and len(shape) == y.ndim == 4:
        y = y.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(y).reshape((-1, *shape[1:]))


def feed(session: Session, graph: Graph, x_nchw: Array, *, options: EmitOptions, nhwc: bool) -> Array:
    """One call of the artifact on real input: quantised as the input's parameters say, output in real numbers."""
    spec, name = session.inputs[0], graph.inputs[0]
    x = x_nchw
    if spec.dtype != "float32":
        q = graph.value(name).q
        assert q is not None  # an artifact with integer input comes from a quantised graph
        x = q.recoded(options.input_type).quantize(x_nchw)
    y = session.run([to_artifact(x, nhwc=nhwc)])[0]
    if session.outputs[0].dtype != "float32":
        q = graph.value(graph.outputs[0]).q
        assert q is not None  # an artifact with integer output comes from a quantised graph
        y = q.recoded(session.outputs[0].dtype).dequantize(y)
    return from_artifact(y, graph.shape(graph.outputs[0]), nhwc=nhwc)


def _against_integers(
    parity: Parity,
    session: Session,
    quantized: Graph,
    after: Graph,
    images: Array,
    options: EmitOptions,
    *,
    float_out: Array,
    nhwc: bool,
) -> Parity:
    name, output = quantized.inputs[0], quantized.outputs[0]
    # The codes are kept and the real numbers pass by: kept in float32 they would take four times the memory.
    kept: dict[str, Array] = {}
    noise: dict[str, float] = {}

    def compare(value: str, real: torch.Tensor) -> None:
        if value in kept:
            codes, q = kept.pop(value), quantized.value(value).q
            noise[value] = sqnr_db(codes if q is None else q.dequantize(codes), real.numpy())

    q_in = quantized.value(name).q
    codes = [
        run_codes(quantized, x if q_in is None else q_in.quantize(x), watch=kept.__setitem__ if i == 0 else None)[0]
        for i, x in enumerate(images[:, None])
    ]
    run(after, images[:1], watch=compare)
    q_out = quantized.value(output).q
    # Where only weights are coded, and no input as it runs, both compute in float32 with the same numbers.
    in_float = all(quantized.value(op.output).q is None and not op.attrs.get("dynamic") for op in quantized.ops)
    expected = np.concatenate([c if q_out is None else q_out.dequantize(c) for c in codes])
    found = np.concatenate(
        [feed(session, quantized, x, options=options, nhwc=nhwc) for x in batches(images, options.batch)]
    )
    found = found[: len(images)]
    step = float(q_out.scale) if q_out is not None else 0.0
    same = found.reshape(len(images), -1).argmax(1) == expected.reshape(len(images), -1).argmax(1)
    return replace(
        parity,
        codes="int16" if any(v.q is not None and v.q.dtype == "int16" for v in quantized.values.values()) else "int8",
        sqnr_db=sqnr_db(expected, float_out),
        artifact_sqnr_db=sqnr_db(found, float_out),
        artifact_error=relative_error(found, expected) if in_float else None,
        worst_values=tuple(sorted(noise.items(), key=lambda item: item[1])[:5]),
        argmax_agreement=float(same.mean()),
        max_codes_end_to_end=round(float(np.abs(found - expected).max()) / step) if step else None,
    )


def op_differences(
    target: Target,
    quantized: Graph,
    images: Array,
    *,
    cpu_options: EmitOptions,
    only: Callable[[Op], bool] | None = None,
) -> Iterator[OpDifference]:
    """Each op's own artifact against the integer reference, on the codes the reference has there.

    Ops between float values are skipped: they are float32 arithmetic, checked end to end.
    """
    codes: dict[str, Array] = {}
    name = quantized.inputs[0]
    q = quantized.value(name).q
    start = images if q is None else q.quantize(images)
    codes[name] = start
    run_codes(quantized, start, watch=lambda n, c: codes.__setitem__(n, c))
    with tempfile.TemporaryDirectory(prefix="edgecnn-parity-") as folder:
        for op in quantized.ops:
            involved = [*quantized.activations(op), op.output]
            if any(quantized.value(v).q is None for v in involved) or (only and not only(op)):
                continue
            yield _op_difference(target, quantized, op, codes, cpu_options, Path(folder))


def _op_difference(
    target: Target, graph: Graph, op: Op, codes: dict[str, Array], options: EmitOptions, folder: Path
) -> OpDifference:
    single = cut(graph, op)
    q = single.value(single.inputs[0]).q
    assert q is not None  # the caller chose ops between quantised values
    emitted = target.emit(single, replace(options, batch=1, input_type=q.dtype, metadata={}))  # type: ignore[arg-type]
    path = folder / f"op{target.suffix}"
    path.write_bytes(emitted.data)
    inputs = {n: codes[n][:1] for n in single.inputs}
    expected = apply_codes(graph, op, [codes[n][:1] if n in codes else stored(graph.value(n)) for n in op.inputs])
    with closing(open_session(path)) as session:
        found = session.run([to_artifact(inputs[n], nhwc=target.nhwc) for n in single.inputs])
    got = from_artifact(found[0], graph.shape(op.output), nhwc=target.nhwc).astype(np.int64)
    off = np.abs(got - expected.astype(np.int64))
    return OpDifference(
        op.name, op.kind, str(op.source), float((off == 0).mean()), float((off <= 1).mean()), int(off.max())
    )


def require(parity: Parity, *, where: str) -> None:
    """Raises CheckFailed with every broken promise, if there is one."""
    if failures := parity.failures:
        raise CheckFailed(
            f"the artifact is not equal to what was computed before: {failures[0].split(':')[0]}",
            where=where,
            got="\n".join(failures[:10]) + (f"\nand {len(failures) - 10} more" if len(failures) > 10 else ""),
            do="this is a bug in a rewrite or an emitter: report it with `edgecnn show NET -v`; nothing was written",
        )
