"""Plots of candidates compared with a reference adapter: differences with intervals, accuracy by size, and the frontier
of strengths and ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from gradience.reports.base.graded import Bounds, Grade
from gradience.reports.base.numbers import plural, signed
from gradience.reports.bench import Bench, BenchAggregate, Outcome, saving, step_outcome
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import BASE, BASE_MODEL, REFERENCE, EvaluatedAdapter, EvaluationReport
from gradience.reports.evidence import EvidenceReport
from gradience.reports.plots.plot import Axis, ForestRow, Intervals, Lines, Plot, Points, Reference, Tone
from gradience.reports.shrink import ShrinkReport
from gradience.reports.strength import StrengthReport, value_of
from gradience.statistics.table import PairedTable
from gradience.words import points

Comparing = EvaluationReport | ShrinkReport | EvidenceReport | Bench | BenchAggregate
GRADES: dict[Grade | None, Tone] = {
    "A": "good",
    "B": "good",
    "C": "warn",
    "D": "bad",
    "X": "dim",
    None: "dim",
}
STATUSES: dict[str, Tone] = {"PASS": "good", "FAIL": "bad"}
STEPS: dict[Outcome, Tone] = {"shown": "good", "inconclusive": "warn", "worse": "bad"}
WORDS: dict[Tone, str] = {"good": "shown", "warn": "inconclusive", "bad": "worse", "dim": "not graded"}
BY_STATUS: dict[Tone, str] = WORDS | {"good": "passes", "bad": "fails"}
"""Legend if nothing is graded: the policy's result for one seed."""
ONE_SIDED = "one-sided 95 % bounds"
TANGO, STUDENT = "Tango's 95 % interval", "Student's 95 % interval"
LABELS = 0.16
"""Share of the axis reserved for line labels at its end."""
FAR = 0.5
"""Rows further away than this share of the candidates' span are named instead of drawn."""


@dataclass(frozen=True, slots=True)
class Compared:
    """All rows of a report with their unit, the reference excluded."""

    rows: Sequence[ForestRow]
    margin: float
    """Margin on the scale of Δ."""
    interval: str
    """Name of the interval."""
    measure: str = "Δ accuracy"
    """Quantity on the axis of Δ."""
    unit: str = "points"
    words: dict[Tone, str] = field(default_factory=lambda: WORDS)

    @property
    def judged(self) -> Sequence[ForestRow]:
        """Return the candidates, or all rows if there are none."""
        return [row for row in self.rows if row.tone != "dim"] or self.rows

    def figure(self, value: float) -> str:
        """Return a formatted Δ; points have two decimals, as in tables."""
        return points(value / 100) if self.unit == "points" else signed(value)


def compared(report: Comparing) -> Compared:
    """Return the rows of any report that compares adapters; accuracies are in points."""
    match report:
        case EvaluationReport():
            return _evaluated(report.adapters, float(report.margin), report.base_words)
        case ShrinkReport():
            results = [candidate.result for candidate in report.candidates if candidate.result is not None]
            return _evaluated(results, float(report.plan.margin))
        case EvidenceReport():
            return _logs(report)
        case Bench():
            graded = any(variant.evidence for variant in report.variants)
            return _seeds(report) if graded else _one_seed(report)
        case BenchAggregate():
            return _seeds(report)


def _points(interval: Bounds | PairedTable) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high


def _evaluated(adapters: Iterable[EvaluatedAdapter], margin: float, base: str = BASE_MODEL) -> Compared:
    rows: list[ForestRow] = []
    likelihoods = False
    ends: tuple[float | None, float | None]
    for adapter in adapters:
        pairs, scored, bounds = adapter.pairs, adapter.likelihood, adapter.bounds
        if adapter.role == REFERENCE:
            continue
        if pairs is not None:
            delta, ends = 100 * pairs.delta, _points(bounds or pairs)
        elif scored is not None and scored.delta is not None:
            likelihoods, delta = True, scored.delta
            ends = (scored.low, scored.high) if bounds is None else (-bounds.high, -bounds.low)
        else:
            continue
        name = base if adapter.role == BASE else adapter.name
        aside = "" if bounds else " (95 % interval)"
        tone = GRADES[adapter.grade]
        rows.append(ForestRow(name, delta, *ends, tone, adapter.params_saved, aside))
    if likelihoods:
        return _named(Compared(rows, margin, STUDENT, "ΔNLL", "nats per token"))
    return _named(Compared(rows, -100 * margin, TANGO))


def _named(outcome: Compared) -> Compared:
    """Return the rows with the name of the bounds, if any row has them; otherwise no row is of a different kind."""
    if any(not row.aside for row in outcome.rows):
        return replace(outcome, interval=ONE_SIDED)
    return replace(outcome, rows=[replace(row, aside="") for row in outcome.rows])


def _logs(report: EvidenceReport) -> Compared:
    scale, unit = (1, "") if report.table is None else (100, "points")
    row = ForestRow(
        report.b.model or report.b.path,
        scale * report.delta,
        scale * report.bounds.low,
        scale * report.bounds.high,
        GRADES[report.grade],
    )
    margin = scale * (report.margin if report.lower_is_better else -report.margin)
    return Compared([row], margin, ONE_SIDED, f"Δ of {report.metric}", unit)


def _one_seed(report: Bench) -> Compared:
    """Return the rows of one seed."""
    rows: list[ForestRow] = []
    for variant in report.variants:
        if variant.pairs is None or variant.delta is None:
            continue
        # a smoke run shows nothing
        tone = "warn" if report.smoke else STATUSES.get(variant.status, "warn")
        tone = "dim" if variant.is_control else tone
        ends = _points(variant.pairs)
        rows.append(ForestRow(variant.name, 100 * variant.delta, *ends, tone, variant.reduction))
    words = WORDS if report.smoke else BY_STATUS
    return Compared(rows, -100 * float(report.policy.tolerance), TANGO, words=words)


def _seeds(report: Bench | BenchAggregate) -> Compared:
    """Return one-sided 95 % bounds of the mean over trainings if there are enough seeds, otherwise of these runs."""
    rows: list[ForestRow] = []
    known = [
        (row, row.evidence, row.evidence.pooled)
        for row in report.variants
        if row.evidence and row.evidence.pooled
    ]
    several = any(pooled.over_trainings is not None for _, _, pooled in known)
    steps = {step.name: step for step in report.ladder.steps} if report.ladder else {}
    for variant, evidence, pooled in known:
        tone = GRADES[evidence.grade] if evidence.grade else STATUSES.get(variant.status, "warn")
        if report.ladder and variant.name in steps:
            tone = STEPS.get(step_outcome(steps[variant.name], variant, report.ladder), "dim")
        rows.append(
            ForestRow(
                variant.name,
                100 * pooled.delta,
                *_points(pooled.over_trainings or pooled.these_runs),
                "dim" if variant.is_control else tone,
                saving(variant),
                " (these runs)" if several and pooled.over_trainings is None else "",
            )
        )
    margin = -100 * float(report.policy.tolerance)
    return Compared(rows, margin, f"{ONE_SIDED}, {'mean over trainings' if several else 'these runs'}")


# ---------------------------------------------------------------- their plots


def forest_plot(report: Comparing) -> Plot | None:
    """Return Δ of each adapter with its interval, with lines at 0 and at the margin.

    Controls and base models that would compress the scale are named instead of drawn.
    """
    outcome = compared(report)
    judged = outcome.judged
    if all(row.low is None for row in outcome.rows):
        return None
    left, right = _room([0.0, outcome.margin, *(end for row in judged for end in row.drawn)], FAR)
    near = [row for row in outcome.rows if row in judged or left <= row.value <= right]
    far = ", ".join(f"{row.name} ({outcome.figure(row.value)})" for row in outcome.rows if row not in near)
    far = f"Off scale: {far}." if far else ""
    of_tone = {tone: [row.name for row in judged if row.tone == tone] for tone in outcome.words}
    several = len(judged) > 1
    shown = (
        f"{'pass' if several else 'passes'} on this seed"
        if outcome.words is BY_STATUS
        else f"{'are' if several else 'is'} shown to stay within the margin ({outcome.interval})"
    )
    result = [f"{len(of_tone['good'])} of {plural(len(judged), 'adapter')} {shown}."]
    for tone in ("warn", "bad"):
        if of_tone[tone]:
            word = outcome.words[tone]
            result.append(f"{word[0].upper()}{word[1:]}: {', '.join(of_tone[tone])}.")
    if all(row.tone == "dim" for row in outcome.rows):
        result = ["Nothing is graded."]
    low, high = _room([0.0, outcome.margin, *(end for row in near for end in row.drawn)], 0.08)
    return Plot(
        "forest",
        f"{outcome.measure}, with {outcome.interval}",
        Axis(outcome.measure, outcome.unit, low=low, high=high),
        Axis("", categories=[f"{row.name}{row.aside}" for row in near]),
        [Intervals(near, outcome.words)],
        " ".join(filter(None, [*result, far])),
        [Reference(0.0, "", on="x"), Reference(outcome.margin, "margin", on="x", tone="bad")],
        note=far,
    )


def pareto_plot(report: Comparing) -> Plot | None:
    """Return Δ of each candidate by LoRA parameters kept; None if no size is known."""
    outcome = compared(report)
    by_status = outcome.words is BY_STATUS  # no grades
    chosen = report.smallest if isinstance(report, ShrinkReport) else getattr(report, "best", None)
    # The smallest candidate is labeled first, so its label survives crowding.
    rows = sorted(
        (row for row in outcome.rows if row.saved is not None and row.tone != "dim"),
        key=lambda row: (-(row.saved or 0.0), row.name != chosen),
    )
    if not rows:
        return None
    kept = {row.name: 1 - (row.saved or 0.0) for row in rows}
    series: list[Points] = []
    for tone, words in outcome.words.items():
        of_tone = [row for row in rows if row.tone == tone]
        if of_tone:
            series.append(
                Points(
                    words,
                    [kept[row.name] for row in of_tone],
                    [row.value for row in of_tone],
                    [row.name for row in of_tone],
                    tone,
                )
            )
    left, right = _room(list(kept.values()), 0.12)
    low, high = _room([0.0, outcome.margin, *(row.value for row in rows)], 0.06)
    safe = [row for row in rows if (row.name == chosen if by_status else row.tone == "good")]
    smallest = (safe or rows)[0]
    who, verb = "adapter", "is shown to stay within the margin"
    if by_status:
        who, verb = "variant", "passes"
    which = f"The smallest {who} that {verb}" if safe else f"No {who} {verb}. The smallest adapter"
    return Plot(
        "pareto",
        f"{outcome.measure} by size",
        Axis(
            "LoRA parameters kept",
            low=max(0.0, left),
            high=right + LABELS * (right - left),
            form="share",
        ),
        Axis(outcome.measure, outcome.unit, low=low, high=high),
        series,
        f"{which}, {smallest.name}, keeps {100 * kept[smallest.name]:.1f} % of the LoRA parameters, with"
        f" {outcome.measure} {outcome.figure(smallest.value)} {outcome.unit}.",
        [Reference(0.0, "reference"), Reference(outcome.margin, "margin", tone="bad")],
    )


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return the ends of an axis, extended beyond the values by a share of their span."""
    room = share * (max(values) - min(values)) or 0.1 * abs(values[0]) or 0.1
    return min(values) - room, max(values) + room


def frontier_plot(report: StrengthReport) -> Plot | None:
    """Return the task against the first guard: a line for each rank, a mark for each strength."""
    sets = report.dev.plan.sets
    task, guard = sets[0], next(planned for planned in sets if planned.guard)
    values = {
        planned.name: {name: value_of(row) for name, row in report.dev.rows_on(planned.name).items()}
        for planned in (task, guard)
    }
    reference, base = (
        next((row.name for row in report.dev.adapters if row.role == role), "") for role in (REFERENCE, BASE)
    )
    series: list[Lines | Points] = []
    for rank in sorted({point.rank for point in report.points}, reverse=True):
        names = [(point.name, point.strength) for point in report.points if point.rank == rank]
        if rank == report.rank:
            names.append((reference, 1.0))
        marks = []
        for name, _strength in sorted(names, key=lambda pair: -pair[1]):
            x, y = values[guard.name].get(name), values[task.name].get(name)
            if x is not None and y is not None:
                marks.append((x, y))
        if marks:
            xs, ys = zip(*marks, strict=True)
            series.append(Lines(f"rank {rank}", xs, ys, marked=True))
    for name, label in ((report.chosen or "", "chosen"), (base, BASE_MODEL)):
        x, y = (values[planned.name].get(name) for planned in (guard, task))
        if x is not None and y is not None:
            series.append(Points(label, [x], [y], [label], tone="good" if name == report.chosen else "dim"))
    if not series:
        return None
    result = f"{report.chosen} is chosen" if report.chosen else "no point is chosen"
    return Plot(
        "frontier",
        f"{task.name} against {guard.name}",
        _axis(guard),
        _axis(task),
        series,
        f"{len(report.points)} strengths and ranks on the dev rows; {result}.",
    )


def _axis(planned: PlannedSet) -> Axis:
    if planned.compares == "nll":
        return Axis(f"NLL of {planned.name}", "nats per token")
    return Axis(f"accuracy of {planned.name}", form="share")
