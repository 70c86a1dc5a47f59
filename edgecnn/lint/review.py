"""All rules over one net on one target, their costs measured or estimated, the dearest finding first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgecnn.bench.per_op import latencies_us, signature
from edgecnn.coverage import Coverage
from edgecnn.ir.cut import cut
from edgecnn.ir.graph import Graph, Note
from edgecnn.lint import guidelines, kernels
from edgecnn.lint.finding import RULES, Candidate, Cost, Finding, Severity
from edgecnn.lint.work import work_of
from edgecnn.targets.target import EmitOptions, Target

NOTABLE = 0.01
"""A cost above this share of the net's is a warning."""

WORTH = 0.002
"""Below this share of the net's time, what another form would save is noise, and the finding is dropped."""

WHOLE = "whole"
"""The key under which the whole net is timed."""


@dataclass(frozen=True)
class Review:
    """The findings about one net or artifact.

    Args:
        subject: what was looked at.
        target: its name; empty for an artifact.
        cpu: the core.
        findings: the dearest first.
        operators: how many there are.
        latency_us: the sum of the operators, each timed alone; None if nothing was measured.
        basis: how costs are known, in words.
        whole_us: the time of the whole net in one artifact; operators timed alone find their inputs in the cache, but
            in ONNX Runtime each also reorders its input and output, so the two differ.
        facts: more about the subject.
    """

    subject: str
    target: str
    cpu: str
    findings: tuple[Finding, ...]
    operators: int
    latency_us: float | None
    basis: str
    whole_us: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def worst(self) -> Severity | None:
        """The gravest severity; None if nothing was found."""
        order: tuple[Severity, ...] = ("error", "warning", "info")
        return next((s for s in order if any(f.severity == s for f in self.findings)), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "subject": self.subject,
            "target": self.target,
            "cpu": self.cpu,
            "operators": self.operators,
            "latency_us": None if self.latency_us is None else round(self.latency_us, 3),
            "whole_latency_us": None if self.whole_us is None else round(self.whole_us, 3),
            "basis": self.basis,
            "rules": dict(RULES),
            **self.facts,
            "findings": [finding.to_json() for finding in self.findings],
        }


def review_graphs(
    graph: Graph,
    *,
    target: Target,
    options: EmitOptions,
    notes: Sequence[Note] = (),
    coverage: Coverage | None = None,
    measure: bool,
    rounds: int = 15,
) -> Review:
    """The findings about a net as `target` runs it.

    Args:
        graph: after the target's passes and, for int8, after `assign`.
        target: where it shall run.
        options: what it is emitted with.
        notes: of the rewrites and the emitter.
        coverage: of the emitted artifact, if it could be emitted.
        measure: time every op and every alternative on this machine; otherwise costs are estimated.
        rounds: of timing.
    """
    int8 = target.scheme is not None
    tile = kernels.tile_of(options.cpu, int8=int8)
    candidates = [
        *guidelines.equal_widths(graph, tile),
        *guidelines.groups(graph, tile),
        *guidelines.fragments(graph),
        *guidelines.element_wise(graph),
        *kernels.channel_tile(graph, tile, depthwise_tile=kernels.DEPTHWISE_TILE),
        *(kernels.no_int8_form(graph) if int8 else ()),
        *kernels.movement(graph),
        *(kernels.outside(coverage.execution, graph) if coverage else ()),
        *kernels.left(notes),
    ]
    merged = _merged(graph, candidates)
    costs = _measured(graph, merged, target, options, rounds) if measure else _estimated(graph, tile)
    findings = [finding for at, c in enumerate(merged) if (finding := _finding(graph, at, c, costs)) is not None]
    findings.sort(key=_weight, reverse=True)
    basis = (
        "every operator timed alone on this machine, in turn with the alternatives"
        if measure
        else "estimated from full tiles and bytes moved; nothing was measured"
    )
    total = costs.total if measure else None
    return Review(graph.name, target.name, options.cpu, tuple(findings), len(graph.ops), total, basis, costs.whole)


def review_artifact(path: str, coverage: Coverage) -> Review:
    """The findings about a file, ours or not: what its runtime does not run in its fast path, by multiply-adds."""
    execution, macs = coverage.execution, max(1, coverage.macs)
    findings = []
    for op in coverage.outside:
        share = op.macs / macs
        findings.append(
            Finding(
                "fast-path",
                "warning" if share > NOTABLE or not op.macs else "info",
                (op.name,),
                f"{op.kind}: {op.reason}",
                "export the net with edgecnn, which keeps such operators in the fast path or says why not",
                Cost(share, "estimated") if op.macs else None,
                {"operator": op.kind, "macs": op.macs},
            )
        )
    if coverage.partitions is not None and coverage.partitions > 1:
        findings.append(
            Finding(
                "fast-path",
                "warning",
                (path,),
                f"the delegate takes the net in {coverage.partitions} pieces; between them tensors are handed over",
                "one piece is best: see the operators outside",
                None,
                {"partitions": coverage.partitions},
            )
        )
    findings += [
        Finding("channel-tile", "info", (path,), remark, "pad or choose other channel counts")
        for remark in execution.remarks
    ]
    findings.sort(key=_weight, reverse=True)
    basis = "shares of the multiply-adds, as the runtime installed here reports them"
    facts = {"engine": execution.engine, "precision": execution.precision}
    return Review(path, "", "", tuple(findings), len(execution.ops), None, basis, facts=facts)


def _merged(graph: Graph, candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate for all places that say the same; those with an alternative only where the ops are alike too."""
    found: dict[Any, Candidate] = {}
    for c in candidates:
        alike = None if c.alternative is None else signature(graph, graph.makers[c.ops[0]])
        key = (c.rule, c.what, c.do, alike)
        same = found.get(key)
        found[key] = c if same is None else replace(same, ops=tuple(dict.fromkeys((*same.ops, *c.ops))))
    return list(found.values())


@dataclass(frozen=True)
class _Costs:
    """What each op costs, and what its alternative would: in microseconds, or in modelled work."""

    of_op: Mapping[str, float]
    of_alternative: Mapping[int, float]
    total: float
    measured: bool
    whole: float | None = None


def _measured(
    graph: Graph, candidates: Sequence[Candidate], target: Target, options: EmitOptions, rounds: int
) -> _Costs:
    """Times every op and every alternative in one interleaved run."""
    graphs: dict[Any, Graph] = {WHOLE: graph}
    keys = {op.name: signature(graph, op) for op in graph.ops}
    for op in graph.ops:
        graphs.setdefault(keys[op.name], cut(graph, op))
    for at, c in enumerate(candidates):
        if c.alternative is not None:
            graphs[at] = c.alternative
    found = latencies_us(target, graphs, options=options, rounds=rounds)
    of_op = {name: found.get(key, 0.0) for name, key in keys.items()}
    others = {at: us * candidates[at].scale for at, us in found.items() if isinstance(at, int)}
    return _Costs(of_op, others, sum(of_op.values()), measured=True, whole=found.get(WHOLE))


def _estimated(graph: Graph, tile: int) -> _Costs:
    of_op = work_of(graph, tile)
    return _Costs(of_op, {}, sum(of_op.values()), measured=False)


def _finding(graph: Graph, at: int, c: Candidate, costs: _Costs) -> Finding | None:
    """The candidate with its cost; None where timing showed that the alternative saves nothing worth the change."""
    taken = [costs.of_op[name] for name in c.ops if name in costs.of_op]
    if not taken or not costs.total:
        return Finding(c.rule, "info", _places(graph, c.ops), c.what, c.do, None, dict(c.facts))
    share, avoidable = sum(taken) / costs.total, None
    if at in costs.of_alternative:
        avoidable = sum(us - costs.of_alternative[at] for us in taken) / costs.total
    elif c.waste is not None and not costs.measured:
        avoidable = share * c.waste
    if avoidable is not None and avoidable < WORTH:
        return None
    cost = Cost(share, "measured" if costs.measured else "estimated", sum(taken) if costs.measured else None, avoidable)
    severity: Severity = "warning" if cost.weight > NOTABLE else "info"
    return Finding(c.rule, severity, _places(graph, c.ops), c.what, c.do, cost, dict(c.facts))


def _weight(finding: Finding) -> float:
    return finding.cost.weight if finding.cost else 0.0


def _places(graph: Graph, names: Sequence[str]) -> tuple[str, ...]:
    """The user's modules behind ops; an op that no module owns keeps its own name."""
    modules = (graph.makers[n].source.module if n in graph.makers else n for n in names)
    return tuple(dict.fromkeys(m or n for m, n in zip(modules, names, strict=True)))
