"""Evidence of a variant on the guards: which guards it holds on, and whether that is shown. Pure.

A variant holds on a guard if its drop there is at most the margin, on each planned seed. A claim about all guards needs
every guard's test, so the joint p-value is the largest one (docs/decisions/032-data-sets.md).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_plan import margin_text
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport
from gradience.statistics.paired import FEWEST_GROUPS, exactly


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """Evidence of one variant over all guards and seeds."""

    p_value: float = 0.0
    """Largest p-value of the guards' non-inferiority tests; 0 without guards, 1 if a guard cannot be tested."""
    worse: str = ""
    """Guard on which the variant is shown to be worse, and the reason; empty if there is none."""
    unshown: str = ""
    """Guard with the largest p-value, and the reason why it is inconclusive; empty if its drop is shown to be
    acceptable."""


NO_GUARDS = GuardEvidence()


def failed_guards(guards: Mapping[str, EvaluationReport], name: str) -> Iterator[str]:
    """Yield a sentence for each guard on which the drop of the variant `name` exceeds the margin."""
    for guard, report in guards.items():
        row = report.row(name)
        if row is not None and row.gain is not None and (drop := -exactly(row.gain)) > report.margin:
            dropped, allowed = (margin_text(value, report.compares) for value in (drop, report.margin))
            yield f"{guard}: {dropped} {'lower' if row.pairs else 'higher'} than the probe; allowed: {allowed}"


def guard_evidence(benches: Iterable[Bench], results: Mapping[int, VariantResult]) -> GuardEvidence:
    """Return a candidate's evidence on the guards. results: seed -> the candidate's result."""
    tested: list[tuple[float, str, EvaluatedAdapter]] = []
    for guard, seed, report, row in _rows(benches, results):
        groups = len(set(report.groups)) if report.groups is not None else row.n or 0
        too_few = row.likelihood is not None and groups < FEWEST_GROUPS
        p_value = 1.0 if row.bounds is None or too_few else row.bounds.p_value
        tested.append((p_value, f"{guard}, seed {seed}", row))
    if not tested:
        return NO_GUARDS
    p_value, where, row = max(tested, key=lambda each: each[0])
    worse = next((f"{place}: {row.reason}" for _, place, row in tested if row.grade == "D"), "")
    return GuardEvidence(p_value, worse, "" if row.grade == "B" else f"{where}: {row.reason}")


def worst_on_guards(
    benches: Iterable[Bench], results: Mapping[int, VariantResult]
) -> dict[str, EvaluatedAdapter]:
    """Return, for each guard, the candidate's row on the seed with the largest drop."""
    worst: dict[str, EvaluatedAdapter] = {}
    for guard, _, _, row in _rows(benches, results):
        if row.gain is not None and (guard not in worst or row.gain < (worst[guard].gain or 0.0)):
            worst[guard] = row
    return worst


def _rows(
    benches: Iterable[Bench], results: Mapping[int, VariantResult]
) -> Iterator[tuple[str, int, EvaluationReport, EvaluatedAdapter]]:
    """Yield a candidate's rows: (guard, seed, evaluation, row)."""
    for bench in benches:
        result = results.get(bench.seed)
        if result is None:
            continue
        for guard, report in bench.guards.items():
            row = report.row(result.same_as or result.name)
            if row is not None:
                yield guard, bench.seed, report, row
