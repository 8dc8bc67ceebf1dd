"""What a seed's stages left -> `bench.json`. Counts are made from the records here, and from nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preregister import plan_digest
from gradience.bench.plan.variants import PROBE
from gradience.bench.verdict import results
from gradience.bench.verdict.facts import ANSWERS, Outcome, SeedFacts
from gradience.bench.verdict.graded import graded_seed
from gradience.bench.verdict.policy import gate_passed, is_ahead
from gradience.bench.verdict.sanity import seed_notes
from gradience.evaluate import diverge
from gradience.files.packed import pack
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    GenerationRecord,
    ScoreRecord,
    count,
)
from gradience.files.shared_names import path_text, sentence_text, values_text
from gradience.reports.base.run import RunInfo
from gradience.reports.bench import (
    Bench,
    BenchData,
    BenchEnvironment,
    DivergenceSummary,
    Gate,
    Measures,
    Pairs,
    Probe,
    TrainingFacts,
    VariantResult,
)
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import TrainingReport
from gradience.tasks.base import AnswerScoring, ChoiceScoring, LabelScoring, Scoring, Task
from gradience.tasks.metrics import score


def data_of(task: Task, config: BenchConfig, plan: BenchPlan) -> BenchData:
    """Return which examples of the task were used."""
    return BenchData(
        task=task.name,
        source={role: sentence_text(source) for role, source in task.source.items()},
        splits=plan.splits,
        eval_role=config.task.eval_role,
        counts=dict(task.examples.counts),
    )


def assemble(facts: SeedFacts, rules: Scoring, data: BenchData, plan: BenchPlan, run: RunInfo) -> Bench:
    """Return the result of one seed. Pure: whoever has the same facts gets the same result."""
    config = facts.config
    training = facts.probe.adapter.training if facts.probe and facts.probe.adapter else None
    probe = _probe(facts, rules)
    variants = _variants(facts, rules, probe, training)
    status, reasons = results.status_of(variants)
    bench = Bench(
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
        environment=_environment(facts, training),
        probe=probe,
        audit=results.summary(facts.audit) if facts.audit else None,
        variants=variants,
        best=results.best_of(variants),
        notes=(*map(sentence_text, config.notes), *seed_notes(probe, variants, config.policy)),
        run=run,
    )
    return graded_seed(bench)


def _variants(
    facts: SeedFacts, rules: Scoring, probe: Probe | None, training: TrainingReport | None
) -> results.Results:
    if facts.error:
        return results.all_unmeasured(facts.config, "ERROR", f"there is no probe: {facts.error}")
    if probe is None:
        step = training.steps if training else 0
        why = f"the probe's training diverged at step {step}: its loss was no number"
        return results.all_unmeasured(facts.config, "UNDERTRAINED", why)
    if not facts.gate_passed:
        return results.all_unmeasured(facts.config, "UNDERTRAINED", results.gate_sentence(probe))
    variants: list[VariantResult] = []
    for outcome in facts.outcomes:
        variants.append(_variant(outcome, variants, facts, rules))
    return tuple(variants)


def _variant(
    outcome: Outcome, before: Sequence[VariantResult], facts: SeedFacts, rules: Scoring
) -> VariantResult:
    planned = outcome.planned
    if planned.same_as not in (None, PROBE):
        return results.repeated(planned, before)
    if planned.skipped:
        return results.unmeasured(planned, "SKIPPED", planned.skipped)
    if outcome.error or planned.unplanned:
        return results.unmeasured(planned, "ERROR", outcome.error or planned.unplanned)
    assert outcome.answers is not None
    assert facts.probe is not None
    assert facts.probe.answers is not None
    change = diverge(facts.probe.answers, outcome.answers)  # refuses what was not evaluated in the same way
    pairs = Pairs(
        both_correct=change.both_correct,
        only_probe_correct=change.only_a_correct,
        only_variant_correct=change.only_b_correct,
        both_wrong=change.both_wrong,
    )
    divergence = _divergence_of_scores(outcome) if outcome.scores else None
    if change.kl_mean is not None and change.flips is not None:
        divergence = DivergenceSummary(
            kl_mean=change.kl_mean, kl_standard_error=change.kl_standard_error, flips=change.flips
        )
    return results.measured(
        planned, Measures(**_measures(outcome, rules)), pairs, facts.config.policy, divergence
    )


def _divergence_of_scores(outcome: Outcome) -> DivergenceSummary:
    """KL and flips on the gold responses, against the probe."""
    assert outcome.scores is not None
    rows = [row for row in outcome.scores.records if isinstance(row, ScoreRecord)]
    values = [row.kl or 0.0 for row in rows]
    return DivergenceSummary(
        kl_mean=fmean(values),
        kl_standard_error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        flips=sum(row.flips or 0 for row in rows),
    )


# ---------------------------------------------------------------- one adapter


def _probe(facts: SeedFacts, rules: Scoring) -> Probe | None:
    if facts.probe is None or facts.probe.answers is None:
        return None
    gate = Gate(
        min_value=facts.config.gate(),
        passed=facts.gate_passed,
        **gate_of_base(facts.config, facts.probe.answers, facts.base),
    )
    return Probe(rank=facts.config.lora.probe_r, gate=gate, **_measures(facts.probe, rules))


def gate_of_base(config: BenchConfig, probe: Evaluation[Any], base: Evaluation[Any] | None) -> dict[str, Any]:
    """Return the fields of `Gate` that are about the base: what it has correct, and the lead that is asked for."""
    margin = config.task.probe_gate.above_base
    if margin is None:
        return {}
    if base is not None:
        correct, what = count(base.records).correct, "without an adapter"
    else:
        labels = Counter(row.label for row in probe.records if isinstance(row, ClassificationRecord))
        correct, what = max(labels.values()), "most frequent label"
    return {"above_base": margin, "base_correct": correct, "base": what}


def reaches_gate(config: BenchConfig, probe: Evaluation[Any]) -> bool:
    """Return whether a probe with these answers has as many correct as its gate asks for."""
    counts = count(probe.records)
    return gate_passed(counts.correct, counts.n, config.gate())


def leads_base(config: BenchConfig, probe: Evaluation[Any], base: Evaluation[Any] | None) -> bool:
    """Return whether it has more correct than its base, by more than its gate asks for; true where nothing is asked."""
    counts, about = count(probe.records), gate_of_base(config, probe, base)
    return not about or is_ahead(counts.correct, about["base_correct"], counts.n, about["above_base"])


def _measures(outcome: Outcome, rules: Scoring) -> dict[str, Any]:
    """The fields of `Measures`."""
    assert outcome.answers is not None
    assert outcome.adapter is not None
    counts = count(outcome.answers.records)
    evaluated = next(manifest for manifest in outcome.manifests if ANSWERS in manifest.files)
    peaks = [manifest.peak_memory_bytes for manifest in outcome.manifests if manifest.peak_memory_bytes]
    return {
        "lora_params": outcome.adapter.lora_params,
        "other_params": outcome.adapter.other_params,
        "bytes": outcome.adapter.bytes,
        "adapter_sha256": outcome.adapter.sha256,
        "n": counts.n,
        "correct": counts.correct,
        "correct_examples": pack(row.correct for row in outcome.answers.records),
        "score": counts.accuracy,
        "metrics": metrics_of(rules, outcome.answers.records),
        "cut_off": counts.cut_off,
        "failed_extractions": counts.failed_extractions,
        "truncated": counts.truncated,
        "records": f"{outcome.planned.name}/eval/{ANSWERS}",
        "records_sha256": evaluated.files[ANSWERS].sha256,
        "training": _training(outcome.adapter.training),
        "seconds": sum(manifest.seconds for manifest in outcome.manifests),
        "peak_memory_bytes": max(peaks, default=None),
    }


def metrics_of(rules: Scoring, records: Sequence[Any]) -> dict[str, float]:
    """Compute what the field reports beside the count: GLUE's metric, or the other ways of finding an answer."""
    if isinstance(rules, LabelScoring):
        rows = [row for row in records if isinstance(row, ClassificationRecord)]
        if rules.metric == "accuracy":
            return {}
        return {
            rules.metric: score(rules.metric, [row.label for row in rows], [row.predicted for row in rows])
        }
    if isinstance(rules, ChoiceScoring):
        choices = [row for row in records if isinstance(row, ChoiceRecord)]
        other = "per_character" if rules.choose_by == "sum" else "sum"
        return {other: sum(row.predictions[other] == row.label for row in choices) / len(choices)}
    if not isinstance(rules, AnswerScoring) or rules.decide is not None:
        return {}
    answers = [row for row in records if isinstance(row, GenerationRecord)]
    return {name: _share(rules, answers, name) for name in list(rules.filters)[1:]}


def _share(rules: AnswerScoring, rows: Sequence[GenerationRecord], name: str) -> float:
    """Share of outputs in which this filter finds the correct answer."""
    answers = [(row.answers[name], row.answer) for row in rows]
    return sum(answer is not None and rules.same(answer, gold) for answer, gold in answers) / len(rows)


def _training(report: TrainingReport | None) -> TrainingFacts | None:
    if report is None:
        return None
    return TrainingFacts(
        steps=report.steps,
        planned_steps=report.planned_steps,
        loss=report.loss,
        diverged=report.diverged,
        tokens=report.examples.tokens,
        seconds=report.seconds,
        peak_memory_bytes=report.peak_memory_bytes,
        initial_adapter_sha256=report.start.initial_adapter_sha256,
        first_batch_sha256=report.start.first_batch_sha256,
    )


def _environment(facts: SeedFacts, training: TrainingReport | None) -> BenchEnvironment:
    run = facts.probe.answers.run if facts.probe and facts.probe.answers else None
    return BenchEnvironment(
        engine=run.engine if run else facts.config.runtime.engine,
        device=run.device if run else training.device if training else facts.config.runtime.device,
        dtype=training.dtype if training else facts.config.model.dtype,
        quantization=training.quantization if training else facts.config.model.quantization,
        threads=training.threads if training else 0,
        processes=training.processes if training else facts.config.runtime.processes,
        versions=(run.versions if run else {}) | (training.versions if training else {}),
    )
