"""The seeds of one protocol -> `bench_aggregate.json`. Pure.

Only independent runs of one protocol may be counted together: another model, other data, another recipe, a seed
twice, a shortened run, or two runs that began at the same point are refused. A planned seed that is not there is a
failed seed; it is never left out of a denominator.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from statistics import fmean, stdev

from gradience.bench.verdict.conditions import conditions_of
from gradience.bench.verdict.graded import graded_together
from gradience.bench.verdict.policy import (
    SeedOutcome,
    lost_already,
    overall,
    passing,
    policy_notes,
    verdict_over_seeds,
)
from gradience.bench.verdict.sanity import aggregate_notes, cannot_tell
from gradience.bench.verdict.together import check_together
from gradience.errors import UsageError
from gradience.reports.base.run import RunInfo, Stopwatch
from gradience.reports.bench import Bench, Status, VariantResult
from gradience.reports.bench_aggregate import (
    BenchAggregate,
    BestVariant,
    SeedRow,
    Spread,
    VariantSeed,
    VariantSummary,
)
from gradience.reports.bench_plan import Policy
from gradience.words import counted


def aggregate(
    benches: Sequence[Bench],
    sources: Sequence[str] = (),
    *,
    run: RunInfo | None = None,
    stopped: Collection[int] = (),
    records_verified: bool = False,
    notes: Sequence[str] = (),
) -> BenchAggregate:
    """Return the verdicts over all planned seeds: those that the plans name, whether they are there or not.

    sources: where each was read from. stopped: seeds whose run began and left no result. records_verified: whether the
    counts are known to be those of the records, without which nothing is certified. notes: what else limits the
    verdicts.
    Raises InputError where they may not be counted together (`check_together`).
    """
    if not benches:
        raise UsageError("nothing to aggregate", code="bench-not-found", hint="name the folders of the runs")
    sources = sources or [f"seed {bench.seed}" for bench in benches]
    check_together(benches, sources)
    ordered = sorted(zip(benches, sources, strict=True), key=lambda pair: pair[0].seed)
    by_seed = {bench.seed: (bench, source) for bench, source in ordered}
    planned = tuple(
        sorted({*stopped, *(seed for bench in benches for seed in (*bench.planned_seeds, bench.seed))})
    )
    first = ordered[0][0]
    rows = tuple(_seed_row(seed, by_seed.get(seed), stopped=seed in stopped) for seed in planned)
    runs = {seed: bench for seed, (bench, _) in by_seed.items()}
    missing = {row.seed: _why_missing(row) for row in rows if row.seed not in runs}
    variants = tuple(_variant(name, runs, planned, missing) for name in _names(benches))
    candidates = [variant for variant in variants if variant.is_candidate]
    unfinished = [_unfinished(row, runs.get(row.seed)) for row in rows if row.status == "ERROR"]
    status: Status = "ERROR" if unfinished else overall(variant.status for variant in candidates)
    blind = cannot_tell(variants) if status in ("PASS", "FAIL") else ()
    status = "INCONCLUSIVE" if blind else status
    ranks = {bench.probe.rank for bench in benches if bench.probe is not None}
    report = BenchAggregate(
        status=status,
        reasons=blind or _reasons(status, unfinished, candidates),
        model=first.model,
        model_type=first.model_type,
        base_params=first.base_params,
        base_fingerprint=first.base_fingerprint,
        task=first.data.task,
        eval_role=first.data.eval_role,
        splits=first.data.splits,
        protocol_digest=first.protocol_digest,
        policy=first.policy,
        planned_seeds=planned,
        seeds=rows,
        probe_rank=max(ranks, default=None),
        probe=spread([Fraction(row.correct, row.n) for row in rows if row.correct is not None and row.n]),
        variants=variants,
        best=None if blind else _best(candidates),
        conditions=conditions_of(benches, rows, variants),
        notes=(*_notes(benches, planned, candidates), *aggregate_notes(rows, variants, first.policy), *notes),
        run=run or Stopwatch("").run_info(),
    )
    return graded_together(report, benches, records_verified=records_verified)


def no_longer_passing(benches: Sequence[Bench], planned: Sequence[int], policy: Policy) -> dict[str, str]:
    """Return the variants that cannot pass any more, whatever the seeds that are not in `benches` say, and why."""
    done, lost = {bench.seed: bench for bench in benches}, {}
    for name in _names(benches):
        rows = [_so_far(seed, done.get(seed), name) for seed in planned]
        for why in lost_already(rows, policy):
            lost[name] = why
    return lost


def _so_far(seed: int, bench: Bench | None, name: str) -> SeedOutcome:
    """What a seed has decided; an error has decided nothing, since the run may be resumed."""
    result = bench.variant(name) if bench else None
    return _outcome(seed, result) if result and result.status != "ERROR" else SeedOutcome(seed, "SKIPPED")


def spread(values: Sequence[Fraction]) -> Spread | None:
    """Return mean, sample standard deviation and range; None for no values."""
    if not values:
        return None
    numbers = [float(value) for value in values]
    return Spread(
        seeds=len(values),
        mean=float(sum(values) / len(values)),
        sd=stdev(numbers) if len(values) > 1 else None,
        low=min(numbers),
        high=max(numbers),
    )


def _seed_row(seed: int, result: tuple[Bench, str] | None, *, stopped: bool) -> SeedRow:
    """The row of a planned seed. result: with the place that it was read from."""
    if result is None:
        return SeedRow(seed=seed, source=None, status="ERROR", unfinished=stopped)
    bench, source = result
    if bench.probe is None:
        return SeedRow(seed=seed, source=source, status=bench.status, plan_digest=bench.plan_digest)
    probe = bench.probe
    return SeedRow(
        seed=seed,
        source=source,
        status=bench.status,
        plan_digest=bench.plan_digest,
        correct=probe.correct,
        n=probe.n,
        score=probe.score,
        gate_passed=probe.gate.passed,
        lora_params=probe.lora_params,
        other_params=probe.other_params,
    )


def _names(benches: Sequence[Bench]) -> list[str]:
    """All names, in the order in which they were planned, controls last."""
    is_control = {result.name: result.is_control for bench in benches for result in bench.variants}
    return sorted(is_control, key=lambda name: is_control[name])


def _why_missing(row: SeedRow) -> str:
    return "started, and not finished" if row.unfinished else "never run"


def _variant(
    name: str, runs: Mapping[int, Bench], planned: Sequence[int], missing: Mapping[int, str]
) -> VariantSummary:
    results = {seed: result for seed, bench in runs.items() if (result := bench.variant(name)) is not None}
    policy = next(iter(runs.values())).policy
    any_result = next(iter(results.values()))
    outcomes = [_outcome(seed, result) for seed, result in results.items()]
    outcomes += [SeedOutcome(seed, "ERROR", why=why) for seed, why in missing.items()]
    verdict = verdict_over_seeds(outcomes, planned, policy)
    rows = tuple(_variant_seed(seed, results.get(seed)) for seed in planned)
    counted = [result for result in results.values() if result.pairs is not None]
    deltas = [result.pairs.delta for result in counted if result.pairs is not None]
    worst = min(counted, key=lambda result: result.pairs.delta if result.pairs else 0, default=None)
    reductions = [result.reduction for result in results.values() if result.reduction is not None]
    return VariantSummary(
        name=name,
        arm=any_result.arm,
        made_by=any_result.made_by,
        status=verdict.status,
        reasons=verdict.reasons,
        passing=passing(outcomes, policy),
        planned=len(planned),
        pass_rate=Fraction(passing(outcomes, policy), len(planned)),
        worst_delta=worst.delta if worst else None,
        worst_delta_exact=worst.delta_exact if worst else None,
        mean_delta=float(sum(deltas) / len(deltas)) if deltas else None,
        accuracy=spread([Fraction(r.measures.correct, r.measures.n) for r in counted if r.measures]),
        mean_reduction=fmean(reductions) if reductions else None,
        seeds=rows,
    )


def _outcome(seed: int, result: VariantResult) -> SeedOutcome:
    why = result.reasons[0] if result.reasons else ""
    if result.pairs is None or result.status == "ERROR":
        return SeedOutcome(seed, result.status, why=why, stopped_early=result.stopped_early)
    pairs = result.pairs
    return SeedOutcome(
        seed, n=pairs.n, only_probe=pairs.only_probe_correct, only_variant=pairs.only_variant_correct
    )


def _variant_seed(seed: int, result: VariantResult | None) -> VariantSeed:
    if result is None:
        return VariantSeed(seed=seed, status="ERROR")
    pairs, measures = result.pairs, result.measures
    return VariantSeed(
        seed=seed,
        status=result.status,
        n=pairs.n if pairs else None,
        correct=measures.correct if measures else None,
        only_probe_correct=pairs.only_probe_correct if pairs else None,
        only_variant_correct=pairs.only_variant_correct if pairs else None,
        delta=result.delta,
        delta_exact=result.delta_exact,
        reduction=result.reduction,
        largest_rank=result.ranks.largest if result.ranks else None,
        same_as=result.same_as,
        stopped_early=result.stopped_early,
        kl_mean=result.divergence.kl_mean if result.divergence else None,
        predicted_kl_mean=result.predicted.kl_mean if result.predicted else None,
    )


def _best(candidates: Sequence[VariantSummary]) -> BestVariant | None:
    passing = [
        variant for variant in candidates if variant.status == "PASS" and variant.mean_reduction is not None
    ]
    best = max(passing, key=lambda variant: variant.mean_reduction or 0.0, default=None)
    if best is None or best.mean_reduction is None:
        return None
    return BestVariant(name=best.name, mean_reduction=best.mean_reduction)


def _unfinished(row: SeedRow, bench: Bench | None) -> str:
    return f"seed {row.seed}: " + ("; ".join(bench.reasons) if bench else _why_missing(row))


def _reasons(
    status: Status, unfinished: Sequence[str], candidates: Sequence[VariantSummary]
) -> tuple[str, ...]:
    if unfinished:
        return tuple(unfinished)
    if status == "PASS":
        return (f"passes: {', '.join(variant.name for variant in candidates if variant.status == 'PASS')}",)
    alike: dict[str, list[str]] = defaultdict(list)
    for variant in candidates:
        if variant.reasons:
            alike[variant.reasons[0]].append(variant.name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in alike.items())


def _savings(benches: Sequence[Bench], candidates: Sequence[VariantSummary]) -> list[str]:
    """What was not trained, since it could not have changed a verdict."""
    notes = []
    for variant in candidates:
        stopped = [str(row.seed) for row in variant.seeds if row.stopped_early]
        results = [result for bench in benches if (result := bench.variant(variant.name)) is not None]
        took = [result.measures.seconds for result in results if result.measures and not result.same_as]
        if stopped:
            saved = (
                f", about {counted(max(1, round(fmean(took) * len(stopped) / 60)), 'minute')} saved"
                if took
                else ""
            )
            notes.append(
                f"{variant.name} was not trained on seed {', '.join(stopped)}, since it could no longer pass{saved}"
            )
    return notes


def _notes(
    benches: Sequence[Bench], planned: Sequence[int], candidates: Sequence[VariantSummary]
) -> tuple[str, ...]:
    n = next((bench.probe.n for bench in benches if bench.probe is not None), None)
    notes = [*policy_notes(benches[0].policy, len(planned), n)]
    if len(planned) < 3:
        notes.append(
            f"{len(planned)} {'seed says' if len(planned) == 1 else 'seeds say'} little about the next training: "
            "claims need three or more"
        )
    if benches[0].data.eval_role == "dev":
        notes.append("evaluated on dev: a claim needs the confirm split, looked at once")
    notes += _savings(benches, candidates)
    twins: dict[tuple[str, str], list[int]] = defaultdict(list)
    for variant in candidates:
        for row in variant.seeds:
            if row.same_as is not None and row.same_as != "probe":
                twins[variant.name, row.same_as].append(row.seed)
    for (name, other), seeds in twins.items():
        where = "every seed" if len(seeds) == len(planned) else f"seed {', '.join(map(str, seeds))}"
        notes.append(f"{name} and {other} are the same adapter on {where}: one result, not two")
    if len({bench.planned_seeds for bench in benches}) > 1:
        notes.append("the seeds were planned one by one, so it cannot be checked whether another was run and left "
                     "out: a claim needs one plan that names them all")  # fmt: skip
    engines = {bench.environment.model_dump_json(exclude={"processes"}) for bench in benches}
    if len(engines) > 1:
        notes.append("the seeds ran on different devices or library versions: each variant was still compared "
                     "with the probe of its own seed")  # fmt: skip
    return tuple(notes)
