"""`gradience bench power --json`: what a number of examples and seeds can show, and what a claim needs."""

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
from gradience.reports.base.report import PlotOf, Plots, Report
from gradience.reports.bench_plan import Policy, Share


class Need(Part):
    """What one claim needs to be shown with a certain chance, if the variant is as good as the probe."""

    claim: Literal["these-runs", "mean-over-trainings"]
    wanted: Float12
    """That chance."""
    smallest_margin: Float12 | None
    """The one that the planned examples and seeds show; null for the mean over trainings with one seed."""
    examples: int | None
    """The fewest with the planned seeds; null where no number is enough."""
    seeds: int | None
    """The fewest with the planned examples; null where 100 are not enough."""


class Scenario(Part):
    """What is assumed of a variant, and what the planned examples and seeds do with it."""

    name: str
    discordance: Float12
    """Share of the examples on which exactly one of probe and variant is correct."""
    spread: Float12
    """Standard deviation of a run's own true difference, over seeds."""
    power_these_runs: Float12
    """Chance to show non-inferiority of the runs made, if the variant is as good as the probe."""
    power_over_trainings: Float12 | None
    """Chance to show it of another seed as well; null for one seed."""
    pass_if_equal: Float12
    """Chance that the policy passes a variant that is as good as the probe."""
    pass_if_worse: Float12
    """Chance that it passes one that is worse by two margins."""
    needs: tuple[Need, ...]


class PowerReport(Report):
    """What a budget of examples and seeds can show."""

    row_field: ClassVar[str] = "scenarios"
    plots: ClassVar[Plots] = {"power": PlotOf("sizes:power_plot")}

    schema_: Literal["gradience.power/3"] = Field(default="gradience.power/3", alias="schema")
    n: int
    """Examples that decide."""
    seeds: int
    margin: Share
    """Largest loss that still counts as none."""
    alpha: Share
    """One-sided error of a claim."""
    correlation: Float12
    """Of two runs' differences on one example."""
    policy: Policy
    allowed: int
    """How many fewer than the probe a variant may have correct, on each seed."""
    scenarios: tuple[Scenario, ...]
    assumptions: tuple[str, ...]

    def blocks(self) -> Document:
        """Return the budget, the two claims, the policy, and what all of it rests on."""
        examples, seeds = plural(self.n, "example"), plural(self.seeds, "seed")
        error = f"at a one-sided error of {percent(float(self.alpha))}"
        legend = (
            "If the variant is exactly as good as the probe. Power: chance to show it with this budget. Margin: the "
            "smallest that this budget shows with that chance, in points. Examples: how many are needed with "
            f"{seeds}. Seeds: how many are needed with {examples}."
        )
        # as good, or worse by two margins
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
            Heading(f"What {examples} and {seeds} can show", level=1),
            Facts([("margin", f"{in_points(float(self.margin))} points, {error}")]),
            Heading("These runs", aside="non-inferior on other examples, asked of the same adapters"),
            _claim_table(self, "these-runs"),
            Heading(
                "Mean over trainings",
                aside="non-inferior on other examples, over all trainings of the recipe",
            ),
            _claim_table(self, "mean-over-trainings"),
            Paragraph(legend),
            Heading("The policy", aside=fewer),
            policy,
            Heading("What this rests on"),
            items(self.assumptions),
        ]


def _claim_table(report: PowerReport, claim: Literal["these-runs", "mean-over-trainings"]) -> Table:
    """One row for each scenario; those that differ in nothing that the claim depends on stand once."""
    over_trainings = claim == "mean-over-trainings"
    columns = [
        Column("variant"),
        Column("discordance", ">"),
        *([Column("spread", ">")] if over_trainings else []),
        Column("power", ">"),
        Column("margin 80 %", ">"),
        Column("90 %", ">", drop=2),
        Column("examples 80 %", ">"),
        Column("90 %", ">", drop=1),
        Column("seeds 80 %", ">"),
        Column("90 %", ">", drop=1),
    ]
    rows: dict[tuple[Inline, ...], None] = {}
    for scenario in report.scenarios:
        needs = [need for need in scenario.needs if need.claim == claim]
        power = scenario.power_over_trainings if over_trainings else scenario.power_these_runs
        row = (
            Span(scenario.name, "name"),
            percent(scenario.discordance),
            *((in_points(scenario.spread),) if over_trainings else ()),
            chance(power),
            *(in_points(need.smallest_margin) for need in needs),
            *(_examples(need) for need in needs),
            *("over 100" if need.seeds is None else str(need.seeds) for need in needs),
        )
        rows[row] = None
    return Table(columns, list(rows))


def _examples(need: Need) -> str:
    """`none` where no number is enough."""
    if need.examples is None:
        return "none" if need.smallest_margin is not None else MISSING
    return f"{need.examples:,}"
