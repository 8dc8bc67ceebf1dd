"""Results of a variant on the guards: whether it holds on each, and whether that is shown. Pure.

A variant holds on a guard if it loses at most the margin there, on each planned seed. It is shown on all data sets if
each shows it, so the p-value of all is the largest of theirs (docs/decisions/032-data-sets.md).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_plan import margin_text
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport
from gradience.statistics.paired import FEWEST_GROUPS


@dataclass(frozen=True, slots=True)
class GuardEvidence:
    """The guards of one variant over its seeds."""

    p_value: float = 0.0
    """Largest p-value against a loss of a guard's margin; 0 without guards, 1 if one cannot be tested."""
    worse: str = ""
    """Guard on which the variant is shown to be worse, and why; empty if there is none."""
    unshown: str = ""
    """Guard with the largest p-value, and why it shows nothing; empty if it shows that the variant holds."""


NO_GUARDS = GuardEvidence()


def loss_on(row: EvaluatedAdapter) -> Fraction | None:
    """Return the loss against the probe: a share of the examples, or nats per token; None if it is unknown."""
    if row.likelihood is not None and row.likelihood.delta is not None:
        return Fraction(repr(row.likelihood.delta))
    return None if row.pairs is None else Fraction(row.pairs.n10 - row.pairs.n01, row.pairs.n)


def failed_guards(guards: Mapping[str, EvaluationReport], name: str) -> Iterator[str]:
    """Yield a sentence for each guard on which the variant `name` loses more than the margin."""
    for guard, report in guards.items():
        row = report.row(name)
        loss = None if row is None else loss_on(row)
        if row is not None and loss is not None and loss > report.margin:
            nll = row.pairs is None
            lost, allowed = (margin_text(value, nll=nll) for value in (loss, report.margin))
            yield f"{guard}: {lost} {'higher' if nll else 'lower'} than the probe; allowed: {allowed}"


def guard_evidence(benches: Iterable[Bench], results: Mapping[int, VariantResult]) -> GuardEvidence:
    """Return what the guards show of a candidate. results: its result on each seed."""
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
    """Return for each guard the row of the seed on which a candidate loses most."""
    worst: dict[str, tuple[Fraction, EvaluatedAdapter]] = {}
    for guard, _, _, row in _rows(benches, results):
        loss = loss_on(row)
        if loss is not None and (guard not in worst or loss > worst[guard][0]):
            worst[guard] = loss, row
    return {guard: row for guard, (_, row) in worst.items()}


def _rows(
    benches: Iterable[Bench], results: Mapping[int, VariantResult]
) -> Iterator[tuple[str, int, EvaluationReport, EvaluatedAdapter]]:
    """Yield the rows of a candidate: guard, seed, evaluation and row."""
    for bench in benches:
        result = results.get(bench.seed)
        if result is None:
            continue
        for guard, report in bench.guards.items():
            row = report.row(result.same_as or result.name)
            if row is not None:
                yield guard, bench.seed, report, row
