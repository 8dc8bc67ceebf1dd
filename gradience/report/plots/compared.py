"""Smaller adapters against their original, whatever compared them: a row for each, with interval, size and counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from gradience.report.plots.plot import Tone
from gradience.reports.base.graded import Bounds, Grade, PairedEvidence
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate, VariantSummary
from gradience.reports.evaluation import BASE, REFERENCE, EvaluatedAdapter, EvaluationReport
from gradience.reports.evidence import EvidenceReport
from gradience.reports.shrink import ShrinkReport

Comparing = EvaluationReport | ShrinkReport | EvidenceReport | Bench | BenchAggregate
TONES: dict[Grade | None, Tone] = {"A": "good", "B": "good", "C": "warn", "D": "bad", "X": "bad", None: "dim"}

ONE_SIDED = "one-sided 95 % bounds"
STATUSES: dict[str, Tone] = {"PASS": "good", "FAIL": "bad"}


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter against the reference, in the unit of its comparison."""

    name: str
    delta: float
    low: float | None
    high: float | None
    tone: Tone
    saved: float | None = None
    """Share of the reference's LoRA parameters."""
    lost: float | None = None
    """Examples that only the reference has correct; over several seeds the mean."""
    gained: float | None = None
    """Examples that only this one has correct; over several seeds the mean."""
    said: str = ""
    inner: tuple[float, float] | None = None
    """A narrower interval: of these runs beside one of a new run, or one-sided bounds beside a two-sided interval."""
    aside: str = ""
    """Said behind the name where its interval is another one than that of the others."""


@dataclass(frozen=True, slots=True)
class Compared:
    """All rows of a report, and what they are measured in."""

    rows: Sequence[Row]
    what: str
    """What Δ is of."""
    unit: str
    interval: str
    """What the interval is."""
    limit: float | None
    """Where the margin lies, on the scale of Δ."""
    better: str
    """`higher`, or `lower` for a loss."""
    inner: str = ""
    """What the narrower intervals are; empty without any."""
    by_inner: bool = False
    """Whether it is the narrower interval that is held against the margin."""
    by_status: bool = False
    """Whether tones say what the policy says, as nothing is graded."""
    chosen: str = ""
    """The row that the report names as the smallest; empty where it names none."""
    counted: str = "examples"
    """What `lost` and `gained` count."""

    @property
    def deciding(self) -> str:
        """What is held against the margin."""
        return self.inner if self.by_inner else self.interval

    def bounds(self, row: Row) -> tuple[float | None, float | None]:
        """Return the ends of a row that are held against the margin."""
        return row.inner if self.by_inner and row.inner is not None else (row.low, row.high)


def compared(report: Comparing) -> Compared:
    """Return the rows of any report that compares adapters; the reference itself has none."""
    match report:
        case EvaluationReport():
            return _evaluated(report.adapters, float(report.margin))
        case ShrinkReport():
            results = [candidate.result for candidate in report.candidates if candidate.result is not None]
            outcome = _evaluated(results, float(report.plan.margin))
            return replace(outcome, chosen=report.smallest or "")
        case EvidenceReport():
            return _logs(report)
        case Bench():
            return _one_seed(report)
        case BenchAggregate():
            return _seeds(report)


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _paired(
    name: str,
    pairs: PairedEvidence,
    tone: Tone,
    saved: float | None,
    said: str = "",
    bounds: Bounds | None = None,
) -> Row:
    return Row(
        name,
        100 * pairs.delta,
        _points(pairs.low),
        _points(pairs.high),
        tone,
        saved,
        pairs.n10,
        pairs.n01,
        said,
        None if bounds is None else (100 * bounds.low, 100 * bounds.high),
    )


def _evaluated(adapters: Iterable[EvaluatedAdapter], margin: float) -> Compared:
    rows: list[Row] = []
    likelihoods = False
    for row in adapters:
        name = "base alone" if row.role == BASE else row.name
        if row.role == REFERENCE:
            continue
        if row.pairs is not None:
            rows.append(_paired(name, row.pairs, TONES[row.grade], row.params_saved, row.reason, row.bounds))
        elif row.likelihood is not None and row.likelihood.delta is not None:
            likelihoods = True
            evidence, tone = row.likelihood, TONES[row.grade]
            rows.append(
                Row(
                    name,
                    row.likelihood.delta,
                    evidence.low,
                    evidence.high,
                    tone,
                    row.params_saved,
                    said=row.reason,
                    inner=None if row.bounds is None else (-row.bounds.high, -row.bounds.low),
                )
            )
    inner, by_inner = (ONE_SIDED, True) if any(row.inner for row in rows) else ("", False)
    if likelihoods:
        interval = "Student's 95 % interval"
        return Compared(rows, "ΔNLL", "nats per token", interval, margin, "lower", inner, by_inner)
    interval = "Tango's 95 % interval"
    return Compared(
        rows, "Δ of correct answers", "points", interval, -100 * margin, "higher", inner, by_inner
    )


def _logs(report: EvidenceReport) -> Compared:
    name, tone = report.b.model or report.b.path, TONES[report.grade]
    better = "lower" if report.lower_is_better else "higher"
    margin = report.margin if report.lower_is_better else -report.margin
    what = f"Δ of {report.metric}"
    if report.table is not None:
        row = _paired(name, report.table, tone, None, report.verdict, report.bounds)
        interval = "Tango's 95 % interval"
        return Compared([row], what, "points", interval, 100 * margin, better, ONE_SIDED, by_inner=True)
    row = Row(
        name,
        report.delta,
        report.low,
        report.high,
        tone,
        None,
        report.n_lost,
        report.n_gained,
        report.verdict,
        (report.bounds.low, report.bounds.high),
    )
    interval = "Student's 95 % interval"
    return Compared([row], what, "", interval, margin, better, ONE_SIDED, by_inner=True)


def _one_seed(report: Bench) -> Compared:
    """Without an interval where the file is of a version that had none; what it says is the policy's status."""
    rows: list[Row] = []
    for row in report.variants:
        said = "; ".join(row.reasons)
        tone = "dim" if row.is_control else STATUSES.get(row.status, "warn")
        if report.smoke and not row.is_control:
            tone = "warn"  # a smoke run shows nothing
        if row.paired is not None:
            rows.append(_paired(row.name, row.paired, tone, row.reduction, said))
        elif row.pairs is not None and row.delta is not None:
            lost, gained = row.pairs.only_probe_correct, row.pairs.only_variant_correct
            rows.append(Row(row.name, 100 * row.delta, None, None, tone, row.reduction, lost, gained, said))
    margin = -100 * float(report.policy.tolerance)
    interval = "Tango's 95 % interval"
    return Compared(
        rows, "Δ of correct answers", "points", interval, margin, "higher", by_status=not report.smoke
    )


def _tone(row: VariantResult | VariantSummary) -> Tone:
    if row.is_control:
        return "dim"
    if row.evidence is not None and row.evidence.grade is not None:
        return TONES[row.evidence.grade]
    return STATUSES.get(row.status, "warn")


def _seeds(report: BenchAggregate) -> Compared:
    """The one-sided 95 % bounds of a new run, where several seeds tell of one; else of these runs."""
    rows: list[Row] = []
    known = [row.evidence.pooled for row in report.variants if row.evidence and row.evidence.pooled]
    new_runs = any(pooled.new_run is not None for pooled in known)
    for row in report.variants:
        if row.evidence is None or row.evidence.pooled is None:
            continue
        pooled = row.evidence.pooled
        these = pooled.these_runs
        bounds = pooled.new_run or these
        counted = [seed for seed in row.seeds if seed.n]
        rows.append(
            Row(
                row.name,
                100 * pooled.delta,
                _points(bounds.low),
                _points(bounds.high),
                _tone(row),
                row.mean_reduction,
                fmean(seed.only_probe_correct or 0 for seed in counted) if counted else None,
                fmean(seed.only_variant_correct or 0 for seed in counted) if counted else None,
                row.evidence.reason,
                (100 * these.low, 100 * these.high) if pooled.new_run else None,
                " (these runs)" if new_runs and pooled.new_run is None else "",
            )
        )
    interval = f"{ONE_SIDED}, {'a new run' if new_runs else 'these runs'}"
    margin = -100 * float(report.policy.tolerance)
    inner = f"{ONE_SIDED}, these runs" if new_runs else ""
    counted_in = "examples, mean over the seeds"
    return Compared(
        rows, "Δ of correct answers", "points", interval, margin, "higher", inner, counted=counted_in
    )
