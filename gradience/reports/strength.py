"""Report of `gradience shrink --over strength`: the frontier on dev rows, and the one strength that was tested."""

from collections.abc import Callable
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Heading,
    Inline,
    Note,
    Paragraph,
    Span,
    table_of,
)
from gradience.reports.base.report import Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import BASE, EvaluatedAdapter, level_cell, name_cell, opening
from gradience.reports.evaluation_sets import (
    EvaluationSetsReport,
    JointAdapter,
    base_notes,
    caveat_blocks,
    conditions_facts,
    table_blocks,
)

RULE = (
    "on the dev rows, the task's drop is at most half of its margin; of these, the largest gain on the guards, in units"
    " of their margins"
)


class StrengthPoint(Part):
    """One point of the grid."""

    name: str
    strength: Float12
    """Factor for the update of the reference adapter."""
    rank: int


class StrengthReport(Report):
    """`strength.json`: a strength chosen on dev rows, and tested once on test rows.

    >>> report = StrengthReport.read("strength.json")
    >>> report.chosen, report.tested.grade
    ('strength0.7', 'B')
    """

    row_field: ClassVar[str] = "points"
    repair: ClassVar[str] = "search again: gradience shrink … --over strength --output DIR"
    plots: ClassVar[Plots] = {"frontier": "compared:frontier_plot"}

    schema_: Literal["gradience.strength/1"] = "gradience.strength/1"
    adapter: str
    rank: int
    """Largest rank of the reference adapter."""
    points: tuple[StrengthPoint, ...]
    """The grid: all candidates on the dev rows."""
    rule: str = RULE
    """Rule that chooses a point on the dev rows."""
    dev: EvaluationSetsReport
    """All points on the dev rows of every data set. Its grades decide nothing."""
    chosen: str | None
    """The point that the rule chooses; null if none is better on the guards."""
    test: EvaluationSetsReport | None
    """The chosen point on the test rows of every data set; null without one."""
    run: RunInfo

    @model_validator(mode="after")
    def _tested_one_of_the_points(self) -> Self:
        if self.tested and not self.point(self.tested.name):
            raise ValueError(f"test: {self.tested.name} is not one of the points")
        return self

    @property
    def tested(self) -> JointAdapter | None:
        """The tested candidate, with its grade over all data sets."""
        return None if self.test is None else self.test.candidates[0]

    def point(self, name: str) -> StrengthPoint | None:
        """Return the point of this name; None for the reference and the base."""
        return next((point for point in self.points if point.name == name), None)

    def blocks(self) -> Document:
        """Return the sections of the report."""
        shown = [*title_blocks(self), *frontier_blocks(self)]
        if self.test is None:
            return shown
        _, *table = table_blocks(self.test)
        return [*shown, Heading("Test", aside="test rows, once"), *table, *caveat_blocks(self.test)]


def value_of(row: EvaluatedAdapter) -> float | None:
    """Return NLL per token, or accuracy as a share; None if it was not evaluated."""
    if row.likelihood is not None:
        return row.likelihood.nll
    return row.accuracy


def _answer(report: StrengthReport) -> Note:
    tested = report.tested
    if tested is None:
        return Note(
            "unknown", "No strength kept the task's accuracy and improved the guards on the dev rows."
        )
    point = next(point for point in report.points if point.name == tested.name)
    words = f": strength {point.strength:g} at rank {point.rank}, grade {tested.grade}: {tested.reason}"
    mark: Literal["good", "unknown", "error"] = "good" if tested.grade == "B" else "unknown"
    return Note("error" if tested.grade in ("D", "X") else mark, (Span(tested.name, "name"), words))


def title_blocks(report: StrengthReport) -> list[Block]:
    """Return adapter, base, data sets and the grid."""
    strengths = sorted({point.strength for point in report.points}, reverse=True)
    ranks = sorted({point.rank for point in report.points}, reverse=True)
    grid = f"strengths {', '.join(f'{strength:g}' for strength in strengths)} at rank {', '.join(map(str, ranks))}"
    facts: list[tuple[str, Inline]] = [
        *conditions_facts(report.dev, ", dev"),
        ("grid", grid),
    ]
    answer = [_answer(report), *([] if report.test is None else base_notes(report.test))]
    return opening(("Strength of ", Span(report.adapter, "name")), answer, facts, ())


def frontier_blocks(report: StrengthReport) -> list[Block]:
    """Return every point with its level on the dev rows of each data set, and the rule."""

    def cell(planned: PlannedSet) -> Callable[[JointAdapter], Inline]:
        rows = report.dev.rows_on(planned.name)
        return lambda joint: level_cell(rows[joint.name])

    def strength(joint: JointAdapter) -> str:
        point = report.point(joint.name)
        return f"{point.strength:g}" if point else "0" if joint.role == BASE else "1"

    base = next(iter(report.dev.evaluations.values())).base_words
    table = table_of(
        report.dev.adapters,
        (Column(), lambda row: name_cell(row, base)),
        (Column("strength", ">"), strength),
        *((Column(planned.name, ">"), cell(planned)) for planned in report.dev.plan.sets),
        (Column(), lambda row: "chosen" if row.name == report.chosen else ""),
    )
    return [Heading("Frontier", aside="dev rows"), table, Paragraph(f"Chosen: {report.rule}.")]
