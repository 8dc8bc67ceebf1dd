"""Reports of `gradience evaluate` on several data sets: the result, its plan, the dry run and the preview."""

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal

from gradience.files.artifact import Artifact, Part
from gradience.files.shared_names import PlainName
from gradience.reports import evaluation
from gradience.reports.base import blocks as doc
from gradience.reports.base.graded import Grade, Probability, grade_note
from gradience.reports.base.numbers import plural, probability
from gradience.reports.base.report import Plots, Report, RunInfo
from gradience.reports.bench_plan import Compares, PlannedSet, Share


class EvaluationPlan(Artifact):
    """`plan.json` of an evaluation on several data sets: what must hold, fixed before the first answer."""

    repair: ClassVar[str] = "give another --output (an edited plan is not valid)"

    schema_: Literal["gradience.evaluation_plan/1"] = "gradience.evaluation_plan/1"
    reference_sha256: str
    """sha256 of the reference adapter's weights file."""
    reference_config_sha256: str
    candidates: tuple[str, ...]
    """sha256 of the weights file of each candidate."""
    base: str
    sets: tuple[PlannedSet, ...]
    level: Share
    """Chance of any false B: a candidate must hold on every data set, and p-values are adjusted for the number of
    candidates only."""
    changes: tuple[str, ...] = ()
    """Changes to the plan of this folder that were made after the first answers; with any, no grade is above C."""


class JointAdapter(Part):
    """One row: an adapter or the base model, with its grade over all data sets."""

    name: str
    role: evaluation.RowRole
    grade: Grade | None
    """B: shown on every data set. D: worse on one. X: not evaluated on one. C: otherwise. Null for the reference and
    the base."""
    reason: str
    p_value: Probability | None
    """Largest p-value among the data sets: that of the intersection–union test. Null for a row that is not tested."""
    adjusted_p: Probability | None
    """The same, Holm-adjusted over the candidates."""
    grades: dict[PlainName, Grade]
    """Data set -> grade on it."""


class EvaluationSetsReport(Report):
    """Several adapters of one base model on several data sets, each compared with the first adapter.

    >>> report = EvaluationSetsReport.read("evaluation_sets.json")
    >>> [(row.name, row.grades) for row in report.candidates]
    [('rank4', {'task': 'B', 'general': 'B'}), ('rank1', {'task': 'B', 'general': 'B'})]
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "evaluate again: gradience evaluate … --output DIR"
    plots: ClassVar[Plots] = {"frontier": "plots.compared:frontier_plot"}

    schema_: Literal["gradience.evaluation_sets/1"] = "gradience.evaluation_sets/1"
    base: str
    plan: EvaluationPlan
    plan_sha256: str | None
    """sha256 of plan.json; null if nothing was written."""
    adapters: tuple[JointAdapter, ...]
    """Reference, then candidates in the given order, then the base."""
    evaluations: dict[PlainName, evaluation.EvaluationReport]
    """Data set -> its evaluation, in the order of the plan."""
    run: RunInfo

    @property
    def candidates(self) -> tuple[JointAdapter, ...]:
        """Rows of the candidates."""
        return tuple(row for row in self.adapters if row.role == evaluation.CANDIDATE)

    def rows_on(self, data_set: str) -> dict[str, evaluation.EvaluatedAdapter]:
        """Return the results on a data set by the names of the adapters."""
        return {row.name: row for row in self.evaluations[data_set].adapters}

    def blocks(self) -> doc.Document:
        """Return the sections of the report."""
        return [*title_blocks(self), *table_blocks(self), *caveat_blocks(self)]


def title_blocks(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return base, data sets, device and warnings."""
    notes = evaluation.change_warnings(report.plan.changes)
    for name, result in report.evaluations.items():
        notes += [f"{name}: {note}" for note in evaluation.warnings_of(result)]
    sets = plural(len(report.plan.sets), "data set")
    title = ("Evaluation of ", doc.Span(report.adapters[0].name, "name"), f" on {sets}")
    facts = [evaluation.base_fact(report.base, next(iter(report.evaluations.values())).conditions)]
    facts += [
        (planned.name, evaluation.planned_words(planned, report.evaluations[planned.name].adapters[0].n))
        for planned in report.plan.sets
    ]
    answer = [*joint_notes(report), *base_notes(report)]
    return evaluation.opening(title, answer, facts, list(dict.fromkeys(notes)))


def table_blocks(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return one row for each adapter and a column for each data set, and the legend."""
    first, first_set = report.adapters[0], report.plan.sets[0].name
    one, base = report.rows_on(first_set), report.evaluations[first_set].base_words
    table = doc.table_of(
        report.adapters,
        (doc.Column(), lambda row: evaluation.name_cell(row, base)),
        (doc.Column("grade", shown=bool(report.candidates)), lambda row: row.grade or ""),
        (doc.Column("rank", ">", drop=2), lambda row: evaluation.ranks_cell(one[row.name])),
        (doc.Column("saved", ">", drop=3), lambda row: evaluation.saved_cell(one[row.name])),
        *(column for planned in report.plan.sets for column in _columns_of(report, planned)),
    )
    heading = ("Candidates, compared with ", doc.Span(first.name, "name")) if report.candidates else "Results"
    return [doc.Heading(heading), table, doc.Facts(list(dict.fromkeys(doc.legend_of(table))))]


def _columns_of(
    report: EvaluationSetsReport, planned: PlannedSet
) -> Iterator[tuple[doc.Column, Callable[[JointAdapter], doc.Inline]]]:
    """Yield the columns of a data set: the reference's level, the others' differences with grades, and the bounds."""
    rows, bound = report.rows_on(planned.name), "one-sided bound; compared with the margin"
    level = doc.Column(planned.name, ">", legend=UNITS[planned.compares])
    yield level, lambda row: _set_cell(rows[row.name])
    yield (
        doc.Column("95 % bound", ">", drop=4, legend=bound),
        lambda row: evaluation.bound_cell(rows[row.name]),
    )


def _set_cell(row: evaluation.EvaluatedAdapter) -> str:
    return f"{evaluation.level_or_delta_cell(row)} {row.grade or ''}".strip()


UNITS: Mapping[Compares, str] = {
    "correct": "first row: accuracy; other rows: candidate − reference, in points",
    "nll": "first row: NLL in nats per token; other rows: increase over the reference (positive is worse)",
    "agreement": "first row: answers equal to the reference's; other rows: changed answers, in points",
}
"""Figures in the column of a data set."""


def joint_notes(report: EvaluationSetsReport) -> list[doc.Note]:
    """Return the joint grade of each candidate, its reason and its p-value."""
    adjusted = (
        f", Holm-adjusted for {len(report.candidates)} candidates" if len(report.candidates) > 1 else ""
    )
    notes: list[doc.Note] = []
    for row in report.candidates:
        details: list[doc.Inline] = []
        if row.adjusted_p is not None:
            details.append(f"{probability(row.adjusted_p)}: the largest p-value of the data sets{adjusted}")
        notes += grade_note(row.name, row.grade, row.reason, details)
    return notes


def base_notes(report: EvaluationSetsReport) -> list[doc.Note]:
    """Return the reference's gains and losses on each data set, compared with the base model."""
    gains = {name: evaluation.gain_over_base(result) for name, result in report.evaluations.items()}
    return [
        doc.Note(gain.mark, (doc.Span(name, "name"), ": ", *doc.spans(gain.text)))
        for name, gain in gains.items()
        if gain is not None
    ]


def caveat_blocks(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return the limits of the result."""
    return [
        doc.Heading("Limits"),
        doc.Paragraph(
            "With one training run per side, grade B is the best possible. One data set is enough for a D, so testing"
            " several makes a false D more likely. Outputs for other texts may still have changed. The margins are"
            " valid only if they were chosen before anyone saw the answers."
        ),
    ]
