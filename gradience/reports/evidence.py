"""`gradience evidence --json`: two logs of an evaluation, example by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12, Part
from gradience.reports.base.blocks import (
    Block,
    Code,
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
    figures,
)
from gradience.reports.base.graded import GRADES, Bounds, Grade
from gradience.reports.base.numbers import MISSING, count, percent, plain, plural, probability, sig
from gradience.reports.base.report import Plots, Report, compared_plots
from gradience.reports.base.run import RunInfo
from gradience.reports.base.view import more
from gradience.statistics.table import PairedTable
from gradience.words import points


class LogFacts(Part):
    """One of the two logs."""

    path: str
    sha256: str
    format: str
    """What wrote it, such as `lm-eval`; `table` for one of your own."""
    model: str | None
    """As the log names it."""
    mean: Float12
    """Of the score over the examples."""


class Planning(Part):
    """What other numbers of examples can show, if both are equally good."""

    variance: Float12 | None
    """Of the differences of single examples; of 0/1 scores the share of examples on which exactly one is correct. Null
    where no example differs: then nothing can be planned."""
    examples_80: int | None
    """Examples that show the margin with a chance of 80 %."""
    examples_90: int | None
    """With a chance of 90 %."""
    margin_80: Float12 | None
    """The smallest margin that this many examples show with a chance of 80 %."""
    margin_90: Float12 | None
    """With a chance of 90 %."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Flip:
    """One example on which the two differ."""

    id: str
    change: Literal["lost", "gained"]
    """`lost`: A is better."""
    score_a: Float12
    score_b: Float12
    excerpt: str
    """The end of the prompt; empty where the log holds none."""
    answer_a: str
    answer_b: str


class EvidenceReport(Report):
    """Two logs of an evaluation, example by example: the difference, its interval, and what it shows.

    >>> report = compare_logs("probe.csv", "truncated.csv")
    >>> report.grade, report.table.n10, report.table.n01
    ('B', 5, 6)
    """

    row_field: ClassVar[str] = "flips"
    repair: ClassVar[str] = "compare the logs again: gradience evidence A B --json"
    plots: ClassVar[Plots] = compared_plots("How large", "How large")

    schema_: Literal["gradience.evidence/1"] = Field(default="gradience.evidence/1", alias="schema")
    a: LogFacts
    """The reference."""
    b: LogFacts
    """The candidate."""
    task: str | None
    """As both logs name it."""
    metric: str
    filter: str | None
    """How the answers were found, where a log has several ways."""
    lower_is_better: bool
    n: int
    """Examples; the same ones in both."""
    delta: Float12
    """B − A, in the score's own units: −0.025 of 0/1 scores is 2.5 points."""
    low: Float12
    """Lower end of the 95 % interval of Δ: Tango's for 0/1 scores, Student's for others."""
    high: Float12
    """Its upper end."""
    margin: Float12
    """How much worse B may be, as a positive number."""
    bounds: Bounds
    """One-sided 95 % bounds on Δ, and the p-value of "B is worse by the margin or more"."""
    table: PairedTable | None
    """For scores that are 0 or 1: how often both, one or none is correct. A is the reference."""
    planning: Planning
    grade: Grade
    """B: supported for these runs. C: neither shown. D: inferior. One run each gives no A, and what cannot be paired
    gives no report."""
    verdict: str
    """The same in a sentence."""
    n_lost: int
    """Examples on which A is better."""
    n_gained: int
    """Examples on which B is better."""
    flips: tuple[Flip, ...]
    """Some of these, as many as were asked for of each; of scores that are no 0/1 those that differ most."""
    notes: tuple[str, ...]
    """What a reader must know before the figures."""
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections, in the order of the questions that a reader has."""
        return [block for section in SECTIONS for block in section(self)]

    def page_heading(self, heading: Heading) -> Heading:
        """Return which log is compared with which."""
        return Heading(("Evidence: ", Span(self.b.path, "name"), " against ", Span(self.a.path, "name")))

    def summary(self) -> list[Note]:
        """Return the verdict and the grade."""
        mark, words = GRADES[self.grade]
        return [Note(mark, self.verdict, [f"grade {self.grade}: {words}"])]

    def without_texts(self) -> Self:
        """Return the flips without prompts and answers."""
        flips = tuple(replace(flip, excerpt="", answer_a="", answer_b="") for flip in self.flips)
        return self.model_copy(update={"flips": flips})


WIDTH = 43
"""Columns of the drawn interval."""


def title_blocks(report: EvidenceReport) -> list[Block]:
    """Return both logs, what was scored, and what a reader must know first."""
    scored: list[str | Span] = []
    for name in (report.task, report.metric, report.filter):
        if name is not None:
            scored += [" · ", Span(name, "name")]
    if report.lower_is_better:
        scored.append(", lower is better")
    facts: list[tuple[str, Inline]] = []
    for side, log in (("A", report.a), ("B", report.b)):
        model: tuple[Span, ...] = (Span("  "), Span(log.model, "name")) if log.model is not None else ()
        origin = Span(f"  {log.format} · sha256 {log.sha256[:12]}", "dim")
        facts.append((side, (Span(log.path, "name"), *model, origin)))
    facts.append(("score", (*scored[1:], f" · {plural(report.n, 'example')}")))
    blocks: list[Block] = [Heading("Evidence", level=1), Facts(facts)]
    return [*blocks, Notes([Note("warning", note) for note in report.notes])] if report.notes else blocks


def answer_blocks(report: EvidenceReport) -> list[Block]:
    """Return the verdict and the grade."""
    return [Heading("Is B as good as A?"), Notes(report.summary())]


def difference_blocks(report: EvidenceReport) -> list[Block]:
    """Return the two means, the difference with its interval, drawn, and the test at the margin."""
    worst = report.bounds.high if report.lower_is_better else report.bounds.low
    method = "Tango's score interval" if report.table else "Student's interval of paired differences"
    interval = f"{_signed(report, report.low)} … {_signed(report, report.high)}"
    test = f"{probability(report.bounds.p_value)} against a loss of {_amount(report, report.margin)} or more"
    rows = [
        ("A", _mean(report, report.a.mean), "the reference"),
        ("B", _mean(report, report.b.mean), "the candidate"),
        (
            "B − A",
            f"{_signed(report, report.delta)}{_unit(report)}",
            f"95 % interval {interval}; {method}",
        ),
        ("at worst", f"{_signed(report, worst)}{_unit(report)}", f"one-sided 95 % bound; {test}"),
    ]
    drawing = Code(interval_lines(report), drawing=True)
    return [Heading("How large is the difference?"), figures(rows), drawing]


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
    label = f"{_signed(report, allowed)}{_unit(report)}: the margin"
    before = "" if allowed < 0 else f"{label} "  # on the side where there is room
    mark = f"{before.rjust(7 + column(allowed))}▏{'' if before else label}"
    return [f"{left} {''.join(signs)} {right}", f"{' ' * (7 + column(0))}▏0", mark]


def table_blocks(report: EvidenceReport) -> list[Block]:
    """Return how often both, one or none is correct."""
    table = report.table
    if table is None:
        return []
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


def flip_blocks(report: EvidenceReport) -> list[Block]:
    """Return examples that B lost and gained."""
    blocks: list[Block] = [] if report.table else [Heading("On which examples do they differ?")]
    for change, number, words in (
        ("lost", report.n_lost, "A is better"),
        ("gained", report.n_gained, "B is better"),
    ):
        flips = [flip for flip in report.flips if flip.change == change]
        blocks.append(Paragraph(f"{words} on {plural(number, 'example')}" + (":" if flips else "")))
        if not flips:
            continue
        columns = [Column("id")]
        rows: list[list[Inline]] = [[Span(flip.id, "name")] for flip in flips]
        if report.table is None:
            columns += [Column("A", ">"), Column("B", ">")]
            for row, flip in zip(rows, flips, strict=True):
                row += [plain(flip.score_a), plain(flip.score_b)]
        for title, texts in (
            ("example", [flip.excerpt for flip in flips]),
            ("A answered", [flip.answer_a for flip in flips]),
            ("B answered", [flip.answer_b for flip in flips]),
        ):
            if any(texts):
                columns.append(Column(title))
                for row, text in zip(rows, texts, strict=True):
                    row.append(Span(text, "name"))
        blocks += [Table(columns, rows), *more(number - len(flips), "more example", ": --flips N")]
    return blocks


def planning_blocks(report: EvidenceReport) -> list[Block]:
    """Return how many examples the margin needs, and which margin these can show."""
    planning = report.planning
    if planning.variance is None:
        return []
    columns = [Column(), Column("chance 80 %", ">"), Column("chance 90 %", ">")]
    needed = (planning.examples_80, planning.examples_90)
    rows = (
        (
            f"examples to show {_amount(report, report.margin)}",
            *(MISSING if number is None else count(number) for number in needed),
        ),
        (
            f"smallest margin with {count(report.n)}",
            *(_amount(report, value) for value in (planning.margin_80, planning.margin_90)),
        ),
    )
    return [Heading("What would more examples show?", aside="if both are equally good"), Table(columns, rows)]


def caveat_blocks(report: EvidenceReport) -> list[Block]:
    """Return what two logs never show."""
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether another training run would come out the same: one run on each side gives at most grade B. And the "
            "margin counts only if it was chosen before anybody saw these scores."
        ),
    ]


def _unit(report: EvidenceReport) -> str:
    """Unit of a difference: points where scores are 0 or 1."""
    return " points" if report.table else ""


def _amount(report: EvidenceReport, value: float | None) -> str:
    """The size of a difference with its unit."""
    return f"{sig(100 * value if value is not None and report.table else value)}{_unit(report)}"


def _signed(report: EvidenceReport, value: float) -> str:
    """A difference with its sign, without its unit."""
    if report.table:
        return points(value)
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{sig(abs(value))}"


def _mean(report: EvidenceReport, value: float) -> str:
    """`82.9 %, 1,813 / 2,186` of 0/1 scores, else the mean."""
    if report.table is None:
        return sig(value, 4)
    return f"{100 * value:.1f} %, {round(value * report.n):,} / {report.n:,}"


SECTIONS: tuple[Callable[[EvidenceReport], list[Block]], ...] = (
    title_blocks,
    answer_blocks,
    difference_blocks,
    table_blocks,
    flip_blocks,
    planning_blocks,
    caveat_blocks,
)
