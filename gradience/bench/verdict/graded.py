"""Results with the evidence for their verdicts: one seed that was planned alone, and several together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.bench.verdict.answers import answer_counts, noise_of, results_of
from gradience.bench.verdict.conditions import confirm_untouched
from gradience.bench.verdict.evidence import RunFacts, evidence_of
from gradience.bench.verdict.sanity import blind_controls
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate


def graded_seed(bench: Bench) -> Bench:
    """Return the result of a seed with its evidence, where it is all that was planned; else as it is.

    Of several seeds each has its intervals, and they are graded together. A smoke run is no evidence.
    """
    if bench.smoke or len(bench.planned_seeds) > 1:
        return bench
    facts = RunFacts(
        planned=bench.planned_seeds,
        statuses={result.name: result.status for result in bench.variants},
        confirm_untouched=confirm_untouched([bench])[0],
        plan_followed=bench.status != "ERROR",
        records_verified=True,  # they have just been counted
    )
    evidence, ladder = evidence_of([bench], facts)
    variants = [result.model_copy(update={"evidence": evidence[result.name]}) for result in bench.variants]
    return bench.model_copy(update={"variants": tuple(variants), "ladder": ladder})


def graded_together(
    report: BenchAggregate, benches: Sequence[Bench], *, records_verified: bool
) -> BenchAggregate:
    """Return the aggregate of seeds with its evidence.

    records_verified: whether the counts are known to be those of the records.
    """
    met = {condition.name: condition.met for condition in report.conditions}
    facts = RunFacts(
        planned=report.planned_seeds,
        statuses={variant.name: variant.status for variant in report.variants},
        blind=", ".join(variant.name for variant in blind_controls(report.variants)),
        confirm_untouched=met["confirm"],
        plan_followed=met["protocol"],
        records_verified=records_verified,
    )
    evidence, ladder = evidence_of(benches, facts)
    variants = [
        variant.model_copy(
            update={
                "evidence": evidence[variant.name],
                "answers": answer_counts(
                    result.measures for result in results_of(benches, variant.name).values()
                ),
            }
        )
        for variant in report.variants
    ]
    return report.model_copy(
        update={
            "variants": tuple(variants),
            "ladder": ladder,
            "noise": noise_of(benches),
            "probe_answers": answer_counts(bench.probe for bench in benches),
            "records_verified": records_verified,
        }
    )
