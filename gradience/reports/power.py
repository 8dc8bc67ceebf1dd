"""Report of `gradience bench power`: statistical power of a number of examples and seeds."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import (
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Paragraph,
    Span,
    Table,
    items,
    table_of,
)
from gradience.reports.base.numbers import MISSING, chance, in_points, percent, plural
from gradience.reports.base.report import Report
from gradience.reports.bench_plan import Policy, Share


class Need(Part):
    """Requirements of one claim at a power of 80 %, if the variant is as good as the probe."""

    claim: Literal["these-runs", "mean-over-trainings"]
    smallest_margin: Float12 | None
    """Smallest margin that the planned examples and seeds can show; null for the mean over trainings with one seed."""
    examples: int | None
    """Examples needed with the planned seeds; null if no number is enough."""
    examples_range: tuple[int, int | None] | None = None
    """The same at both ends of the 95 % interval of the discordance: as it was seen, or as the planned examples would
    show the assumed one. An end is null if no number is enough."""
    seeds: int | None
    """Seeds needed with the planned examples; null if more than 100."""


class Scenario(Part):
    """Assumptions about a variant, and the resulting power of the planned examples and seeds."""

    name: str
    discordance: Float12
    """Share of the examples on which exactly one of probe and variant is correct."""
    spread: Float12
    """Standard deviation of a run's own true difference, over seeds."""
    power_these_runs: Float12
    """Power for non-inferiority of these runs, if the variant is as good as the probe."""
    power_over_trainings: Float12 | None
    """Power for the mean over trainings; null for one seed."""
    pass_if_equal: Float12
    """Chance that the policy passes a variant that is as good as the probe."""
    pass_if_worse: Float12
    """Chance that the policy passes a variant that is worse by two margins."""
    needs: tuple[Need, ...]


class PowerReport(Report):
    """Statistical power of a budget of examples and seeds."""

    row_field: ClassVar[str] = "scenarios"

    schema_: Literal["gradience.power/3"] = Field(default="gradience.power/3", alias="schema")
    n: int
    """Number of test examples."""
    seeds: int
    margin: Share
    """Largest acceptable drop in accuracy."""
    alpha: Share
    """One-sided error rate of a claim."""
    correlation: Float12
    """Correlation of two runs' differences on one example."""
    policy: Policy
    allowed: int
    """Net number of correct answers that a variant may lose on each seed."""
    scenarios: tuple[Scenario, ...]
    assumptions: tuple[str, ...]

    def blocks(self) -> Document:
        """Return the budget, the two claims, the policy, and the assumptions."""
        examples, seeds = plural(self.n, "example"), plural(self.seeds, "seed")
        error = f"one-sided error rate {percent(float(self.alpha))}"
        legend = (
            "All values except the last column assume that the variant is exactly as good as the probe. Power: "
            "chance to show non-inferiority with this budget. Margin: smallest margin that this budget can show "
            f"with 80 % power, in points. Examples: needed with {seeds}, at both ends of the 95 % interval of the"
            f" discordance. Seeds: number needed with {examples}."
        )
        # an equal variant, and one that is worse by two margins
        worse = f"PASS if {in_points(2 * float(self.margin))} points worse"
        policy = table_of(
            self.scenarios,
            (Column("variant"), lambda row: Span(row.name, "name")),
            (Column("discordance", ">"), lambda row: percent(row.discordance)),
            (Column("spread", ">"), lambda row: in_points(row.spread)),
            (Column("PASS if equal", ">"), lambda row: chance(row.pass_if_equal)),
            (Column(worse, ">"), lambda row: chance(row.pass_if_worse)),
        )
        fewer = f"at most {self.allowed:,} of {self.n:,} fewer correct than the probe"
        return [
            Heading(f"Power of {examples} and {seeds}", level=1),
            Facts([("margin", f"{in_points(float(self.margin))} points, {error}")]),
            Heading("These runs", aside="same adapters, new examples"),
            _claim_table(self, "these-runs"),
            Heading(
                "Mean over trainings",
                aside="mean of all trainings of the recipe, new examples",
            ),
            _claim_table(self, "mean-over-trainings"),
            Paragraph(legend),
            Heading("The policy", aside=fewer),
            policy,
            Heading("Assumptions"),
            items(self.assumptions),
        ]


def _claim_table(report: PowerReport, claim: Literal["these-runs", "mean-over-trainings"]) -> Table:
    """Return one row per scenario; scenarios that are equal for this claim are merged."""
    over_trainings = claim == "mean-over-trainings"
    columns = [
        Column("variant"),
        Column("discordance", ">"),
        *([Column("spread", ">")] if over_trainings else []),
        Column("power", ">"),
        Column("margin", ">"),
        Column("examples", ">"),
        Column("seeds", ">"),
    ]
    rows: dict[tuple[Inline, ...], None] = {}
    for scenario in report.scenarios:
        (need,) = (need for need in scenario.needs if need.claim == claim)
        power = scenario.power_over_trainings if over_trainings else scenario.power_these_runs
        row = (
            Span(scenario.name, "name"),
            percent(scenario.discordance),
            *((in_points(scenario.spread),) if over_trainings else ()),
            chance(power),
            in_points(need.smallest_margin),
            _examples(need),
            "over 100" if need.seeds is None else str(need.seeds),
        )
        rows[row] = None
    return Table(columns, list(rows))


def _examples(need: Need) -> str:
    """Return the range of the examples; `none` if no number is enough."""
    if need.examples_range is None:
        return "none" if need.smallest_margin is not None else MISSING
    low, high = need.examples_range
    return f"{low:,} or more" if high is None else f"{low:,}–{high:,}"
