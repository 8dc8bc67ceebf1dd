"""`gradience evidence --json`: two logs of an evaluation, example by example."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12, Part
from gradience.reports.base.graded import Bounds, Grade
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.statistics.table import PairedTable


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
