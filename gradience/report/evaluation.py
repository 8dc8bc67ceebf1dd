"""Adapters on the same examples as a document: is each as good as the first, does the adapter do anything at all, how
sure is that, and what was evaluated? And the plan of such an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from gradience.report.evaluation_likelihoods import (
    by_token,
    change_cells,
    likelihood_caveats,
    likelihood_legend,
    likelihood_of_base,
    likelihood_table,
    loses_nothing,
)
from gradience.report.evidence import GRADES, probability
from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import (
    MISSING,
    count,
    in_points,
    memory_parts,
    number_range,
    percent,
    plural,
)
from gradience.reports.evaluation import (
    BASE,
    EvaluatedAdapter,
    EvaluationConditions,
    EvaluationForecast,
    EvaluationReport,
    ShownMargin,
)
from gradience.reports.shrink import ShrinkForecast
from gradience.words import points

ASSUMED = 0.05
"""The discordance of the one margin that is named before a run."""
LEGEND: tuple[tuple[str, Inline], ...] = (
    ("Δ", "correct answers beyond the reference's, in points, with Tango's 95 % interval"),
    ("only ref", "only the reference is correct; only it: only this one is"),
    ("KL", "divergence of its outputs from the reference's, in nats per example: 0 is no change"),
    ("flips", "examples whose output changes, whether correct or not"),
)
PER_TOKEN: tuple[str, Inline] = (
    "KL/token",
    "the same per token of the gold responses, as `gradience calibrate` predicts it",
)


def evaluation_text(report: EvaluationReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience evaluate` prints. width: columns of the terminal; None for a file or a pipe."""
    return terminal.render(evaluation_blocks(report), width=width, color=color)


def evaluation_blocks(report: EvaluationReport) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(report)]


def title_blocks(report: EvaluationReport) -> list[Block]:
    """Return base, examples, device, and what a reader must know first."""
    conditions = report.conditions
    rows: list[tuple[str, Inline]] = [
        ("base", (Span(report.base, "name"), Span(f"  {_held(conditions)}", "dim"))),
        ("examples", (f"{count(report.examples)} of ", Span(report.task, "name"), _which(report))),
        ("device", device_of(conditions)),
        *_engine(conditions),
    ]
    blocks: list[Block] = [Heading("Evaluation", level=1), Facts(rows)]
    return [*blocks, Notes([Note("warning", note) for note in report.notes])] if report.notes else blocks


def _engine(conditions: EvaluationConditions) -> list[tuple[str, Inline]]:
    """Which engine gave which number, where it is not one for all."""
    if conditions.engine == "transformers":
        return []
    version = conditions.versions.get(conditions.engine, "")
    free = "" if conditions.batch_invariant is not False else ", not batch-invariant"
    other = conditions.divergence_engine
    by = f"; KL and flips by {other}" if other is not None else ""
    return [("engine", (f"{conditions.engine} {version}{free}".strip(), Span(by, "dim")))]


def device_of(conditions: EvaluationConditions) -> Inline:
    """Return the device, its threads where it is a processor, and the batches."""
    device, threads = conditions.device or "unknown", ""
    if device.startswith("cpu") and conditions.threads is not None:
        threads = f", {plural(conditions.threads, 'thread')}"
    return (device, Span(f"{threads}, {_batches(conditions)}", "dim"))


def _held(conditions: EvaluationConditions) -> str:
    """How the base's weights are held: of a packed one `dtype` is that of the rest."""
    if conditions.quantization is None:
        return conditions.dtype or "precision unknown"
    return f"linear layers in {conditions.quantization}, embeddings, norms and head in {conditions.dtype}"


def _batches(conditions: EvaluationConditions) -> str:
    if conditions.batch_tokens is None:
        return f"batches of {conditions.batch_size}"
    return f"batches of up to {count(conditions.batch_tokens)} tokens ({plural(conditions.batch_size, 'example')})"


def _which(report: EvaluationReport) -> str:
    return {None: " (rows of a file)", "confirm": " (test)"}.get(report.role, f" ({report.role})")


def table_blocks(report: EvaluationReport) -> list[Block]:
    """Return one row for each adapter, and for each candidate what is shown."""
    reference = report.adapters[0]
    if reference.likelihood is not None:
        return [*likelihood_table(report), *_graded(report), *likelihood_legend(report)]
    columns = [
        Column(),
        Column("rank", ">", drop=3),
        Column("saved", ">", drop=4),
        Column("correct", ">"),
        Column("only ref", ">", drop=6),
        Column("only it", ">", drop=6),
        Column("Δ", ">"),
        Column("95 % interval", ">"),
        Column("KL", ">", drop=2),
        *([Column("KL/token", ">", drop=5)] if by_token(report) else []),
        Column("flips", ">", drop=1),
        Column("grade", ">"),
    ]
    others = len(report.adapters) > 1
    heading = (
        Heading(("Is each as good as ", Span(reference.name, "name"), "?"))
        if report.candidates
        else Heading("How many are correct?")
    )
    table = Table(columns, [_cells(row, by_token(report)) for row in report.adapters])
    return [heading, table, *_graded(report), *([Facts(_legend(report))] if others else [])]


def _legend(report: EvaluationReport) -> Sequence[tuple[str, Inline]]:
    """What the columns are; and what the base of a classifier is."""
    base = any(row.role == BASE for row in report.adapters)
    head = base and report.conditions.max_new_tokens is None and (report.adapters[0].other_params or 0) > 0
    name = Span(report.adapters[0].name, "name")
    legend = (*LEGEND, PER_TOKEN) if by_token(report) else LEGEND
    return (*legend, ("base alone", ("the base's features under the head of ", name))) if head else legend


def _cells(row: EvaluatedAdapter, tokens: bool) -> Sequence[Inline]:
    ranks = MISSING if row.smallest_rank is None else number_range([row.smallest_rank, row.largest_rank or 0])
    correct = (
        MISSING
        if row.n is None or row.correct is None
        else f"{count(row.correct)}  {100 * row.correct / row.n:.1f} %"
    )
    label: Inline = "base alone" if row.role == BASE else Span(row.name, "name")
    first = (label, ranks, "" if row.params_saved is None else percent(row.params_saved), correct)
    if row.pairs is None:
        return (*first, *[""] * (6 + tokens), row.grade or "")
    pairs = row.pairs
    return (
        *first,
        count(pairs.n10),
        count(pairs.n01),
        points(pairs.delta),
        f"{points(pairs.low)} … {points(pairs.high)}",
        *change_cells(row.change, tokens),
        row.grade or "",
    )


def _graded(report: EvaluationReport) -> list[Block]:
    return [Notes(notes)] if (notes := grades(report)) else []


def grades(report: EvaluationReport) -> list[Note]:
    """Return the grade of each candidate in a sentence."""
    notes = []
    for row in report.candidates:
        if row.grade is None:
            continue
        mark, _ = GRADES[row.grade]
        details: list[Inline] = []
        if row.adjusted_p is not None:
            details.append(f"{probability(row.adjusted_p)} against a loss of the margin{_adjusted(report)}")
        if row.next_grade is not None:
            details.append(_needs(row))
        notes.append(Note(mark, (Span(row.name, "name"), f": {row.grade}, {row.reason}"), details))
    return notes


def _adjusted(report: EvaluationReport) -> str:
    tested = sum(row.adjusted_p is not None for row in report.candidates)
    return f", adjusted for {tested} candidates (Holm)" if tested > 1 else ""


def _needs(row: EvaluatedAdapter) -> str:
    """What a C needs for a B."""
    assert row.next_grade is not None
    if row.next_grade.examples is None:
        return "if its loss is what it seems, no number of examples shows this margin"
    loses = row.pairs.delta < 0 if row.pairs is not None else not loses_nothing(row)
    true = "its loss is what it seems" if loses else "both are equally good"
    return f"a B needs about {count(row.next_grade.examples)} examples, for a chance of 80 % if {true}"


def base_blocks(report: EvaluationReport) -> list[Block]:
    """Return whether the reference does anything, where the base was evaluated."""
    base = next((row for row in report.adapters if row.role == BASE), None)
    if base is not None and base.likelihood is not None:
        return likelihood_of_base(report, base)
    if base is None or base.pairs is None:
        return []
    gain, low, high = -base.pairs.delta, -base.pairs.high, -base.pairs.low
    interval = f"{points(gain)} points over the base alone (95 % interval {points(low)} … {points(high)})"
    if low > 0:
        note = Note("good", f"yes: {interval}")
    elif high < 0:
        note = Note("error", f"it makes the base worse: {interval}")
    else:
        note = Note("unknown", f"its outputs differ, and more correct answers are not shown: {interval}")
    return [Heading(("Does ", Span(report.adapters[0].name, "name"), " do anything?")), Notes([note])]


def answer_blocks(report: EvaluationReport) -> list[Block]:
    """Return what went wrong with answers, where something did."""
    rows = [
        f"{row.name}: " + ", ".join(parts)
        for row in report.adapters
        if (
            parts := [
                f"{count(number)} {what}"
                for number, what in (
                    (row.truncated, "cut because they were too long"),
                    (row.cut_off, "ended at the limit of new tokens"),
                    (row.failed_extractions, "without an answer in the output"),
                )
                if number
            ]
        )
    ]
    return [Heading("Which examples were not answered whole?"), items(rows)] if rows else []


def caveat_blocks(report: EvaluationReport) -> list[Block]:
    """Return what one evaluation never shows."""
    if report.adapters[0].likelihood is not None:
        return likelihood_caveats(report)
    margin = points(report.margin).removeprefix("+")
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether another training run would come out the same: one adapter each gives at most grade B. And the"
            f" margin ({margin} points) counts only if it was chosen before anybody saw these answers."
        ),
    ]


SECTIONS: tuple[Callable[[EvaluationReport], list[Block]], ...] = (
    title_blocks,
    table_blocks,
    base_blocks,
    answer_blocks,
    caveat_blocks,
)


# ---------------------------------------------------------------- before it


def evaluation_forecast_text(
    forecast: EvaluationForecast, *, width: int | None = None, color: bool = False
) -> str:
    """Return what `gradience evaluate --dry-run` prints."""
    return terminal.render(evaluation_forecast_blocks(forecast), width=width, color=color)


def evaluation_forecast_blocks(forecast: EvaluationForecast) -> Document:
    """Return the plan, what the examples can show, and what the estimates rest on."""
    rows: list[tuple[str, Inline]] = [
        ("base", Span(forecast.base, "name")),
        ("task", Span(forecast.task, "name")),
        ("reference", Span(forecast.adapters[0], "name")),
        *(("candidate", Span(name, "name")) for name in forecast.adapters[1:]),
        *([("also", "the base alone")] if forecast.with_base else []),
        ("examples", count(forecast.examples)),
    ]
    rows += memory_facts(forecast)
    blocks: list[Block] = [Heading("Dry run: no model was loaded", level=1), Facts(rows)]
    if forecast.notes:
        blocks.append(Notes([Note("warning", note) for note in forecast.notes]))
    if len(forecast.adapters) > 1 and forecast.margins:
        blocks += margin_blocks(forecast.margin, forecast.margins)
    return [*blocks, Heading("Assumptions"), items(forecast.assumptions)] if forecast.assumptions else blocks


def memory_facts(forecast: EvaluationForecast | ShrinkForecast) -> list[tuple[str, Inline]]:
    """Return the memory that an evaluation takes, and its parts."""
    if forecast.weights_bytes is None or forecast.batch_bytes is None:
        return []
    parts = {
        "base": forecast.weights_bytes,
        "adapters": forecast.adapter_bytes,
        "one batch": forecast.batch_bytes,
        "Python and libraries": forecast.process_bytes or 0,
    }
    return [("memory", memory_parts(parts))]


def margin_blocks(margin: Fraction, margins: Sequence[ShownMargin]) -> list[Block]:
    """Return the smallest margin that the examples show, for several discordances."""
    asked = in_points(float(margin))
    columns = [
        Column("exactly one is correct on", ">"),
        Column("smallest margin, points", ">"),
        Column(f"{asked} points?"),
    ]
    rows = [
        (
            percent(each.discordance),
            in_points(each.margin),
            "yes" if each.margin <= float(margin) else "no",
        )
        for each in margins
    ]
    legend = (
        "With a chance of 80 %, if both are equally good. A truncation that keeps most of the energy often differs on 1"
        " to 5 % of the examples, a retrained adapter on 10 to 20 %."
    )
    return [Heading("What can these examples show?"), Table(columns, rows), Paragraph(legend)]


def showable(examples: int, margins: Sequence[ShownMargin]) -> str:
    """Return, for one line before a run, the margin that its examples can show."""
    assumed = next(each for each in margins if each.discordance == ASSUMED)
    return (
        f"{plural(examples, 'example')} can show a margin of {in_points(assumed.margin)} points where exactly one is"
        f" correct on {percent(ASSUMED)} of them (--dry-run says more)"
    )
