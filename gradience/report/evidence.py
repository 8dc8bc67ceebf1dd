"""Two logs as a document: is B as good as A, how sure is that, where do they differ, what would more examples show?
A section is one function and one line in SECTIONS."""

from __future__ import annotations

from collections.abc import Callable

from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    figures,
)
from gradience.reports.base.graded import Grade
from gradience.reports.base.numbers import count, percent, plain, plural, sig
from gradience.reports.base.view import DOCUMENT, View, more
from gradience.reports.evidence import EvidenceReport, Flip, LogFacts
from gradience.words import points

GRADES: dict[Grade, tuple[Mark, str]] = {
    "A": ("good", "certified"),
    "B": ("good", "supported for these runs"),
    "C": ("unknown", "neither shown"),
    "D": ("error", "inferior"),
    "X": ("error", "invalid"),
}
WIDTH = 43
"""Columns of the drawn interval."""
TINY = 1e-4
"""Smaller p-values are said to be below it."""


def evidence_text(report: EvidenceReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience evidence` prints. width: columns of the terminal; None for a file or a pipe."""
    return terminal.render(evidence_blocks(report), width=width, color=color)


def evidence_blocks(report: EvidenceReport, view: View = DOCUMENT) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(report, view)]


def title_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return both logs, what was scored, and what a reader must know first."""
    task: list[str | Span] = [Span(report.task, "name"), " · "] if report.task is not None else []
    scored = [*task, Span(report.metric, "name")]
    if report.filter is not None:
        scored += [" · ", Span(report.filter, "name")]
    if report.lower_is_better:
        scored.append(", lower is better")
    blocks: list[Block] = [
        Heading("Evidence", level=1),
        Facts(
            [("A", _log(report.a)), ("B", _log(report.b)), ("score", (*scored, f" · {_examples(report)}"))]
        ),
    ]
    return [*blocks, Notes([Note("warning", note) for note in report.notes])] if report.notes else blocks


def answer_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return the verdict and the grade."""
    mark, words = GRADES[report.grade]
    return [
        Heading("Is B as good as A?"),
        Notes([Note(mark, report.verdict, [f"grade {report.grade}: {words}"])]),
    ]


def difference_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return the two means, the difference with its interval, drawn, and the test at the margin."""
    worst = report.bounds.high if report.lower_is_better else report.bounds.low
    method = "Tango's score interval" if report.table else "Student's interval of paired differences"
    low, high = signed(report, report.low), signed(report, report.high)
    rows = [
        ("A", mean(report, report.a.mean), "the reference"),
        ("B", mean(report, report.b.mean), "the candidate"),
        ("B − A", f"{signed(report, report.delta)}{unit(report)}", f"95 % interval {low} … {high}; {method}"),
        (
            "at worst",
            f"{signed(report, worst)}{unit(report)}",
            f"one-sided 95 % bound; {probability(report.bounds.p_value)} against a loss of "
            f"{sig(scaled(report, report.margin))}{unit(report)} or more",
        ),
    ]
    return [
        Heading("How large is the difference?"),
        figures(rows),
        Code(interval_lines(report), drawing=True),
    ]


def interval_lines(report: EvidenceReport) -> list[str]:
    """Return the 95 % interval as a line, with zero and the margin below it."""
    allowed = report.margin if report.lower_is_better else -report.margin
    reach = 1.1 * max(abs(report.low), abs(report.high), abs(report.delta), report.margin)

    def column(value: float) -> int:
        return round((value / reach + 1) / 2 * (WIDTH - 1))

    inside = range(column(report.low), column(report.high) + 1)
    signs = ["–" if place in inside else "·" for place in range(WIDTH)]
    signs[column(report.delta)] = "○"
    left, right = ("better", "worse ") if report.lower_is_better else ("worse ", "better")
    label = f"{signed(report, allowed)}{unit(report)}: the margin"
    before = "" if allowed < 0 else f"{label} "  # on the side where there is room
    mark = f"{before.rjust(7 + column(allowed))}▏{'' if before else label}"
    return [f"{left} {''.join(signs)} {right}", f"{' ' * (7 + column(0))}▏0", mark]


def table_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return how often both, one or none is correct."""
    if report.table is None:
        return []
    table = report.table
    rows = (
        ("A correct", count(table.n11), count(table.n10)),
        ("A wrong", count(table.n01), count(table.n00)),
    )
    apart = (
        f"exactly one is correct on {plural(table.n10 + table.n01, 'example')} ({percent(table.discordance)})"
    )
    return [
        Heading("On which examples do they differ?"),
        Table([Column(), Column("B correct", ">"), Column("B wrong", ">")], rows),
        Paragraph(f"{apart}; McNemar's exact {probability(table.mcnemar_p)}: a large one shows no equality"),
    ]


def flip_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return examples that B lost and gained."""
    blocks: list[Block] = [] if report.table else [Heading("On which examples do they differ?")]
    for change, number, words in (
        ("lost", report.n_lost, "A is better"),
        ("gained", report.n_gained, "B is better"),
    ):
        rows = [flip for flip in report.flips if flip.change == change]
        blocks.append(Paragraph(f"{words} on {plural(number, 'example')}" + (":" if rows else "")))
        if rows:
            blocks.append(_flip_table(report, rows))
            blocks += more(number - len(rows), "more example", ": --flips N")
    return blocks


def planning_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return how many examples the margin needs, and which margin these can show."""
    planning = report.planning
    if planning.variance is None:
        return []
    margin = f"{sig(scaled(report, report.margin))}{unit(report)}"
    columns = [Column(), Column("chance 80 %", ">"), Column("chance 90 %", ">")]
    rows = (
        (f"examples to show {margin}", _needed(planning.examples_80), _needed(planning.examples_90)),
        (
            f"smallest margin with {count(report.n)}",
            *(
                f"{sig(scaled(report, value))}{unit(report)}"
                for value in (planning.margin_80, planning.margin_90)
            ),
        ),
    )
    return [Heading("What would more examples show?", aside="if both are equally good"), Table(columns, rows)]


def caveat_blocks(report: EvidenceReport, view: View) -> list[Block]:
    """Return what two logs never show."""
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether another training run would come out the same: one run on each side gives at most grade B. And the "
            "margin counts only if it was chosen before anybody saw these scores."
        ),
    ]


# ---------------------------------------------------------------- words and numbers


def scaled(report: EvidenceReport, value: float | None) -> float | None:
    """A difference as it is shown: in points where scores are 0 or 1."""
    return None if value is None else 100 * value if report.table else value


def unit(report: EvidenceReport) -> str:
    """What stands behind a difference."""
    return " points" if report.table else ""


def signed(report: EvidenceReport, value: float) -> str:
    """A difference with its sign, without its unit."""
    if report.table:
        return points(value)
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{sig(abs(value))}"


def mean(report: EvidenceReport, value: float) -> str:
    """`82.9 %, 1,813 / 2,186` of 0/1 scores, else the mean."""
    if report.table is None:
        return sig(value, 4)
    return f"{100 * value:.1f} %, {round(value * report.n):,} / {report.n:,}"


def probability(value: float) -> str:
    """`p = 0.41`, two digits, or `p below 0.0001`."""
    return "p below 0.0001" if value < TINY else f"p = {sig(value, 2)}"


def _examples(report: EvidenceReport) -> str:
    return plural(report.n, "example")


def _needed(examples: int | None) -> str:
    return "–" if examples is None else count(examples)


def _log(log: LogFacts) -> Inline:
    model: tuple[Span, ...] = (Span("  "), Span(log.model, "name")) if log.model is not None else ()
    return (Span(log.path, "name"), *model, Span(f"  {log.format} · sha256 {log.sha256[:12]}", "dim"))


def _flip_table(report: EvidenceReport, flips: list[Flip]) -> Table:
    """The id; the scores where they are no 0/1; example and answers where the logs hold them."""
    columns = [Column("id")]
    rows: list[list[Inline]] = [[Span(flip.id, "name")] for flip in flips]
    if report.table is None:
        columns += [Column("A", ">"), Column("B", ">")]
        rows = [
            [*row, plain(flip.score_a), plain(flip.score_b)] for row, flip in zip(rows, flips, strict=True)
        ]
    for title, texts in (
        ("example", [flip.excerpt for flip in flips]),
        ("A answered", [flip.answer_a for flip in flips]),
        ("B answered", [flip.answer_b for flip in flips]),
    ):
        if any(texts):
            columns.append(Column(title))
            rows = [[*row, Span(text, "name")] for row, text in zip(rows, texts, strict=True)]
    return Table(columns, rows)


SECTIONS: tuple[Callable[[EvidenceReport, View], list[Block]], ...] = (
    title_blocks,
    answer_blocks,
    difference_blocks,
    table_blocks,
    flip_blocks,
    planning_blocks,
    caveat_blocks,
)
