"""`gradience bench power --json`: what a number of examples and seeds can show, and what a claim needs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.report import Report
from gradience.reports.bench_plan import Policy, Share


class Need(Part):
    """What one claim needs to be shown with a certain chance, if the variant is as good as the probe."""

    claim: Literal["these-runs", "new-run"]
    wanted: Float12
    """That chance."""
    smallest_margin: Float12 | None
    """The one that the planned examples and seeds show; null for a new run with one seed, which shows none."""
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
    power_new_run: Float12 | None
    """Chance to show it of another seed as well; null for one seed."""
    pass_if_equal: Float12
    """Chance that the policy passes a variant that is as good as the probe."""
    pass_if_worse: Float12
    """Chance that it passes one that is worse by two margins."""
    needs: tuple[Need, ...]


class PowerReport(Report):
    """What a budget of examples and seeds can show."""

    row_field: ClassVar[str] = "scenarios"

    schema_: Literal["gradience.power/2"] = Field(default="gradience.power/2", alias="schema")
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
