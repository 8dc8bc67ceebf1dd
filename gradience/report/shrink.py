"""The search for the smallest adapter as a document: which one holds, what changes in its outputs, what neither shows.
And the plan of such a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from gradience.report.evaluation import device_of, margin_blocks, memory_facts
from gradience.report.evaluation_likelihoods import change_cells
from gradience.report.evidence import probability
from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Role,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import MISSING, count, percent, sig
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.reports.shrink import (
    CandidateStatus,
    MeanInterval,
    PlannedCandidate,
    ShrinkCandidate,
    ShrinkForecast,
    ShrinkPlan,
    ShrinkReport,
    candidate_words,
)
from gradience.words import points

MARKS: dict[CandidateStatus, Mark] = {
    "shown": "good",
    "inconclusive": "unknown",
    "worse": "error",
    "not evaluated": "error",
    "skipped": "unknown",
    "not tested": "unknown",
}
ROLES: dict[CandidateStatus, Role] = {
    "shown": "good",
    "inconclusive": "warn",
    "worse": "bad",
    "not evaluated": "bad",
}
COUNTED = (
    Column("correct", ">"),
    Column("only ref", ">", drop=1),
    Column("only it", ">", drop=1),
    Column("Δ", ">"),
)
LIKELY = (Column("NLL per token", ">"), Column("ΔNLL", ">"))
DELTA: tuple[str, Inline] = (
    "Δ",
    "correct answers beyond the reference's, in points, with Tango's 95 % interval",
)
DELTA_NLL: tuple[str, Inline] = (
    "ΔNLL",
    "NLL beyond the reference's, in nats per token, with Student's 95 % interval over examples",
)
PREDICTED: tuple[str, Inline] = ("predicted", "KL per scored token that the calibration predicts, in nats")
LEGEND: tuple[tuple[str, Inline], ...] = (
    ("NLL", "of the gold labels or responses, in nats an example: what it gains; above 0 is worse"),
    ("KL", "divergence of the outputs from the adapter's own, in nats per example: 0 is no change"),
    ("above rewrite", "KL beyond the rewrite control's: the same update in other factors, rounded anew"),
    ("flips", "examples whose output changes, whether correct or not"),
)
PER_TOKEN: tuple[str, Inline] = ("KL/token", "the same per scored token, as a calibration predicts it")


def shrink_text(report: ShrinkReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience shrink` prints. width: columns of the terminal; None for a file or a pipe."""
    return terminal.render(shrink_blocks(report), width=width, color=color)


def shrink_blocks(report: ShrinkReport) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(report)]


def title_blocks(report: ShrinkReport) -> list[Block]:
    """Return adapter, base, rows, plan, and what a reader must know first."""
    conditions, plan = report.conditions, report.plan
    packed = f", {conditions.quantization}" if conditions.quantization else ""
    rows: list[tuple[str, Inline]] = [
        *_plan_facts(plan, f"{conditions.dtype}{packed}"),
        ("device", device_of(conditions)),
    ]
    changed = [Note("warning", f"not fixed before the answers: {change}") for change in plan.changes]
    notes = [Note("warning", note) for note in report.notes]
    blocks: list[Block] = [Heading("Shrink", level=1), Facts(rows)]
    return [*blocks, Notes([*changed, *notes])] if changed or notes else blocks


def _plan_facts(plan: ShrinkPlan, dtype: str = "") -> list[tuple[str, Inline]]:
    which = {None: " (all rows)", "confirm": " (test)"}.get(plan.role, f" ({plan.role})")
    why = "as given" if plan.given else f"halved from {plan.suggested_rank}, the audit's p90 suggestion"
    largest = Span(f"  rank {plan.rank}, {count(plan.lora_params)} LoRA parameters", "dim")
    facts: list[tuple[str, Inline]] = [
        ("adapter", (Span(plan.adapter, "name"), largest)),
        ("base", (Span(plan.base, "name"), Span(f"  {dtype}", "dim"))),
        ("examples", (f"{count(plan.examples)} of ", Span(plan.task, "name"), which)),
        ("candidates", (_candidates(plan), Span(f"  {why}", "dim"))),
        ("margin", plan.drop(plan.margin)),
    ]
    if plan.distillation is not None:
        distill = plan.distillation
        facts.insert(
            4,
            ("distilled", (f"up to {count(distill.steps)} steps on ", Span(distill.prompts, "name"))),
        )
    if plan.calibration_sha256 is not None:
        facts.insert(4, ("calibration", f"sha256 {plan.calibration_sha256[:12]}…"))
    if plan.dev is not None:
        whose = "the task's own" if plan.dev.source == "task" else "set aside"
        text = f"{count(plan.dev.examples)} dev examples ({whose}) choose where the sequence starts"
        facts.insert(3, ("start", text))
    return facts


def _candidates(plan: ShrinkPlan) -> str:
    """In the order of the tests; a kind stands once before its ranks."""
    groups = [
        (kind, [candidate.rank for candidate in candidates])
        for kind, candidates in groupby(plan.candidates, lambda candidate: candidate.kind)
    ]
    return ", ".join(
        f"{candidate_words(kind, ranks[0])}{''.join(f', {rank}' for rank in ranks[1:])}"
        for kind, ranks in groups
    )


def candidate_blocks(report: ShrinkReport) -> list[Block]:
    """Return one row for each candidate, and the answer."""
    counts = report.plan.compares == "correct"
    columns = [
        Column(),
        Column("rank", ">", drop=3),
        Column("saved", ">"),
        *(COUNTED if counts else LIKELY),
        Column("95 % interval", ">", drop=2),
        Column(),
    ]
    reference = report.reference
    name = Span(reference.name, "name")
    first: Sequence[Inline] = (
        name,
        str(report.plan.rank),
        "",
        _correct(reference) if counts else _nll(reference),
    )
    cells = _cells if counts else _likelihood_cells
    return [
        Heading(("Which is the smallest that is as good as ", name, "?")),
        Table(columns, [first, *map(cells, report.candidates)]),
        Notes([answer(report), *_stopped(report)]),
        Facts([DELTA if counts else DELTA_NLL]),
    ]


def _size(candidate: ShrinkCandidate) -> tuple[Inline, ...]:
    return (Span(candidate.name, "name"), str(candidate.rank), percent(candidate.params_saved))


def _predicted(kl: float | None) -> str:
    return MISSING if kl is None else sig(kl, 2)


def _cells(candidate: ShrinkCandidate) -> Sequence[Inline]:
    first = _size(candidate)
    status = Span(candidate.status, ROLES.get(candidate.status, "dim"))
    row = candidate.result
    if row is None or row.pairs is None:
        return (*first, MISSING, "", "", "", "", status)
    pairs = row.pairs
    interval = f"{points(pairs.low)} … {points(pairs.high)}"
    only = (count(pairs.n10), count(pairs.n01))
    return (*first, _correct(row), *only, points(pairs.delta), interval, status)


def _likelihood_cells(candidate: ShrinkCandidate) -> Sequence[Inline]:
    first = _size(candidate)
    status = Span(candidate.status, ROLES.get(candidate.status, "dim"))
    likelihood = None if candidate.result is None else candidate.result.likelihood
    if candidate.result is None or likelihood is None:
        return (*first, MISSING, "", "", status)
    interval = "" if likelihood.low is None else f"{_signed(likelihood.low)} … {_signed(likelihood.high)}"
    return (*first, _nll(candidate.result), _signed(likelihood.delta), interval, status)


def _nll(row: EvaluatedAdapter) -> str:
    return MISSING if row.likelihood is None else sig(row.likelihood.nll)


def _correct(row: EvaluatedAdapter) -> str:
    if row.n is None or row.correct is None:
        return MISSING
    return f"{count(row.correct)}  {100 * row.correct / row.n:.1f} %"


def answer(report: ShrinkReport) -> Note:
    """Return the sentence, with the evidence that decides it."""
    last = next(
        (candidate for candidate in reversed(report.candidates) if candidate.result is not None), None
    )
    assert last is not None
    shown = next((candidate for candidate in report.candidates if candidate.name == report.smallest), None)
    mark = MARKS[last.status] if shown is None else "good"
    details: list[Inline] = []
    if shown is not None and shown.result is not None and shown.result.adjusted_p is not None:
        details.append(
            f"grade B: {probability(shown.result.adjusted_p)} for a loss of the margin (the largest of the candidates"
            " down to it)"
        )
        details.append(f"written to adapter/ (sha256 {(report.smallest_sha256 or '')[:12]}…)")
    return Note(mark, report.sentence, details)


def _stopped(report: ShrinkReport) -> list[Note]:
    """What the candidate below the smallest would have needed."""
    last = next(candidate for candidate in reversed(report.candidates) if candidate.result is not None)
    if report.smallest is None or last.status == "shown" or last.result is None:
        return []
    if last.status == "inconclusive":
        return [Note("unknown", last.needs)]
    return [Note(MARKS[last.status], f"{last.words}: {last.result.reason}")]


def distance_blocks(report: ShrinkReport) -> list[Block]:
    """Return how far the outputs are from the adapter's, against what writing it anew changes."""
    rows = [
        (candidate.name, candidate.distance, candidate.result)
        for candidate in report.candidates
        if candidate.distance is not None
    ]
    control = report.control
    if control.distance is not None:
        rows.append(("rewrite control", control.distance, control.result))
    rows = [row for row in rows if row[1].nll is not None or row[1].kl is not None]
    blocks: list[Block] = [Heading("How much do the outputs change?")]
    if control.reason:
        blocks.append(Notes([Note("warning", f"no rewrite control: {control.reason}")]))
    if not rows:
        return blocks if control.reason else []
    predicted = {
        candidate.name: candidate.predicted_kl
        for candidate in report.candidates
        if candidate.predicted_kl is not None
    }
    changes = {name: None if row is None else row.change for name, _, row in rows}
    tokens = bool(predicted) or any(change is not None and change.has_tokens for change in changes.values())
    columns = [
        Column(),
        Column("NLL", ">"),
        Column("95 % interval", ">", drop=1),
        Column("KL", ">"),
        *([Column("KL/token", ">")] if tokens else []),
        *([Column("predicted", ">")] if predicted else []),
        Column("above rewrite", ">"),
        Column("95 % interval", ">", drop=2),
        Column("flips", ">", drop=3),
    ]
    cells: list[Sequence[Inline]] = []
    for name, distance, _ in rows:
        _, *per_token, flips = change_cells(changes[name], tokens)
        cells.append(
            (
                Span(name, "name"),
                _mean(distance.nll),
                _interval(distance.nll),
                MISSING if distance.kl is None else sig(distance.kl.mean, 2),
                *per_token,
                *([_predicted(predicted.get(name))] if predicted else []),
                _mean(distance.kl_above_floor),
                _interval(distance.kl_above_floor),
                flips,
            )
        )
    legend = [*LEGEND, *([PER_TOKEN] if tokens else []), *([PREDICTED] if predicted else [])]
    return [*blocks, Table(columns, cells), Facts(legend)]


def _mean(mean: MeanInterval | None) -> str:
    return _signed(None if mean is None else mean.mean)


def _signed(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{sig(abs(value), 2)}"


def _interval(mean: MeanInterval | None) -> str:
    return "" if mean is None or mean.low is None else f"{_signed(mean.low)} … {_signed(mean.high)}"


def caveat_blocks(report: ShrinkReport) -> list[Block]:
    """Return what a search never shows."""
    fixed = (
        "Candidates, rows and margin were written to plan.json before anything was evaluated"
        if not report.plan.changes
        else "The plan was changed after answers were there, so the 5 % of a wrong claim do not hold"
    )
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether another training run would come out the same: one adapter gives at most grade B. Nor anything"
            f" about candidates that were not tested, or rows unlike these. {fixed}."
        ),
    ]


SECTIONS: tuple[Callable[[ShrinkReport], list[Block]], ...] = (
    title_blocks,
    candidate_blocks,
    distance_blocks,
    caveat_blocks,
)


# ---------------------------------------------------------------- before it


def shrink_forecast_text(forecast: ShrinkForecast, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience shrink --dry-run` prints."""
    return terminal.render(shrink_forecast_blocks(forecast), width=width, color=color)


def shrink_forecast_blocks(forecast: ShrinkForecast) -> Document:
    """Return the plan, what the rows can show, and what the estimates rest on."""
    facts = [*_plan_facts(forecast.plan), *memory_facts(forecast)]
    blocks: list[Block] = [Heading("Dry run: no model was loaded", level=1), Facts(facts)]
    if forecast.notes:
        blocks.append(Notes([Note("warning", note) for note in forecast.notes]))
    predicts = forecast.plan.calibration_sha256 is not None
    columns = [Column("candidate"), Column("saved", ">"), Column("energy kept", ">")]
    columns += [Column("predicted KL", ">")] if predicts else []
    table = Table(columns, [_planned(candidate, predicts) for candidate in forecast.candidates])
    blocks += [Heading("What is tested, from the largest down?"), table]
    margins = margin_blocks(forecast.plan.margin, forecast.margins) if forecast.margins else []
    blocks += margins
    return [*blocks, Heading("Assumptions"), items(forecast.assumptions)] if forecast.assumptions else blocks


def _planned(candidate: PlannedCandidate, predicts: bool) -> Sequence[Inline]:
    cells = (Span(candidate.name, "name"), percent(candidate.params_saved), percent(candidate.kept_energy))
    return (*cells, *([_predicted(candidate.predicted_kl)] if predicts else []))
