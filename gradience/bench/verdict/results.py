"""What a seed yielded -> the results in `bench.json`. Pure: counts and the policy decide, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PlannedVariant, asked_for
from gradience.bench.verdict.policy import exact_percent, overall, verdict_of_seed
from gradience.reports.audit import AuditReport
from gradience.reports.base.graded import PairedEvidence
from gradience.reports.bench import (
    AuditSummary,
    Best,
    DivergenceSummary,
    Measures,
    Pairs,
    Probe,
    RankSummary,
    Status,
    VariantResult,
)
from gradience.reports.bench_plan import Policy

Results = tuple[VariantResult, ...]


def measured(
    planned: PlannedVariant,
    measures: Measures,
    pairs: Pairs,
    policy: Policy,
    divergence: DivergenceSummary | None = None,
) -> VariantResult:
    """Return the result of a variant that was made and evaluated.

    An adapter with another number of parameters than was planned is an ERROR: the predecessor's per_layer was never
    what it said, and nobody counted.
    """
    verdict = verdict_of_seed(pairs.n, pairs.only_probe_correct, pairs.only_variant_correct, policy)
    status, reasons = verdict.status, verdict.reasons
    if measures.lora_params != planned.lora_params:
        why = f"it has {measures.lora_params:,} LoRA parameters; planned: {planned.lora_params:,}"
        status, reasons = "ERROR", (why,)
    return _described(
        planned,
        status,
        reasons,
        measures=measures,
        pairs=pairs,
        delta=float(pairs.delta),
        delta_exact=pairs.delta_exact,
        paired=paired_evidence(pairs),
        divergence=divergence,
    )


def paired_evidence(pairs: Pairs) -> PairedEvidence:
    """Return how sure the difference is by one seed alone."""
    from gradience.statistics import PairedTable

    table = PairedTable(
        n11=pairs.both_correct,
        n10=pairs.only_probe_correct,
        n01=pairs.only_variant_correct,
        n00=pairs.both_wrong,
    )
    return PairedEvidence.of(table)


def unmeasured(planned: PlannedVariant, status: Status, why: str) -> VariantResult:
    """Return the result of a variant without counts: it was not made, or could not be made or evaluated."""
    return _described(planned, status, (why,))


def all_unmeasured(config: BenchConfig, status: Status, why: str) -> Results:
    """Return all variants of a run that has no probe to compare them with."""
    return tuple(unmeasured(planned, status, why) for planned in asked_for(config.compression))


def repeated(planned: PlannedVariant, results: Iterable[VariantResult]) -> VariantResult:
    """Return the result of a variant that equals an earlier one: its numbers under another name."""
    first = next(result for result in results if result.name == planned.same_as)
    reasons = (f"the same adapter as {first.name}", *first.reasons)
    same = {"name": planned.name, "arm": planned.arm, "same_as": first.name, "rank_basis": planned.rank_basis}
    return first.model_copy(update=same | {"reasons": reasons})


def gate_sentence(probe: Probe) -> str:
    """Say what the probe reached, and what it had to."""
    diverged = probe.training is not None and probe.training.diverged
    reached = f"the probe has {probe.correct:,} / {probe.n:,} correct ({probe.score:.1%})".replace("%", " %")
    gate = f"its quality gate is {exact_percent(probe.gate.min_value)}"
    if probe.gate.base_correct is not None:
        base = (
            "its base alone" if probe.gate.base == "without an adapter" else "the most frequent label alone"
        )
        gate += f", and {base} has {probe.gate.base_correct:,}"
    return f"{'the training diverged; ' if diverged else ''}{reached}; {gate}"


def status_of(results: Results) -> tuple[Status, tuple[str, ...]]:
    """Return the status of the seed, and why."""
    candidates = [result for result in results if result.is_candidate]
    status = overall(result.status for result in candidates)
    errors = [result.name for result in results if result.status == "ERROR"]
    if errors:
        return "ERROR", (f"ended in an error: {', '.join(errors)}",)
    return status, tuple(
        dict.fromkeys(
            why for result in candidates if result.status == status != "PASS" for why in result.reasons
        )
    )[:3]


def best_of(results: Results) -> Best | None:
    """Return the smallest candidate that passes; of equals the first."""
    passing = [
        result
        for result in results
        if result.status == "PASS" and result.is_candidate and result.same_as is None
    ]
    best = max(passing, key=lambda result: result.reduction or 0.0, default=None)
    if best is None or best.reduction is None or best.planned_lora_params is None:
        return None
    return Best(name=best.name, lora_params=best.planned_lora_params, reduction=best.reduction)


def summary(report: AuditReport) -> AuditSummary:
    """Return the audit in short."""
    return AuditSummary(**{name: getattr(report, name) for name in AuditSummary.model_fields})


def _described(
    planned: PlannedVariant, status: Status, reasons: tuple[str, ...], **outcome: Any
) -> VariantResult:
    """What was planned, and what came of it. outcome: the other fields of the result."""
    ranks = list(planned.ranks.values())
    return VariantResult(
        name=planned.name,
        arm=planned.arm,
        made_by=planned.making.name,
        status=status,
        reasons=reasons,
        stopped_early=planned.stopped_early,
        same_as=planned.same_as,
        rank_basis=planned.rank_basis,
        ranks=RankSummary(smallest=min(ranks), median=median(ranks), largest=max(ranks), modules=len(ranks))
        if ranks
        else None,
        planned_lora_params=planned.lora_params if ranks else None,
        reduction=planned.reduction if ranks else None,
        predicted=planned.predicted,
        **outcome,
    )
