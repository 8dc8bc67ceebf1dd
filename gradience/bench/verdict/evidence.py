"""The seeds of a run -> evidence for every variant of it: bounds, adjusted p-values, a grade. Pure.

One function for one seed and for several: `bench.json` of a plan with one seed has what its aggregate would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gradience.bench.plan.variants import PROBE
from gradience.bench.verdict import outlook
from gradience.bench.verdict.answers import differences, pooled_answers, results_of
from gradience.bench.verdict.grade import SCALE_CHANGED, GradeFacts, faults, grade
from gradience.bench.verdict.ladder import RungFacts, adjusted, climb_down, names_of, settings_of
from gradience.reports.base.graded import Ladder, PooledEvidence, VariantEvidence
from gradience.reports.bench import Bench, Status, VariantResult
from gradience.statistics import Pooled, bootstrap_bound, holm


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What concerns every variant of a run."""

    planned: Sequence[int]
    statuses: Mapping[str, Status]
    """The policy's verdict on every variant, over all planned seeds."""
    blind: str = ""
    """The control that must fail and passed on all seeds."""
    confirm_untouched: bool
    plan_followed: bool
    records_verified: bool


class Evidence(NamedTuple):
    """Evidence for every variant by its name, and the ladder where there is one."""

    variants: dict[str, VariantEvidence]
    ladder: Ladder | None


class _Subject(NamedTuple):
    """One variant over its seeds."""

    results: dict[int, VariantResult]
    pooled: Pooled | None
    shown: PooledEvidence | None

    @property
    def kind(self) -> VariantResult:
        """Any of its results: arm and name are the same on every seed."""
        return next(iter(self.results.values()))


def evidence_of(benches: Sequence[Bench], run: RunFacts) -> Evidence:
    """Return the evidence of a run from its seeds, in whatever order."""
    ordered = sorted(benches, key=lambda bench: bench.seed)
    subjects = {name: _subject(ordered, name) for name in run.statuses}
    facts = {name: _facts(ordered, run, name, subject) for name, subject in subjects.items()}
    ladder = _ladder(ordered, run, subjects, facts)
    facts = _with_adjusted(facts, subjects, ladder)
    return Evidence(
        {name: _evidence(facts[name], subjects[name], run, ordered[0]) for name in subjects}, ladder
    )


def _subject(benches: Sequence[Bench], name: str) -> _Subject:
    rows = differences(benches, name)
    pooled = pooled_answers(rows)
    if pooled is None or rows is None:
        return _Subject(results_of(benches, name), None, None)
    margin = benches[0].policy.tolerance
    shown = PooledEvidence.of(pooled, margin, bootstrap_low=bootstrap_bound(rows))
    return _Subject(results_of(benches, name), pooled, shown)


def _facts(benches: Sequence[Bench], run: RunFacts, name: str, subject: _Subject) -> GradeFacts:
    """What its grade hangs on, before the claims are adjusted for each other."""
    results, probes = subject.results, {bench.seed: bench.probe for bench in benches}
    twins = {result.same_as for result in results.values()} - {PROBE}
    duplicate = len(twins) == 1 and subject.kind.is_candidate
    precisions = {(bench.environment.dtype, bench.environment.quantization) for bench in benches}
    return GradeFacts(
        gate_passed=all(probe is None or probe.gate.passed for probe in probes.values()),
        pairs_complete=all(_compared(results.get(seed)) for seed in run.planned),
        one_engine=len(precisions) == 1,
        scale_held=not any(SCALE_CHANGED in why for result in results.values() for why in result.reasons),
        same_as=(twins.pop() or "") if duplicate else "",
        seeded=all(
            _seeded(result, bench) for bench in benches if (result := results.get(bench.seed)) is not None
        ),
        blind=run.blind,
        passes=run.statuses[name] == "PASS",
        margin=benches[0].policy.tolerance,
        these_runs=subject.shown.these_runs if subject.shown else None,
        new_run=subject.shown.new_run if subject.shown else None,
        adjusted_p=None,
        seeds=len(run.planned),
        confirm_untouched=run.confirm_untouched,
        plan_followed=run.plan_followed,
        records_verified=run.records_verified,
    )


def _compared(result: VariantResult | None) -> bool:
    """Whether a planned seed has its answers, or needs none since the verdict stood before."""
    return result is not None and (
        result.stopped_early or (result.pairs is not None and result.status != "ERROR")
    )


def _seeded(result: VariantResult, bench: Bench) -> bool:
    """Whether its training saw the examples in the order of its seed: the probe's. What was not trained has none."""
    training = result.measures.training if result.measures else None
    probe = bench.probe.training if bench.probe else None
    return training is None or probe is None or training.first_batch_sha256 == probe.first_batch_sha256


def _ladder(
    benches: Sequence[Bench], run: RunFacts, subjects: Mapping[str, _Subject], facts: Mapping[str, GradeFacts]
) -> Ladder | None:
    settings = settings_of(benches[0].config)
    if settings is None:
        return None
    rungs = [
        RungFacts(
            name=name,
            rung=rung,
            is_probe=all(result.same_as == PROBE for result in subjects[name].results.values()),
            faults=faults(facts[name]),
            pooled=subjects[name].pooled,
            evidence=subjects[name].shown,
        )
        for name, rung in names_of(settings).items()
        if name in subjects
    ]
    return climb_down(rungs, settings, benches[0].policy.tolerance, seeds=len(run.planned))


def _with_adjusted(
    facts: Mapping[str, GradeFacts], subjects: Mapping[str, _Subject], ladder: Ladder | None
) -> dict[str, GradeFacts]:
    """The same with p-values of a new run that are adjusted: Holm for candidates, the sequence for rungs."""
    candidates = [name for name, subject in subjects.items() if subject.kind.is_candidate]
    p_values = {name: shown.new_run.p_value if (shown := subjects[name].shown) and shown.new_run else None
                for name in candidates}  # fmt: skip
    corrected = dict(zip(candidates, holm([1.0 if p is None else p for p in p_values.values()]), strict=True))
    graded = {
        name: replace(facts[name], adjusted_p=corrected[name], family=len(candidates))
        for name, p in p_values.items()
        if p is not None
    }
    if ladder is not None:
        shown_rungs = {name: subject.shown for name, subject in subjects.items() if subject.shown is not None}
        sequence = adjusted(ladder, shown_rungs)
        stop = next((row.name for row in ladder.rungs if row.status == "not shown"), "")
        for place, row in enumerate(ladder.rungs, start=1):
            graded[row.name] = replace(
                facts[row.name],
                adjusted_p=sequence.get(row.name),
                family=place,
                untested=stop if row.status == "not tested" else "",
            )
    return {**facts, **graded}


def _evidence(facts: GradeFacts, subject: _Subject, run: RunFacts, first: Bench) -> VariantEvidence:
    control = subject.kind.is_control
    policy = None
    if subject.pooled is not None and not control:
        policy = outlook.characteristics(subject.pooled, first.policy, len(run.planned))
        facts = replace(facts, pass_if_equal=policy.pass_if_equal)
    graded = not control and any(result.status != "SKIPPED" for result in subject.results.values())
    letter, reason = grade(facts) if graded else (None, "")
    return VariantEvidence(
        grade=letter,
        reason=reason,
        pooled=subject.shown,
        adjusted_p=facts.adjusted_p,
        family=facts.family if facts.adjusted_p is not None else None,
        policy=policy,
        next_grade=outlook.next_grade(letter, facts, subject.pooled) if letter else None,
    )
