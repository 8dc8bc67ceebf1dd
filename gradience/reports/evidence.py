"""Report of `gradience evidence`: a paired comparison of two evaluation logs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from gradience.files.artifact import Float12, Part, absent_at, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.graded import GRADES, Bounds, Grade
from gradience.reports.base.numbers import percent, plain, plural, probability, sig
from gradience.reports.base.report import Report, RunInfo
from gradience.statistics.table import PairedTable
from gradience.words import points


class LogFacts(Part):
    """One of the two logs."""

    path: str
    sha256: str
    format: str
    """Format, such as `lm-eval`; `table` for a CSV or JSON lines file."""
    model: str | None
    """Model name in the log."""
    mean: Float12
    """Mean score over the examples."""


class Planning(Part):
    """Sample sizes and detectable margins, if both models are equally good."""

    variance: Float12 | None
    """Variance of the differences of single examples; for 0/1 scores, the share of examples on which exactly one is
    correct. Null if all differences of other scores are equal, because nothing can be planned then."""
    examples_80: int | None
    """Examples needed to show the margin with 80 % power."""
    margin_80: Float12 | None
    """Smallest margin that these examples show with 80 % power; null if they are too few for any grade."""


@artifact_row
class Flip:
    """One example on which the two logs differ."""

    id: str
    change: Literal["lost", "gained"]
    """`lost`: the reference is better."""
    score_a: Float12
    score_b: Float12
    excerpt: str
    """End of the prompt; empty if the log has no prompts."""
    answer_a: str
    answer_b: str


class EvidenceReport(Report):
    """Paired comparison of two evaluation logs: the difference, its interval and the grade.

    >>> report = compare_logs("probe.csv", "truncated.csv")
    >>> report.grade, report.table.n10, report.table.n01
    ('B', 5, 6)
    """

    row_field: ClassVar[str] = "flips"
    repair: ClassVar[str] = "compare the logs again: gradience evidence REFERENCE CANDIDATE --json"

    schema_: Literal["gradience.evidence/2"] = "gradience.evidence/2"
    a: LogFacts
    """The reference."""
    b: LogFacts
    """The candidate."""
    task: str | None
    """Task, if both logs name the same one."""
    metric: str
    filter: str | None
    """Filter that extracted the answers, if a log has several."""
    lower_is_better: bool
    n: int
    """Number of examples, the same in both logs."""
    groups: int | None = absent_at(None)
    """Independent groups of examples; absent if each example is its own."""
    grouped_by: str | None = absent_at(None)
    """Column that names the groups; absent without `--group`."""
    delta: Float12
    """Candidate − reference, in the score's own units: for 0/1 scores, −0.025 means −2.5 points."""
    low: Float12
    """Lower end of the 95 % interval of Δ: Tango's for 0/1 scores, Student's for others."""
    high: Float12
    """Upper end of the 95 % interval."""
    margin: Float12
    """Largest acceptable drop, as a positive number."""
    bounds: Bounds
    """One-sided 95 % bounds on Δ, and the p-value against a drop of the margin or more."""
    table: PairedTable | None
    """Paired counts for 0/1 scores."""
    planning: Planning
    grade: Grade
    """B: shown for these adapters. C: inconclusive. D: worse. A needs several training runs."""
    verdict: str
    """The grade explained in one sentence."""
    n_lost: int
    """Examples on which the reference is better."""
    n_gained: int
    """Examples on which the candidate is better."""
    flips: tuple[Flip, ...]
    """Examples that differ, up to `--flips` in each direction; unless scores are 0/1, the largest differences."""
    notes: tuple[str, ...]
    """Warnings shown above the results."""
    run: RunInfo

    def blocks(self) -> doc.Document:
        """Return the sections of the report."""
        return [block for section in SECTIONS for block in section(self)]

    def without_texts(self) -> Self:
        """Return the flips without prompts and answers."""
        flips = tuple(replace(flip, excerpt="", answer_a="", answer_b="") for flip in self.flips)
        return self.model_copy(update={"flips": flips})


def title_blocks(report: EvidenceReport) -> list[doc.Block]:
    """Return the verdict, both logs with their means, the difference with its interval, the examples and warnings."""
    facts: list[doc.Fact] = []
    for side, log in (("reference", report.a), ("candidate", report.b)):
        model = () if log.model is None else (", ", doc.Span(log.model, "name"))
        origin = (doc.Span(log.path, "name"), f" ({log.format}", *model, ")")
        facts.append((side, (_mean(report, log.mean), "  ", *origin)))
    interval = f"two-sided 95 % interval {_signed(report, report.low)} … {_signed(report, report.high)}"
    delta = f"{_signed(report, report.delta)}{_unit(report)}"
    facts.append(("Δ", f"{delta} (candidate − reference; {interval})"))
    names = [doc.Span(name, "name") for name in (report.task, report.metric, report.filter) if name]
    scored = [part for name in names for part in (name, ", ")]
    lower = "lower is better, " if report.lower_is_better else ""
    facts.append(("metric", (*scored, f"{lower}{plural(report.n, 'example')}")))
    if report.grade == "C" and report.planning.examples_80 is not None:
        facts.append(("sample size", _sample_size(report, report.planning.examples_80)))
    title = ("Evidence: ", doc.Span(report.b.path, "name"), " against ", doc.Span(report.a.path, "name"))
    drop = f"{sig(100 * report.margin if report.table else report.margin)}{_unit(report)}"
    test = f", {probability(report.bounds.p_value)} (null hypothesis: a drop of {drop} or more)"
    grade = f"Grade {report.grade}{'' if report.grade == 'D' else test}"
    answer = doc.Note(GRADES[report.grade][0], report.verdict, [grade])
    return [doc.Heading(title, level=1), doc.Notes([answer]), doc.Facts(facts), doc.warned(report.notes)]


def _sample_size(report: EvidenceReport, needed: int) -> str:
    """Return the number of examples for equally good adapters that disagree as here, and whether more would help."""
    vary = f"{percent(report.planning.variance)} differ" if report.table else "scores vary"
    words = f"equally good adapters need {plural(needed, 'example')} (80 % power, if {vary} as here)"
    drop = report.delta if report.lower_is_better else -report.delta
    if drop >= report.margin:
        observed = "the observed drop is at least the margin"
        return f"{words}; {observed}, so more examples help only if the true one is smaller"
    return f"{words}; with the observed drop, more" if drop > 0 and needed <= report.n else words


def flip_blocks(report: EvidenceReport) -> list[doc.Block]:
    """Return the examples on which the reference or the candidate is better."""
    blocks: list[doc.Block] = [doc.Heading("Differing examples")]
    for change, number, words in (
        ("lost", report.n_lost, "The reference is better"),
        ("gained", report.n_gained, "The candidate is better"),
    ):
        flips = [flip for flip in report.flips if flip.change == change]
        counted, ids = f"{words} on {plural(number, 'example')}", [flip.id for flip in flips]
        have_texts = any(flip.excerpt + flip.answer_a + flip.answer_b for flip in flips)
        if report.table is not None and not have_texts:
            listed = (": ", doc.Span(", ".join(ids), "name"), ", …" if number > len(ids) else "")
            blocks.append(doc.Paragraph((counted, *(listed if ids else ()))))
            continue
        table = doc.table_of(
            flips,
            (doc.Column("id"), lambda flip: doc.Span(flip.id, "name")),
            (doc.Column("reference", ">", shown=report.table is None), lambda flip: plain(flip.score_a)),
            (doc.Column("candidate", ">", shown=report.table is None), lambda flip: plain(flip.score_b)),
            _text_field("example", "excerpt", flips),
            _text_field("reference answered", "answer_a", flips),
            _text_field("candidate answered", "answer_b", flips),
        )
        blocks += [
            doc.Paragraph(f"{counted}{':' if flips else ''}"),
            table,
            *doc.more(number - len(flips), "more example", ": --flips N"),
        ]
    return blocks


def _text_field(
    title: str, field: str, flips: Sequence[Flip]
) -> tuple[doc.Column, Callable[[Flip], doc.Inline]]:
    """Return a column of texts, which is shown if a flip has one."""
    shown = any(getattr(flip, field) for flip in flips)
    return doc.Column(title, shown=shown), lambda flip: doc.Span(getattr(flip, field), "name")


def caveat_blocks(report: EvidenceReport) -> list[doc.Block]:
    """Return the limits of the result."""
    text = (
        "One run on each side gives at most grade B: another training run may give a different result. The margin is"
        " valid only if it was chosen before anyone saw these scores."
    )
    return [doc.Heading("Limits"), doc.Paragraph(text)]


def _unit(report: EvidenceReport) -> str:
    """Return the unit of a difference: points for 0/1 scores."""
    return " points" if report.table else ""


def _signed(report: EvidenceReport, value: float) -> str:
    """Return a difference with its sign, without its unit."""
    if report.table:
        return points(value)
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{sig(abs(value))}"


def _mean(report: EvidenceReport, value: float) -> str:
    """Return `82.9 %, 1,813 / 2,186` for 0/1 scores, otherwise the mean."""
    if report.table is None:
        return sig(value, 4)
    return f"{100 * value:.1f} %, {round(value * report.n):,} / {report.n:,}"


SECTIONS: tuple[Callable[[EvidenceReport], list[doc.Block]], ...] = (title_blocks, flip_blocks, caveat_blocks)
