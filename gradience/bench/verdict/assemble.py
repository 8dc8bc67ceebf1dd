"""Build `bench.json` from the results of a seed's stages. Counts come only from the records."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from gradience.bench.plan import PROBE, PlannedVariant, asked_for, looks_of, plan_digest
from gradience.bench.verdict.evidence import UNTESTED, graded_seed, seed_notes
from gradience.bench.verdict.facts import ANSWERS, Outcome, SeedFacts, gate_of_base
from gradience.bench.verdict.grade import failed_guards, overall, verdict_of_seed
from gradience.evaluate import diverge
from gradience.files import records as record_types
from gradience.files.shared_names import path_text, sentence_text, values_text
from gradience.reports import bench as reports
from gradience.reports.base.exact import exact_percent
from gradience.reports.base.report import RunInfo
from gradience.reports.bench_plan import BenchPlan, PlannedSet, Policy
from gradience.reports.training import TrainingReport
from gradience.statistics.table import PairedTable
from gradience.tasks.base import AnswerScoring, ChoiceScoring, LabelScoring, Scoring
from gradience.tasks.metrics import score

NO_PROBE = "no probe: "
"""Start of the reason of every variant if the probe, or its audit, ended in an error."""


def data_of(plan: BenchPlan, source: Mapping[str, str], counts: Mapping[str, int]) -> reports.BenchData:
    """Return which examples were used. source, counts: of the task."""
    return reports.BenchData(
        task=plan.task,
        source={role: sentence_text(text) for role, text in source.items()},
        splits=plan.splits,
        eval_role=plan.eval_role,
        counts=dict(counts),
        groups=plan.groups,
        looks=looks_of(plan),
    )


def assemble(
    facts: SeedFacts, rules: Scoring, data: reports.BenchData, plan: BenchPlan, run: RunInfo
) -> reports.Bench:
    """Return the result of one seed. Pure: the same facts give the same result."""
    config = facts.config
    training, probe = facts.training, _probe(facts, rules)
    variants = tuple(_with_guards(result, facts, plan.guards) for result in _variants(facts, rules, probe))
    status, reasons = status_of(variants)
    audit = facts.audit
    bench = reports.Bench(
        smoke=config.smoke,
        status=status,
        reasons=reasons,
        seed=facts.seed,
        planned_seeds=config.seeds,
        model=path_text(config.model.name),
        model_type="seqcls" if config.model.type == "seqcls" else "causal_lm",
        base_params=training.base_params if training else None,
        base_fingerprint=training.base_fingerprint if training else "",
        config=values_text(config.model_dump(mode="json")),
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        plan_digest=plan_digest(plan),
        policy=config.policy,
        data=data,
        environment=_environment(facts),
        probe=probe,
        audit=reports.AuditSummary(
            **{name: getattr(audit, name) for name in reports.AuditSummary.model_fields}
        )
        if audit
        else None,
        guards=plan.guards,
        variants=variants,
        best=best_of(variants),
        notes=seed_notes(probe, variants, config.policy),
        run=run,
    )
    return graded_seed(bench)


def status_of(variants: Sequence[reports.VariantResult]) -> tuple[reports.Status, tuple[str, ...]]:
    """Return the status of the seed, and why."""
    candidates = [result for result in variants if result.is_candidate]
    errors = [result.name for result in variants if result.status == "ERROR"]
    if errors:
        return "ERROR", (f"ended in an error: {', '.join(errors)}",)
    status = overall(result.status for result in candidates)
    reasons = [why for result in candidates if result.status == status != "PASS" for why in result.reasons]
    return status, tuple(dict.fromkeys(reasons))[:3]


def best_of(variants: Sequence[reports.VariantResult]) -> str | None:
    """Return the name of the smallest candidate that passes; of equals the first."""
    passing = (row for row in variants if row.status == "PASS" and row.is_candidate and row.same_as is None)
    best = max(passing, key=lambda row: row.reduction or 0.0, default=None)
    return None if best is None else best.name


# ---------------------------------------------------------------- variants


def _with_guards(
    result: reports.VariantResult, facts: SeedFacts, guards: Sequence[PlannedSet]
) -> reports.VariantResult:
    """Return a candidate's result with its rows on the guards: it passes only if it holds on every guard."""
    if not result.is_candidate or result.measures is None or result.status not in ("PASS", "FAIL"):
        return result
    known = {name: report.row(result.same_as or result.name) for name, report in facts.guards.items()}
    rows = {name: row for name, row in known.items() if row is not None}
    errors = facts.unguarded | {name: row.reason for name, row in rows.items() if row.grade == "X"}
    failed, changes = failed_guards(guards, rows), dict[str, object](guards=rows)
    if errors:
        changes |= {"status": "ERROR", "reasons": tuple(f"guard {name}: {errors[name]}" for name in errors)}
    elif failed:
        kept = result.reasons if result.status == "FAIL" else ()
        changes |= {"status": "FAIL", "reasons": (*kept, *failed)}
    return result.model_copy(update=changes)


def _variants(
    facts: SeedFacts, rules: Scoring, probe: reports.Probe | None
) -> tuple[reports.VariantResult, ...]:
    status: reports.Status = "UNDERTRAINED"
    if facts.error:
        status, why = "ERROR", f"{NO_PROBE}{facts.error}"
    elif probe is None:
        step = facts.training.steps if facts.training else 0
        why = f"the probe's training diverged at step {step} (the loss is NaN or infinite)"
    elif not facts.gate_passed:
        why = gate_sentence(probe)
    else:
        variants: dict[str, reports.VariantResult] = {}
        for outcome in facts.outcomes:
            variants[outcome.planned.name] = _variant(outcome, variants, facts, rules)
        return tuple(variants.values())
    return tuple(described(planned, status, (why,)) for planned in asked_for(facts.config.compression))


def gate_sentence(probe: reports.Probe) -> str:
    """Return the accuracy of the probe and its quality gate, in words."""
    diverged = "the training diverged; " if probe.training is not None and probe.training.diverged else ""
    reached = f"the probe has {probe.correct:,} / {probe.n:,} correct ({probe.score:.1%})".replace("%", " %")
    gate = f"its quality gate is {exact_percent(probe.gate.min_value)}"
    if probe.gate.base_correct is not None:
        base = "the base model" if probe.gate.base == "without an adapter" else "the most frequent label"
        gate += f", and {base} has {probe.gate.base_correct:,}"
    return f"{diverged}{reached}; {gate}"


def _variant(
    outcome: Outcome, before: Mapping[str, reports.VariantResult], facts: SeedFacts, rules: Scoring
) -> reports.VariantResult:
    planned = outcome.planned
    if planned.same_as not in (None, PROBE):
        return repeated(planned, before[planned.same_as])
    if planned.skipped:
        return described(planned, "SKIPPED", (planned.skipped,))
    if outcome.error or planned.unplanned:
        return described(planned, "ERROR", (outcome.error or planned.unplanned,))
    if outcome.answers is None:
        return described(planned, "SKIPPED", (UNTESTED,))
    assert facts.probe is not None
    assert facts.probe.answers is not None
    run, of_probe = outcome.answers.run, facts.probe.answers
    if planned.step is not None and run.n < of_probe.run.n:  # up to the look that decided
        of_probe = record_types.first(of_probe, run.n, run)
    change = diverge(of_probe, outcome.answers)  # refuses what was not evaluated in the same way
    divergence = None
    if change.kl_per_example is not None and change.flips is not None:
        divergence = reports.DivergenceSummary(
            kl_per_example=change.kl_per_example,
            kl_per_example_standard_error=change.kl_per_example_standard_error,
            flips=change.flips,
        )
    elif outcome.scores:  # KL and flips on the gold responses, against the probe
        rows = [row for row in outcome.scores.records if isinstance(row, record_types.ScoreRecord)]
        values = [row.kl or 0.0 for row in rows]
        divergence = reports.DivergenceSummary(
            kl_per_example=fmean(values),
            kl_per_example_standard_error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
            flips=sum(row.flips or 0 for row in rows),
        )
    return measured(
        planned, reports.Measures(**_measures(outcome, rules)), change.table, facts.config.policy, divergence
    )


def measured(
    planned: PlannedVariant,
    measures: reports.Measures,
    pairs: PairedTable,
    policy: Policy,
    divergence: reports.DivergenceSummary | None = None,
) -> reports.VariantResult:
    """Return the result of a variant that was made and evaluated.

    A parameter count that differs from the plan is an ERROR: per_layer of the original project never had
    the ranks that it reported.
    """
    verdict = verdict_of_seed(pairs.n, pairs.n10, pairs.n01, policy)
    status, reasons = verdict.status, verdict.reasons
    if measures.lora_params != planned.lora_params:
        why = f"it has {measures.lora_params:,} LoRA parameters; planned: {planned.lora_params:,}"
        status, reasons = "ERROR", (why,)
    return described(planned, status, reasons).model_copy(
        update={
            "measures": measures,
            "pairs": pairs,
            "delta": pairs.delta,
            "delta_exact": pairs.delta_as_counted,
            "divergence": divergence,
        }
    )


def repeated(planned: PlannedVariant, earlier: reports.VariantResult) -> reports.VariantResult:
    """Return the result of a variant that equals an earlier one: its numbers under another name."""
    same = {"name": planned.name, "arm": planned.arm, "same_as": earlier.name}
    reasons = (f"the same adapter as {earlier.name}", *earlier.reasons)
    return earlier.model_copy(update=same | {"rank_basis": planned.rank_basis, "reasons": reasons})


def described(
    planned: PlannedVariant, status: reports.Status, reasons: tuple[str, ...]
) -> reports.VariantResult:
    """Return the result of a variant without counts: what was planned, and what came of it."""
    ranks = list(planned.ranks.values())
    summary = None
    if ranks:
        summary = reports.RankSummary(
            smallest=min(ranks), median=median(ranks), largest=max(ranks), modules=len(ranks)
        )
    return reports.VariantResult(
        name=planned.name,
        arm=planned.arm,
        description=planned.making.words if planned.control is None else planned.control.words,
        expected=None if planned.control is None else planned.control.expected,
        made_by=planned.making.name,
        status=status,
        reasons=reasons,
        stopped_early=planned.stopped_early,
        same_as=planned.same_as,
        rank_basis=planned.rank_basis,
        ranks=summary,
        planned_lora_params=planned.lora_params if ranks else None,
        reduction=planned.reduction if ranks else None,
        predicted=planned.predicted,
    )


# ---------------------------------------------------------------- one adapter


def _probe(facts: SeedFacts, rules: Scoring) -> reports.Probe | None:
    if facts.probe is None or facts.probe.answers is None:
        return None
    gate = reports.Gate(
        min_value=facts.config.gate(),
        passed=facts.gate_passed,
        **gate_of_base(facts.config, facts.probe.answers, facts.base),
    )
    return reports.Probe(rank=facts.config.lora.probe_r, gate=gate, **_measures(facts.probe, rules))


def _measures(outcome: Outcome, rules: Scoring) -> dict[str, Any]:
    """The fields of `Measures`."""
    assert outcome.answers is not None
    assert outcome.adapter is not None
    counts = record_types.count(outcome.answers.records)
    peaks = [manifest.peak_memory_bytes for manifest in outcome.manifests if manifest.peak_memory_bytes]
    return {
        "lora_params": outcome.adapter.lora_params,
        "other_params": outcome.adapter.other_params,
        "bytes": outcome.adapter.bytes,
        "adapter_sha256": outcome.adapter.sha256,
        "n": counts.n,
        "correct": counts.correct,
        "correct_examples": record_types.pack(row.correct for row in outcome.answers.records),
        "score": counts.accuracy,
        "metrics": metrics_of(rules, outcome.answers.records),
        "cut_off": counts.cut_off,
        "failed_extractions": counts.failed_extractions,
        "truncated": counts.truncated,
        "records": f"{outcome.planned.name}/eval/{ANSWERS}",
        "records_sha256": outcome.answers_sha256,
        "training": _training(outcome.adapter.training),
        "seconds": sum(manifest.seconds for manifest in outcome.manifests),
        "peak_memory_bytes": max(peaks, default=None),
    }


def metrics_of(rules: Scoring, records: Sequence[Any]) -> dict[str, float]:
    """Compute the metrics reported beside the count: GLUE's metric, or the other filters."""
    if isinstance(rules, LabelScoring):
        rows = [row for row in records if isinstance(row, record_types.ClassificationRecord)]
        if rules.metric == "accuracy":
            return {}
        return {
            rules.metric: score(rules.metric, [row.label for row in rows], [row.predicted for row in rows])
        }
    if isinstance(rules, ChoiceScoring):
        choices = [row for row in records if isinstance(row, record_types.ChoiceRecord)]
        other = "per_character" if rules.choose_by == "sum" else "sum"
        return {other: sum(row.predictions[other] == row.label for row in choices) / len(choices)}
    if not isinstance(rules, AnswerScoring) or rules.decide is not None:
        return {}
    outputs = [row for row in records if isinstance(row, record_types.GenerationRecord)]
    shares = {}
    for name in list(rules.filters)[1:]:  # other ways of finding the answer
        pairs = [(row.answers[name], row.answer) for row in outputs]
        correct = sum(extracted is not None and rules.same(extracted, gold) for extracted, gold in pairs)
        shares[name] = correct / len(outputs)
    return shares


def _training(report: TrainingReport | None) -> reports.TrainingFacts | None:
    if report is None:
        return None
    named = {
        name: getattr(report, name) for name in reports.TrainingFacts.model_fields if hasattr(report, name)
    }
    start = report.start
    return reports.TrainingFacts(
        **named,
        tokens=report.examples.tokens,
        initial_adapter_sha256=start.initial_adapter_sha256,
        first_batch_sha256=start.first_batch_sha256,
    )


def _environment(facts: SeedFacts) -> reports.BenchEnvironment:
    training = facts.training
    run = facts.probe.answers.run if facts.probe and facts.probe.answers else None
    return reports.BenchEnvironment(
        engine=run.engine if run else facts.config.runtime.engine,
        device=(run and run.device) or (training.device if training else facts.config.runtime.device),
        dtype=training.dtype if training else facts.config.model.dtype,
        quantization=training.quantization if training else facts.config.model.quantization,
        threads=training.threads if training else 0,
        processes=training.processes if training else 1,
        versions=(run.versions if run else {}) | (training.versions if training else {}),
    )
