"""The seeds of a run -> evidence for every variant of it: bounds, adjusted p-values, a grade; and the ladder. Pure.

Steps of a ladder are tested from the top until one is not shown within the margin. Candidates and the ladder share
one error rate. The order and the bound are fixed in the plan, so the chance of any false claim stays at the level of
one test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, combinations
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradience.bench.arms import control_of, step_rank
from gradience.bench.plan import ALPHA, PROBE, bound_of
from gradience.bench.verdict import grade as grades
from gradience.reports import bench as reports
from gradience.reports.bench_plan import LadderBound, Policy, allowed_losses
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.statistics.paired import adjusted_p_values, exactly
from gradience.statistics.pooled import Pooled, pool
from gradience.statistics.sequential import Look, decide


def obstacles_of(
    benches: Sequence[reports.Bench],
    rows: Sequence[reports.SeedRow],
    variants: Sequence[reports.VariantSummary],
) -> tuple[str, ...]:
    """Return what rules out a grade A, whatever the counts are: no single plan with a result for every
    planned seed (`rows`), a limited confirm split, or controls that are missing or not as expected.
    """
    obstacles = []
    without = [str(row.seed) for row in rows if row.status == "ERROR"]
    if without:
        obstacles.append(f"no complete result for seed {', '.join(without)}")
    elif len({(bench.planned_seeds, bench.plan_digest) for bench in benches}) > 1:
        obstacles.append("the seeds were planned separately, so unwanted seeds may have been left out")
    obstacles += limited(benches)
    controls = [variant for variant in variants if variant.expected is not None]
    for control in controls:
        if control.status in ("PASS", "FAIL") and not control.complete:
            obstacles.append(f"seeds of {control.name} are missing")
        elif control.status != control.expected:
            obstacles.append(f"{control.name} is not as expected")
    if any(bench.guards for bench in benches):
        obstacles.append("guards are tested on these runs, not on the next training")
    if not any(control.expected == "FAIL" for control in controls):
        obstacles.append("no control that must fail was planned")
    return tuple(obstacles)


def limited(benches: Sequence[reports.Bench]) -> list[str]:
    """Return why what was evaluated is not the whole confirm split; nothing if it is."""
    for bench in benches:
        task = bench.config.get("task")
        limit = task.get("eval_samples") if isinstance(task, dict) else None
        evaluated = next((split.n for split in bench.data.splits if split.role == bench.data.eval_role), 0)
        if bench.data.eval_role != "confirm":
            return [f"evaluated on {bench.data.eval_role}"]
        if isinstance(limit, int) and evaluated >= limit:
            return [f"limited to {evaluated:,} examples (task.eval_samples)"]
    return []


# ---------------------------------------------------------------- controls


def seed_notes(
    probe: reports.Probe | None, variants: Iterable[reports.VariantResult], policy: Policy
) -> tuple[str, ...]:
    """Return the notes on the controls and the probe of one seed."""
    notes = [] if probe is None else _ceiling_notes([(probe.correct, probe.n)], policy)
    for result in variants:
        if result.as_expected is not False:
            continue
        meaning = otherwise(result)
        if result.expected == "FAIL":
            notes.append(
                f"{result.name} must fail but passes on this seed. If it passes on all seeds, {meaning}"
            )
        else:
            notes.append(f"{result.name} must pass but fails: {meaning}")
    return tuple(notes)


def aggregate_notes(
    rows: Sequence[reports.SeedRow], variants: Iterable[reports.VariantSummary], policy: Policy
) -> tuple[str, ...]:
    """Return the notes on the controls and the probe over all seeds."""
    notes = _ceiling_notes(
        [(row.correct, row.n) for row in rows if row.correct is not None and row.n], policy
    )
    for result in variants:
        if result.expected is None or result.status == result.expected:
            continue
        if result.expected == "PASS" and result.complete:
            notes.append(f"{result.name} must pass but fails: {otherwise(result)}")
        elif result.status == "PASS" and result.planned == 1:
            notes.append(f"{result.name} must fail but passes on the only seed")
    return tuple(notes)


def blind_controls(variants: Iterable[reports.VariantSummary]) -> list[reports.VariantSummary]:
    """Return the controls that must fail and pass on each of several seeds."""
    return [
        result
        for result in variants
        if result.expected == "FAIL" and result.status == "PASS" and result.passing == result.planned > 1
    ]


def otherwise(result: reports.OfAnArm) -> str:
    """Return the meaning of a control that does not have its expected status."""
    control = control_of(result.name)
    assert control is not None
    return control.otherwise


def _ceiling_notes(scores: Sequence[tuple[int, int]], policy: Policy) -> list[str]:
    """Warn where a probe has so few examples wrong that little is left to tell adapters apart by.

    scores: (correct, examples) of each seed.
    """
    high = [(correct, n) for correct, n in scores if n and at_ceiling(correct, n, policy.tolerance)]
    if not high:
        return []
    correct, n = high[0]
    where = "" if len(scores) == 1 else f" on {len(high)} of {len(scores)} seeds"
    return [
        f"warning: the probe is at its ceiling{where} ({correct:,} / {n:,} correct): easy examples do not separate"
        " adapters, so use harder ones"
    ]


def at_ceiling(correct: int, n: int, tolerance: Fraction) -> bool:
    """Return whether no more of `n` examples are wrong than a variant may lose, net.

    >>> at_ceiling(195, 200, Fraction(1, 40)), at_ceiling(194, 200, Fraction(1, 40))
    (True, False)
    """
    return n - correct <= allowed_losses(n, tolerance)


# ---------------------------------------------------------------- evidence


SCALE_CHANGED = "its scale α/r differs from the probe's"
"""Reason of a variant that ends in an error because of its scale."""
UNTESTED = "not evaluated: the ladder has stopped above it"
"""Reason of a step that no seed has answered."""
Differences = NDArray[np.int8]
R = TypeVar("R", reports.Bench, reports.BenchAggregate)


def graded_seed(bench: reports.Bench) -> reports.Bench:
    """Return the result of a seed with its evidence if it is the only planned seed; else unchanged.

    Of several seeds each has its intervals, and they are graded together. A smoke run is not evidence.
    """
    if bench.smoke or len(bench.planned_seeds) > 1:
        return bench
    without = [f"no complete result for seed {bench.seed}"] if bench.status == "ERROR" else []
    obstacles = (*without, *limited([bench]), *_ungated([bench]))
    return _graded(bench, [bench], "", obstacles)


def graded_together(
    report: reports.BenchAggregate, benches: Sequence[reports.Bench], *, records_verified: bool
) -> reports.BenchAggregate:
    """Return the aggregate of seeds with its evidence.

    records_verified: whether the counts are known to be those of the records.
    """
    unverified = [] if records_verified else ["the records were not verified"]
    blind = ", ".join(variant.name for variant in blind_controls(report.variants))
    obstacles = (*obstacles_of(benches, report.seeds, report.variants), *unverified, *_ungated(benches))
    probes = np.array([bench.probe.answers() for bench in benches if bench.probe is not None], dtype=np.int8)
    pairs = [first - second for first, second in combinations(probes, 2)]
    rewrite = _differences(benches, "rewrite_control")
    noise = reports.Noise(
        probes=reports.NoiseFloor.of(np.array(pairs)) if pairs else None,
        rewrite_control=None if rewrite is None else reports.NoiseFloor.of(rewrite),
    )
    return _graded(report, benches, blind, obstacles).model_copy(
        update={"noise": noise, "records_verified": records_verified}
    )


def _ungated(benches: Sequence[reports.Bench]) -> list[str]:
    gates = [None if bench.probe is None else bench.probe.gate for bench in benches]
    if all(gate is not None and (gate.min_value > 0 or gate.above_base is not None) for gate in gates):
        return []
    return ["the probe had no quality gate"]


# ---------------------------------------------------------------- answers, example by example


def _differences(benches: Sequence[reports.Bench], name: str) -> Differences | None:
    """variant − probe of every seed that compared them, (runs, examples): −1, 0 or 1. None if no seed did.

    Of a step, the examples that all seeds have answered.
    """
    rows = []
    for bench in benches:
        result = bench.variant(name)
        if bench.probe is not None and result is not None and result.pairs and result.measures:
            variant, probe = result.measures.answers(), bench.probe.answers()[: result.measures.n]
            rows.append(np.array(variant, dtype=np.int8) - np.array(probe, dtype=np.int8))
    return np.stack([row[: min(map(len, rows))] for row in rows]) if rows else None


# ---------------------------------------------------------------- looks


class Decided(NamedTuple):
    """A step at the look that ends its test, or at the last one that was answered."""

    look: Look
    pooled: Pooled
    stopped: str | None
    """As in `Decision`: None if the next look is due."""


@dataclass(frozen=True, slots=True)
class LookRules:
    """Rules for testing the steps of a ladder at looks, on all seeds at once."""

    looks: tuple[int, ...]
    groups: tuple[int, ...] | None
    margin: Fraction
    bound: LadderBound
    level: float
    """Share of the 5 % that the ladder has, after the candidates (Holm)."""

    @classmethod
    def of(cls, benches: Sequence[reports.Bench]) -> LookRules | None:
        """Return the rules of a run; None if its ladder has no looks."""
        first = benches[0]
        if not first.steps or not first.data.looks:
            return None
        subjects = [Subject.of(benches, result.name) for result in first.variants if result.is_candidate]
        adjusted = adjusted_p_values([*([subject.p_these_runs] for subject in subjects), [1.0]])[:-1]
        open_claims = 1 + sum(value > ALPHA for (value,) in adjusted)
        bound = bound_of(len(first.planned_seeds))
        level = float(ALPHA) / open_claims
        return cls(first.data.looks, first.data.groups, first.policy.tolerance, bound, level)

    def decide(self, rows: ArrayLike) -> Decided:
        """Test the differences of all seeds, (runs, examples), look by look, as far as they go."""
        values = np.asarray(rows)
        for number, end in enumerate(self.looks, start=1):
            pooled = pool(values[:, :end], None if self.groups is None else self.groups[:end])
            look = Look(self.looks, number)
            nominal, worse = (
                test(float(self.margin), self.bound) for test in (pooled.p_value, pooled.worse_p_value)
            )
            bounds, p_value = pooled.interval(self.bound, look.confidence(0.90)), look.p_value(nominal)
            stopped = decide(
                look, bounds, p_value, self.margin, nominal=nominal, worse=worse, level=self.level
            ).stopped
            if stopped is not None or self.looks[number] > values.shape[1]:
                break
        return Decided(look, pooled, stopped)


# ---------------------------------------------------------------- evidence


@dataclass(frozen=True, slots=True)
class Subject:
    """One variant over its seeds."""

    results: Mapping[int, reports.VariantResult]
    faults: tuple[str, ...] = ()
    """Why nothing can be concluded of it, in words."""
    pooled: Pooled | None = None
    """None without answers to two examples or more."""
    shown: reports.PooledEvidence | None = None
    decided: Decided | None = None
    """Result of a step that is tested at looks."""
    guards: Mapping[str, EvaluatedAdapter] = field(default_factory=dict)
    """Guard and seed -> row on it."""

    @classmethod
    def of(
        cls, benches: Sequence[reports.Bench], name: str, blind: str = "", rules: LookRules | None = None
    ) -> Subject:
        """blind: the control that must fail and passed on all seeds. rules: of a ladder that is tested at looks."""
        rows = _differences(benches, name)
        results = {bench.seed: result for bench in benches if (result := bench.variant(name)) is not None}
        faults = _faults(benches, results, blind)
        if rows is None or rows.shape[1] < 2:
            return cls(results, faults)
        margin, groups = benches[0].policy.tolerance, benches[0].data.groups
        is_whole = len(rows) == len(benches[0].planned_seeds)
        if rules is not None and is_whole and next(iter(results.values())).is_step:
            decided = rules.decide(rows)
            shown = reports.PooledEvidence.of(decided.pooled, margin, look=decided.look)
            return cls(results, faults, decided.pooled, shown, decided)
        pooled = pool(rows, groups)
        guards = {
            f"{guard}, seed {seed}": row
            for seed, result in results.items()
            for guard, row in result.guards.items()
        }
        return cls(results, faults, pooled, reports.PooledEvidence.of(pooled, margin), guards=guards)

    @property
    def p_these_runs(self) -> float:
        """The p-value for these runs: 1 if it could not be tested, since it still counts among the claims."""
        return max(
            1.0 if self.shown is None else self.shown.these_runs.p_value, grades.joint_p_value(self.guards)
        )

    def p_of_step(self, bound: LadderBound) -> float:
        """Return the p-value for a step's claim: 1 if it cannot be tested."""
        bounds = None if self.shown is None or self.faults else self.shown.bounds(bound)
        return 1.0 if bounds is None else bounds.p_value

    @property
    def kind(self) -> reports.VariantResult:
        """Any of its results: arm and name are the same on every seed."""
        return next(iter(self.results.values()))

    @property
    def is_probe(self) -> bool:
        """True if no rank is below the probe's."""
        return {result.same_as for result in self.results.values()} == {PROBE}

    @property
    def is_untested(self) -> bool:
        """True for a step that no seed has answered."""
        return bool(self.results) and all(UNTESTED in result.reasons for result in self.results.values())


def _graded(report: R, benches: Sequence[reports.Bench], blind: str, obstacles: tuple[str, ...]) -> R:
    """Return the result of these seeds with evidence for every variant, and the ladder if there is one.

    Candidates and the ladder share one error rate for each letter (Holm); within the ladder the steps follow each
    other (fixed sequence). blind: as in `Subject.of`. obstacles: of `GradeFacts`.
    """
    seeds, names = len(report.planned_seeds), [row.name for row in report.variants]
    benches = sorted(benches, key=lambda bench: bench.seed)
    margin, steps = benches[0].policy.tolerance, [result.name for result in benches[0].steps]
    subjects = {name: Subject.of(benches, name, blind) for name in names if name not in steps}
    candidates: list[str] = [name for name, subject in subjects.items() if subject.kind.is_candidate]
    rules = LookRules.of(benches)
    subjects |= {name: Subject.of(benches, name, blind, rules) for name in steps}
    sequence: list[str] = [name for name in steps if not subjects[name].is_probe]
    claims: list[list[str]] = [*([name] for name in candidates), *([sequence] if sequence else [])]
    bound = bound_of(seeds)
    p_values = {name: subjects[name].p_these_runs for name in candidates}
    these = adjusted(claims, p_values | {name: subjects[name].p_of_step(bound) for name in sequence})
    shown = {name: subject.shown for name, subject in subjects.items() if subject.shown is not None}
    next_training = {name: bounds for name, each in shown.items() if (bounds := each.next_training)}
    following = adjusted(claims, {name: bounds.p_value for name, bounds in next_training.items()})
    ladder = (
        walk_ladder({name: subjects[name] for name in steps}, margin, these, seeds=seeds) if steps else None
    )
    tested = {} if ladder is None else {step.name: step.status for step in ladder.steps}
    stop = next((name for name, status in tested.items() if status == "inconclusive"), "")
    variants = []
    for row in report.variants:
        name, subject, letter, reason = row.name, subjects[row.name], None, ""
        facts = grades.GradeFacts(
            faults=subject.faults,
            passes=row.status == "PASS",
            margin=margin,
            these_runs=shown[name].these_runs if name in shown else None,
            next_training=next_training.get(name),
            adjusted_p=following.get(name) if name in next_training else None,
            adjusted_p_these_runs=these.get(name) if name in shown else None,
            family=len(claims) if name in these else 1,
            untested=stop if tested.get(name) == "not tested" else "",
            seeds=seeds,
            obstacles=obstacles,
            guards=subject.guards,
        )
        if not subject.kind.is_control and any(r.status != "SKIPPED" for r in subject.results.values()):
            letter, reason = grades.grade(facts)
        evidence = reports.VariantEvidence(
            grade=letter,
            reason=reason,
            pooled=subject.shown,
            adjusted_p=facts.adjusted_p,
            adjusted_p_these_runs=facts.adjusted_p_these_runs,
            family=facts.family if name in shown and not subject.kind.is_control else None,
            next_grade=grades.next_grade(letter, facts, subject.pooled),
        )
        variants.append(row.model_copy(update={"evidence": evidence}))
    return report.model_copy(update={"variants": tuple(variants), "ladder": ladder})


def adjusted(claims: Sequence[Sequence[str]], p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the adjusted p-value of each name in `claims`. One without a p-value still counts among the claims."""
    values = adjusted_p_values([[p_values.get(name, 1.0) for name in claim] for claim in claims])
    return dict(zip(chain.from_iterable(claims), chain.from_iterable(values), strict=True))


def _faults(
    benches: Sequence[reports.Bench], results: Mapping[int, reports.VariantResult], blind: str
) -> tuple[str, ...]:
    """Why nothing can be concluded of a variant, in words."""
    planned = {seed for bench in benches for seed in bench.planned_seeds}
    twins = {result.same_as for result in results.values()} - {PROBE}
    is_candidate = next(iter(results.values())).is_candidate
    twin = next(iter(twins)) if len(twins) == 1 and is_candidate else None
    precisions = {(bench.environment.dtype, bench.environment.quantization) for bench in benches}
    reasons = [why for result in results.values() for why in result.reasons]
    checks = {
        "the probe fails its quality gate": not all(
            bench.probe is None or bench.probe.gate.passed for bench in benches
        ),
        "a planned seed has no answers to compare": not all(_compared(results.get(seed)) for seed in planned),
        "the seeds differ in precision": len(precisions) > 1,
        SCALE_CHANGED: any(SCALE_CHANGED in why for why in reasons),
        f"the same adapter as {twin}: one result, not two": twin is not None,
        "its training was not seeded": not all(
            _seeded(results[bench.seed], bench) for bench in benches if bench.seed in results
        ),
        f"{blind} must fail but passes on all seeds, so a drop could go unnoticed": bool(blind),
    }
    return tuple(words for words, is_so in checks.items() if is_so)


def _compared(result: reports.VariantResult | None) -> bool:
    """Return True if a planned seed has its answers, or needs none because the verdict was already final."""
    return result is not None and (
        result.stopped_early or (result.pairs is not None and result.status != "ERROR")
    )


def _seeded(result: reports.VariantResult, bench: reports.Bench) -> bool:
    """Return True if its training used its seed's example order, the probe's. An untrained variant has none."""
    training = result.measures.training if result.measures else None
    probe = bench.probe.training if bench.probe else None
    return training is None or probe is None or training.first_batch_sha256 == probe.first_batch_sha256


# ---------------------------------------------------------------- the ladder


def walk_ladder(
    steps: Mapping[str, Subject], margin: Fraction, adjusted: Mapping[str, float], *, seeds: int
) -> reports.Ladder:
    """Test the steps, by their names, in their order.

    adjusted: p-values of the steps below the probe. seeds: that were planned; fewer than three say nothing of other
    trainings.
    """
    bound = bound_of(seeds)
    rows: list[reports.Step] = []
    stopped: tuple[str, Subject] | None = None
    for name, subject in steps.items():
        shown = subject.shown
        bounds = None if shown is None else shown.bounds(bound)
        reason = "" if subject.is_untested else "; ".join(subject.faults)
        if shown is None and not (reason or subject.is_probe or subject.is_untested):
            reason = "per-example answers are missing"
        status: reports.StepStatus = "inconclusive"
        if subject.is_probe:
            status = "not smaller"
        elif stopped is not None or subject.is_untested:
            status, stopped = "not tested", stopped or (name, subject)
        elif bounds is not None and exactly(bounds.low) > -margin and adjusted[name] <= ALPHA:
            status = "shown"
        else:
            stopped = name, subject
        rows.append(
            reports.Step(
                name=name,
                step=step_rank(name),
                status=status,
                reason=reason,
                delta=shown.delta if shown else None,
                low=bounds.low if bounds else None,
                p_value=bounds.p_value if bounds else None,
                adjusted_p=adjusted.get(name) if bounds else None,
                examples=None if subject.decided is None else subject.decided.look.examples,
                stopped=None if subject.decided is None else subject.decided.stopped,
            )
        )
    safe = [row for row in rows if row.status == "shown"]
    next_step = None
    if stopped is not None and stopped[1].pooled is not None and not stopped[1].faults:
        needs = grades.needs_of(stopped[1].pooled, margin, bound)
        next_step = reports.NextStep(
            name=stopped[0],
            examples=needs.examples,
            examples_range=needs.range,
            seeds=needs.seeds,
        )
    return reports.Ladder(
        bound=bound,
        margin=margin,
        steps=tuple(rows),
        smallest_safe=safe[-1].name if safe else None,
        sentence=_sentence(safe[-1], bound, margin, seeds) if safe else "no step is shown within the margin",
        next_step=next_step,
    )


def _sentence(smallest: reports.Step, bound: LadderBound, margin: Fraction, seeds: int) -> str:
    assert smallest.low is not None
    is_mean = bound == "mean-over-trainings"
    where = "on average over trainings" if is_mean else "in these runs"
    only = "; one seed gives no evidence about other trainings" if seeds == 1 else ""
    # The simulations are those of docs/decisions/027-sequential-tests.md, with three seeds.
    level = "nominally 95 % confidence, at least 92.5 % in simulations" if is_mean else "95 % confidence"
    return (
        f"rank {smallest.step} is the smallest truncation shown to stay within the margin {where}: accuracy is"
        f" {grades.at_worst(smallest.low)} ({level}, margin {grades.in_points(margin)}){only}"
    )
