"""The seeds of one protocol -> `bench_aggregate.json`. Pure.

Only independent runs of one protocol may be counted together: another model, other data, another recipe, a seed
twice, a shortened run, or two runs that began at the same point are refused. A planned seed that is not there is a
failed seed; it is never left out of a denominator.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from gradience.bench.config import UNCOUNTED
from gradience.bench.verdict import evidence, grade
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import given_text, path_text
from gradience.reports import bench as reports
from gradience.reports.base.report import RunInfo, Stopwatch
from gradience.reports.bench_plan import Policy
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.words import noun


def aggregate(
    benches: Sequence[reports.Bench],
    sources: Sequence[str] = (),
    *,
    run: RunInfo | None = None,
    records_verified: bool = False,
    notes: Sequence[str] = (),
) -> reports.BenchAggregate:
    """Return the verdicts over all planned seeds, including missing ones.

    sources: path of each result. records_verified: True if the counts are known to match the records, which
    a grade A requires. notes: further limits of the verdicts.
    Raises InputError if they may not be counted together (`check_together`).
    """
    if not benches:
        raise UsageError(
            "nothing to aggregate", code="bench-not-found", hint="name the output folders of the runs"
        )
    sources = sources or [f"seed {bench.seed}" for bench in benches]
    check_together(benches, sources)
    ordered = sorted(zip(benches, sources, strict=True), key=lambda pair: pair[0].seed)
    runs = {bench.seed: bench for bench, _ in ordered}
    planned = tuple(sorted({seed for b in benches for seed in (*b.planned_seeds, b.seed)}))
    first = ordered[0][0]
    source_of = {bench.seed: source for bench, source in ordered}
    rows = tuple(_seed_row(seed, runs.get(seed), source_of.get(seed)) for seed in planned)
    variants = tuple(_variant(name, runs, planned) for name in _names(benches))
    candidates = [variant for variant in variants if variant.is_candidate]
    unfinished = [
        f"seed {row.seed}: {'; '.join(runs[row.seed].reasons) if row.seed in runs else 'no result'}"
        for row in rows
        if row.status == "ERROR"
    ]
    status: reports.Status = (
        "ERROR" if unfinished else grade.overall(variant.status for variant in candidates)
    )
    reasons = unfinished or _reasons(status, candidates)
    blind = evidence.blind_controls(variants) if status in ("PASS", "FAIL") else []
    if blind:
        status = "INCONCLUSIVE"
        reasons = [
            f"{result.name} must fail but passes on all {result.planned} seeds: {evidence.otherwise(result)}"
            for result in blind
        ]
    ranks = {bench.probe.rank for bench in benches if bench.probe is not None}
    report = reports.BenchAggregate(
        status=status,
        reasons=tuple(reasons),
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
        guards=first.guards,
        variants=variants,
        best=None if blind else _best(candidates),
        notes=(
            *_notes(benches, candidates, evidence.obstacles_of(benches, rows, variants)),
            *evidence.aggregate_notes(rows, variants, first.policy),
            *notes,
        ),
        run=run or Stopwatch("").run_info(),
    )
    return evidence.graded_together(report, benches, records_verified=records_verified)


# ---------------------------------------------------------------- which runs belong together


def check_together(benches: Sequence[reports.Bench], sources: Sequence[str]) -> None:
    """Check that runs may be counted together: independent ones of one protocol, each seed once, and no smoke runs.

    Raises InputError (bench-smoke, bench-repeated, bench-mismatch, bench-not-independent).
    """
    for bench, source in zip(benches, sources, strict=True):
        if bench.smoke:
            raise InputError(
                f"{source}: a smoke run is no evidence",
                code="bench-smoke",
                hint="run the config without --smoke",
            )
    for (a, here), (b, there) in combinations(zip(benches, sources, strict=True), 2):
        if a.seed == b.seed:
            raise InputError(
                f"{there}: seed {b.seed} is in {here} already: one run would be counted twice",
                code="bench-repeated",
                hint="name the folder of each seed only once",
            )
        if difference := _difference(a, b):
            raise InputError(
                f"{there}: not the same protocol as {here}: {difference}",
                code="bench-mismatch",
                hint="aggregate only runs that differ in nothing but their seeds",
            )
        if same := _same_start(a, b):
            raise InputError(
                f"{there}: not independent of {here}: {same} although the seeds differ",
                code="bench-not-independent",
                hint="this is one run under two names: train again with the seed set",
            )


def _difference(a: reports.Bench, b: reports.Bench) -> str:
    """Return the first forbidden difference between two runs, in words; empty if they agree."""
    named = [
        ("model", a.model, b.model),
        ("base weights", a.base_fingerprint, b.base_fingerprint),
        ("task", a.data.task, b.data.task),
        ("data", a.data.splits, b.data.splits),
        ("groups", a.data.groups, b.data.groups),
        ("looks", a.data.looks, b.data.looks),
        ("evaluated role", a.data.eval_role, b.data.eval_role),
        ("policy", a.policy, b.policy),
        ("guards", a.guards, b.guards),
    ]
    for label, left, right in named:
        if left != right:
            short = f"{left} there, {right} here" if isinstance(left, str) else "the contents differ"
            return f"another {label} ({short})"
    if a.protocol_digest != b.protocol_digest:
        for key, left, right in differences(a.config, b.config, ignored=("seeds", *UNCOUNTED)):
            return f"`{key}` is {left} there, {right} here"
        return "another protocol digest"
    return ""


def _same_start(a: reports.Bench, b: reports.Bench) -> str:
    """Return the start that two seeds share, in words; empty if they share none."""
    starts, other_starts = _starts(a), _starts(b)
    for name in starts.keys() & other_starts.keys():
        (adapter, batch), (other_adapter, other_batch) = starts[name], other_starts[name]
        if adapter == other_adapter:
            return f"{name} started from the same initial adapter"
        if batch == other_batch:
            return f"{name} began with the same first batch"
    return ""


def _starts(bench: reports.Bench) -> dict[str, tuple[str, str]]:
    """Name of a trained adapter -> hashes of its initial weights and of its first batch."""
    measured = {result.name: result.measures for result in bench.variants if result.same_as is None}
    trained = {"probe": bench.probe} | measured
    return {
        name: (measures.training.initial_adapter_sha256, measures.training.first_batch_sha256)
        for name, measures in sorted(trained.items())
        if measures is not None and measures.training is not None
    }


# ---------------------------------------------------------------- seeds and variants


def no_longer_passing(
    benches: Sequence[reports.Bench], planned: Sequence[int], policy: Policy
) -> dict[str, str]:
    """Return the variants that cannot pass any more, whatever the seeds that are not in `benches` say, and why."""
    done, lost = {bench.seed: bench for bench in benches}, {}
    for name in _names(benches):
        rows = []
        for seed in planned:
            result = done[seed].variant(name) if seed in done else None
            if result is None or result.status == "ERROR":  # it has decided nothing: the run may be resumed
                rows.append(grade.SeedOutcome(seed, "SKIPPED"))
            else:
                rows.append(_outcome(done[seed], result))
        for why in grade.lost_already(rows, policy):
            lost[name] = why
    return lost


def spread(values: Sequence[Fraction]) -> reports.Spread | None:
    """Return mean, sample standard deviation and range; None for no values."""
    if not values:
        return None
    numbers = [float(value) for value in values]
    return reports.Spread(
        seeds=len(values),
        mean=float(sum(values) / len(values)),
        sd=stdev(numbers) if len(values) > 1 else None,
        low=min(numbers),
        high=max(numbers),
    )


def _seed_row(seed: int, bench: reports.Bench | None, source: str | None) -> reports.SeedRow:
    """The row of a planned seed."""
    if bench is None:
        return reports.SeedRow(seed=seed, source=None, status="ERROR")
    row = reports.SeedRow(seed=seed, source=source, status=bench.status, plan_digest=bench.plan_digest)
    if bench.probe is None:
        return row
    names = ("correct", "n", "score", "lora_params", "other_params")
    measures = {name: getattr(bench.probe, name) for name in names}
    return row.model_copy(update=measures | {"gate_passed": bench.probe.gate.passed})


def _names(benches: Sequence[reports.Bench]) -> list[str]:
    """All names, in the order in which they were planned, controls last."""
    is_control = {result.name: result.is_control for bench in benches for result in bench.variants}
    return sorted(is_control, key=lambda name: is_control[name])


def _variant(name: str, runs: Mapping[int, reports.Bench], planned: Sequence[int]) -> reports.VariantSummary:
    results = {seed: result for seed, bench in runs.items() if (result := bench.variant(name)) is not None}
    policy = next(iter(runs.values())).policy
    any_result = next(iter(results.values()))
    outcomes = [_outcome(runs[seed], result) for seed, result in results.items()]
    verdict = grade.verdict_over_seeds(outcomes, planned, policy)
    compared = [(r.pairs.exact_delta, r) for r in results.values() if r.pairs is not None]
    worst = min(compared, key=lambda pair: pair[0])[1] if compared else None
    reductions = [result.reduction for result in results.values() if result.reduction is not None]
    return reports.VariantSummary(
        name=name,
        arm=any_result.arm,
        description=any_result.description,
        expected=any_result.expected,
        made_by=any_result.made_by,
        status=verdict.status,
        reasons=verdict.reasons,
        passing=grade.passing(outcomes, policy),
        planned=len(planned),
        pass_rate=Fraction(grade.passing(outcomes, policy), len(planned)),
        worst_delta=worst.delta if worst else None,
        worst_delta_exact=worst.delta_exact if worst else None,
        accuracy=spread([Fraction(r.measures.correct, r.measures.n) for _, r in compared if r.measures]),
        mean_reduction=fmean(reductions) if reductions else None,
        guards=_worst_on_guards(results.values()),
        seeds=tuple(_variant_seed(seed, results.get(seed)) for seed in planned),
    )


def _worst_on_guards(results: Iterable[reports.VariantResult]) -> dict[str, EvaluatedAdapter]:
    worst: dict[str, EvaluatedAdapter] = {}
    for guard, row in (pair for result in results for pair in result.guards.items()):
        if row.gain is not None and row.gain < getattr(worst.get(guard), "gain", math.inf):
            worst[guard] = row
    return worst


def _outcome(bench: reports.Bench, result: reports.VariantResult) -> grade.SeedOutcome:
    seed, pairs = bench.seed, result.pairs
    if pairs is None or result.status == "ERROR":
        why = result.reasons[0] if result.reasons else ""
        return grade.SeedOutcome(seed, result.status, why=why, stopped_early=result.stopped_early)
    guard = "; ".join(grade.failed_guards(bench.guards, result.guards))
    return grade.SeedOutcome(seed, n=pairs.n, only_probe=pairs.n10, only_variant=pairs.n01, guard=guard)


def _variant_seed(seed: int, result: reports.VariantResult | None) -> reports.VariantSeed:
    if result is None:
        return reports.VariantSeed(seed=seed, status="ERROR")
    pairs, measures = result.pairs, result.measures
    return reports.VariantSeed(
        seed=seed,
        status=result.status,
        n=pairs.n if pairs else None,
        correct=measures.correct if measures else None,
        only_probe_correct=pairs.n10 if pairs else None,
        only_variant_correct=pairs.n01 if pairs else None,
        delta=result.delta,
        delta_exact=result.delta_exact,
        reduction=result.reduction,
        largest_rank=result.ranks.largest if result.ranks else None,
        same_as=result.same_as,
        stopped_early=result.stopped_early,
    )


def _best(candidates: Sequence[reports.VariantSummary]) -> str | None:
    passing = (row for row in candidates if row.status == "PASS" and row.mean_reduction is not None)
    best = max(passing, key=lambda row: row.mean_reduction or 0.0, default=None)
    return None if best is None else best.name


# ---------------------------------------------------------------- reasons and notes


def _reasons(status: reports.Status, candidates: Sequence[reports.VariantSummary]) -> list[str]:
    if status == "PASS":
        return [f"passes: {', '.join(variant.name for variant in candidates if variant.status == 'PASS')}"]
    alike: dict[str, list[str]] = defaultdict(list)
    for variant in candidates:
        if variant.reasons:
            alike[variant.reasons[0]].append(variant.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in alike.items()]


def _notes(
    benches: Sequence[reports.Bench],
    candidates: Sequence[reports.VariantSummary],
    obstacles: Sequence[str],
) -> tuple[str, ...]:
    notes = [f"grade A is not possible: {'; '.join(obstacles)}"] if obstacles else []
    for variant in candidates:  # trainings that could not have changed a verdict
        stopped = [str(row.seed) for row in variant.seeds if row.stopped_early]
        if stopped:
            notes.append(
                f"{variant.name} was not trained on {noun(len(stopped), 'seed')} {', '.join(stopped)}: it could no"
                " longer pass"
            )
    if len({bench.environment.model_dump_json(exclude={"processes"}) for bench in benches}) > 1:
        notes.append(
            "the seeds ran on different devices or library versions; each variant was compared with the probe of its"
            " own seed"
        )
    return tuple(notes)


# ---------------------------------------------------------------- folders of runs
#
# `python -m gradience.bench.aggregate DIR… --output DIR` is `gradience bench aggregate`.


PLAN, CONFIG = "plan.json", "config.yaml"
BENCH, PAGE = "bench.json", "bench.md"
AGGREGATE, DOCUMENT = "bench_aggregate.json", "bench_aggregate.md"


def folder_of_seed(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Return the folder of a seed in the folder of the run; the same folder if there is one seed."""
    return run if len(seeds) == 1 else run / f"seed_{seed}"


def find_benches(folders: Sequence[Path]) -> list[Path]:
    """Return `DIR/bench.json`, or `DIR/seed_*/bench.json`, of every folder; files are returned unchanged.

    Raises InputError (`bench-not-found`) for a folder without a result, since its seeds would be left out.
    """
    paths: list[Path] = []
    for folder in folders:
        here = folder if folder.is_file() else folder / BENCH
        # `glob` checks that a literal last part exists, so a broken link would count as a seed without a result.
        inside = sorted(path for path in folder.glob("seed_*/*") if path.name == BENCH)
        results = [here] if here.is_file() else inside
        if not results:
            raise InputError(
                f"{folder}: no {BENCH} in it, and none in {folder / 'seed_*'}",
                code="bench-not-found",
                hint="name folders that `gradience bench run` has finished",
            )
        paths += results
    return paths


def benches_of(folder: Path, seeds: Sequence[int]) -> list[reports.Bench]:
    """Return the results of the planned seeds that have one in the run's folder."""
    paths = [folder / f"seed_{seed}" / BENCH for seed in seeds]
    return [reports.Bench.read(path) for path in paths if path.is_file()]


def aggregate_run(
    benches: Sequence[reports.Bench], run: RunInfo, *, records_verified: bool
) -> reports.BenchAggregate:
    """Aggregate the results in the folder of one run; planned seeds that have none are missing."""
    sources = [f"seed_{bench.seed}/{BENCH}" for bench in benches]
    return aggregate(benches, sources, run=run, records_verified=records_verified)


def source_of(path: Path) -> str:
    """Return the name of a result in an aggregate. It includes the folder, since all files have the same name."""
    return f"{path_text(path.parent)}/{path.name}" if path.is_absolute() else given_text(path)


# ---------------------------------------------------------------- differences of two JSON values


NAMES = ("name", "seed", "role")
"""Fields that identify the entries of a list."""
CLOSE = 1e-9
"""Relative and absolute tolerance: sums of the same numbers in different order may differ in their last bits."""


class Difference(NamedTuple):
    """One field in which two values differ."""

    field: str
    a: Any
    b: Any


def differences(a: Any, b: Any, *, ignored: Collection[str] = (), at: str = "") -> Iterator[Difference]:
    """Yield the fields in which two values differ. Floats are compared to 1e-9; null equals a missing key.

    >>> [*differences({"train": {"lr": 1e-4}, "seeds": [1]}, {"train": {"lr": 2e-4}, "seeds": [1]})]
    [Difference(field='train.lr', a=0.0001, b=0.0002)]

    ignored: full names of fields that are not compared, nor their subfields.
    """
    if at in ignored:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in (*b, *(key for key in a if key not in b)):
            yield from differences(
                a.get(key), b.get(key), ignored=ignored, at=f"{at}.{key}" if at else str(key)
            )
    elif isinstance(a, list) and isinstance(b, list) and _is_table(a) and _is_table(b):
        ours, theirs = _by_name(a), _by_name(b)
        if list(ours) != list(theirs):
            yield Difference(at, list(ours), list(theirs))
        for name in ours.keys() & theirs.keys():
            yield from differences(ours[name], theirs[name], ignored=ignored, at=f"{at}.{name}")
    elif not is_equal(a, b):
        yield Difference(at, a, b)


def _is_table(entries: list[Any]) -> bool:
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def _by_name(rows: list[Any]) -> dict[str, Any]:
    """Return a table's rows by identifying field, or else by position."""
    key = next((name for name in NAMES if all(name in row for row in rows)), None)
    return {str(place if key is None else row[key]): row for place, row in enumerate(rows)}


def is_equal(a: Any, b: Any) -> bool:
    """Return True if two values are equal. Floats are compared to 1e-9; null equals a missing key or an empty value."""
    if a is None or b is None:
        return _is_nothing(a) and _is_nothing(b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_equal, a, b))
    if isinstance(a, float) or isinstance(b, float):
        are_numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return are_numbers and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(a == b)


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})
