"""Plots of candidates compared with a reference adapter: differences with intervals, accuracy by size, and the frontier
of strengths and ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradience.reports import evaluation
from gradience.reports.base.blocks import Tone
from gradience.reports.base.graded import GRADE_TONES
from gradience.reports.base.numbers import signed
from gradience.reports.bench import STEP_TONES, Bench, BenchAggregate, VariantResult, saving, step_outcome
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.plots.plot import Axis, ForestRow, Intervals, Lines, Plot, Points, Reference
from gradience.reports.shrink import ShrinkReport
from gradience.words import counted, points

Comparing = evaluation.EvaluationReport | ShrinkReport | Bench | BenchAggregate
STATUSES: dict[str, Tone] = {"PASS": "good", "FAIL": "bad"}
WORDS: dict[Tone, str] = {"good": "shown", "warn": "inconclusive", "bad": "worse", "dim": "not graded"}
BY_POLICY: dict[Tone, str] = WORDS | {"good": "passes", "bad": "fails"}
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
    def candidates(self) -> Sequence[ForestRow]:
        """Return the rows that are compared with the margin, or all if there are none."""
        return [row for row in self.rows if row.tone != "dim"] or self.rows

    def figure(self, value: float) -> str:
        """Return a formatted Δ; points have two decimals, as in tables."""
        return points(value / 100) if self.unit == "points" else signed(value)


def compared(report: Comparing) -> Compared:
    """Return the rows of any report that compares adapters; accuracies are in points."""
    match report:
        case evaluation.EvaluationReport():
            return _evaluated(report.adapters, float(report.margin), report.base_words)
        case ShrinkReport():
            results = [candidate.result for candidate in report.candidates if candidate.result is not None]
            return _evaluated(results, float(report.plan.margin))
        case Bench() | BenchAggregate():
            return _variants(report)


def _evaluated(
    adapters: Sequence[evaluation.EvaluatedAdapter], margin: float, base: str = evaluation.BASE_MODEL
) -> Compared:
    rows: list[ForestRow] = []
    bounded = any(adapter.bounds for adapter in adapters)
    likelihoods = any(adapter.likelihood for adapter in adapters)
    scale = -1 if likelihoods else 100  # of the gain and its bounds; an interval is that of ΔNLL
    for adapter in adapters:
        if adapter.role == evaluation.REFERENCE or adapter.gain is None:
            continue
        low, high = [abs(scale) * end for end in adapter.interval or ()] or (None, None)
        if adapter.bounds is not None:
            low, high = sorted((scale * adapter.bounds.low, scale * adapter.bounds.high))
        name = base if adapter.role == evaluation.BASE else adapter.name
        aside = " (95 % interval)" if bounded and adapter.bounds is None else ""
        tone = GRADE_TONES[adapter.grade]
        rows.append(ForestRow(name, scale * adapter.gain, low, high, tone, adapter.params_saved, aside))
    if likelihoods:
        return Compared(rows, margin, ONE_SIDED if bounded else STUDENT, "ΔNLL", "nats per token")
    return Compared(rows, -100 * margin, ONE_SIDED if bounded else TANGO)


def _variants(report: Bench | BenchAggregate) -> Compared:
    """Return one-sided 95 % bounds of the mean over trainings if there are enough seeds, otherwise of these runs; if
    nothing is graded, as in one seed of several, the interval of its pairs."""
    smoke = isinstance(report, Bench) and report.smoke  # shows nothing
    known = [row.pooled for row in report.variants if row.pooled is not None]
    several = any(pooled.over_trainings is not None for pooled in known)
    steps = {step.name: step for step in report.ladder.steps} if report.ladder else {}
    rows: list[ForestRow] = []
    for variant in report.variants:
        pooled = variant.pooled
        pairs = variant.pairs if isinstance(variant, VariantResult) and not known else None
        shown = pairs if pooled is None else pooled.over_trainings or pooled.these_runs
        paired = pooled or pairs
        if paired is None or shown is None:
            continue
        tone = GRADE_TONES[variant.grade]
        if report.ladder and variant.name in steps:
            tone = STEP_TONES.get(step_outcome(steps[variant.name], variant, report.ladder), "dim")
        elif variant.grade is None and not variant.is_control:
            tone = "warn" if smoke else STATUSES.get(variant.status, "warn")
        aside = " (these runs)" if several and pooled and pooled.over_trainings is None else ""
        ends = 100 * shown.low, 100 * shown.high
        rows.append(ForestRow(variant.name, 100 * paired.delta, *ends, tone, saving(variant), aside))
    margin = -100 * float(report.policy.tolerance)
    if not known:
        return Compared(rows, margin, TANGO, words=WORDS if smoke else BY_POLICY)
    return Compared(rows, margin, f"{ONE_SIDED}, {'mean over trainings' if several else 'these runs'}")


# ---------------------------------------------------------------- their plots


def forest_plot(report: Comparing) -> Plot | None:
    """Return Δ of each adapter with its interval, with lines at 0 and at the margin.

    Controls and base models that would compress the scale are named instead of drawn.
    """
    outcome = compared(report)
    candidates = outcome.candidates
    if all(row.low is None for row in outcome.rows):
        return None
    left, right = _room([0.0, outcome.margin, *(end for row in candidates for end in row.drawn)], FAR)
    near = [row for row in outcome.rows if row in candidates or left <= row.value <= right]
    far = ", ".join(f"{row.name} ({outcome.figure(row.value)})" for row in outcome.rows if row not in near)
    far = f"Off scale: {far}." if far else ""
    sentences = [f"Margin: {outcome.figure(outcome.margin)} {outcome.unit}."]
    for tone, words in outcome.words.items():
        names = ", ".join(row.name for row in candidates if row.tone == tone)
        sentences += [f"{words.capitalize()}: {names}."] if names else []
    low, high = _room([0.0, outcome.margin, *(end for row in near for end in row.drawn)], 0.08)
    return Plot(
        "forest",
        f"{outcome.measure}, with {outcome.interval}",
        Axis(outcome.measure, outcome.unit, low=low, high=high),
        Axis("", categories=[f"{row.name}{row.aside}" for row in near]),
        [Intervals(near, outcome.words)],
        " ".join(filter(None, [*sentences, far])),
        [Reference(0.0, "", on="x"), Reference(outcome.margin, "margin", on="x", tone="bad")],
        note=far,
    )


def pareto_plot(report: Comparing) -> Plot | None:
    """Return Δ of each candidate by LoRA parameters kept; None if no size is known."""
    outcome = compared(report)
    chosen = report.smallest if isinstance(report, ShrinkReport) else getattr(report, "best", None)
    # The smallest candidate is labeled first, so its label survives crowding.
    rows = sorted(
        (row for row in outcome.rows if row.saved is not None and row.tone != "dim"),
        key=lambda row: (row.kept, row.name != chosen),
    )
    if not rows:
        return None
    series = [
        Points(
            words,
            [row.kept for row in rows if row.tone == tone],
            [row.value for row in rows if row.tone == tone],
            [row.name for row in rows if row.tone == tone],
            tone,
        )
        for tone, words in outcome.words.items()
        if any(row.tone == tone for row in rows)
    ]
    left, right = _room([row.kept for row in rows], 0.12)
    low, high = _room([0.0, outcome.margin, *(row.value for row in rows)], 0.06)
    by_policy = outcome.words is BY_POLICY
    safe = [row for row in rows if (row.name == chosen if by_policy else row.tone == "good")]
    smallest = (safe or rows)[0]
    verb = "passes" if by_policy else "is shown to stay within the margin"
    which = f"The smallest adapter that {verb}" if safe else f"No adapter {verb}. The smallest"
    return Plot(
        "pareto",
        f"{outcome.measure} by size",
        Axis("LoRA parameters kept", low=max(0.0, left), high=right + LABELS * (right - left), form="share"),
        Axis(outcome.measure, outcome.unit, low=low, high=high),
        series,
        f"{which}, {smallest.name}, keeps {100 * smallest.kept:.1f} % of the LoRA parameters, with"
        f" {outcome.measure} {outcome.figure(smallest.value)} {outcome.unit}.",
        [Reference(0.0, "reference"), Reference(outcome.margin, "margin", tone="bad")],
    )


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """Return the ends of an axis, extended beyond the values by a share of their span."""
    room = share * (max(values) - min(values)) or 0.1 * abs(values[0]) or 0.1
    return min(values) - room, max(values) + room


def frontier_plot(report: evaluation.EvaluationSetsReport) -> Plot | None:
    """Return the task against the first guard: a line for each rank through its adapters, and the base model."""
    task, guard = report.plan.sets[0], next((planned for planned in report.plan.sets if planned.guard), None)
    if guard is None:
        return None
    on_guard, lines = report.rows_on(guard.name), dict[str, tuple[list[float], list[float]]]()
    for name, row in report.rows_on(task.name).items():
        both = on_guard[name], row
        x, y = (each.accuracy if each.likelihood is None else each.likelihood.nll for each in both)
        if x is not None and y is not None:
            label = evaluation.BASE_MODEL if row.role == evaluation.BASE else f"rank {row.largest_rank}"
            xs, ys = lines.setdefault(label, ([], []))
            xs.append(x)
            ys.append(y)
    return Plot(
        "frontier",
        f"{task.name} against {guard.name}",
        _axis(guard),
        _axis(task),
        [Lines(label, xs, ys, marked=True) for label, (xs, ys) in lines.items()],
        f"{task.name} against {guard.name}: {counted(len(report.candidates), 'candidate')}, the adapter and the base.",
    )


def _axis(planned: PlannedSet) -> Axis:
    if planned.compares == "nll":
        return Axis(f"NLL of {planned.name}", "nats per token")
    return Axis(f"accuracy of {planned.name}", form="share")
