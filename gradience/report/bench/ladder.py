"""The ladder as a section of its own: which steps are shown, and what the next would have needed."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.bench.evidence import amount, p_value
from gradience.report.bench.numbers import points
from gradience.report.bench.sections import status
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Role, Span, Table
from gradience.reports.base.exact import exact_text
from gradience.reports.base.graded import Ladder, Step, StepStatus
from gradience.reports.base.numbers import MISSING, percent
from gradience.reports.bench import VariantResult
from gradience.reports.bench_aggregate import VariantSummary

ROLES: dict[StepStatus, Role] = {
    "shown": "good",
    "inconclusive": "warn",
    "not tested": "dim",
    "not smaller": "dim",
}
Result = VariantResult | VariantSummary


def ladder_section(ladder: Ladder, steps: Sequence[Result]) -> list[Block]:
    """Return the answer, and the steps from the top."""
    where = "a new run" if ladder.bound == "new-run" else "these runs"
    columns = [
        Column(),
        Column("safe"),
        Column("policy", drop=2),
        Column("Δ, points", ">"),
        Column(f"bound, {where}", ">"),
        Column("p", ">", drop=1),
        Column("saved", ">", drop=3),
    ]
    of_name = {result.name: result for result in steps}
    legend = (
        "Truncations of the probe, tested from the top until one is not shown to be safe: its bound must lie above"
        f" −{exact_text(100 * ladder.margin)} points, with 95 % confidence. What stands below is not tested; its"
        " numbers are exploratory. So is a training at the rank found: it was not planned, and nothing here is about"
        " it."
    )
    sentence = f"{ladder.sentence[0].upper()}{ladder.sentence[1:]}."
    return [
        Heading("Ladder: the smallest rank that holds"),
        Paragraph(Span(sentence, "strong")),
        Table(columns, [_row(step, of_name.get(step.name)) for step in ladder.steps]),
        Paragraph(Span(legend, "dim")),
        *_needs(ladder, of_name),
    ]


def _row(step: Step, result: Result | None) -> list[Inline]:
    words = step.status + (f": {step.reason}" if step.reason and step.status == "inconclusive" else "")
    saved = (
        result.reduction if isinstance(result, VariantResult) else result.mean_reduction if result else None
    )
    return [
        Span(step.name, "name"),
        Span(words, ROLES[step.status]),
        status(result.status) if result else MISSING,
        points(step.delta),
        points(step.low),
        p_value(step.p_value),
        percent(saved),
    ]


def _needs(ladder: Ladder, of_name: dict[str, Result]) -> list[Block]:
    """What the first step that is not shown would have needed."""
    needs = ladder.next_step
    result = of_name.get(needs.name) if needs else None
    if needs is None or result is None or result.evidence is None or result.evidence.pooled is None:
        return []
    pooled = result.evidence.pooled
    wanted = amount(needs.examples, needs.seeds, pooled, pooled.runs)
    return [
        Paragraph(
            (
                Span(needs.name, "name"),
                f" would have needed, for an 80 % chance, if the Δ seen is the true one: {wanted}.",
            )
        )
    ]
