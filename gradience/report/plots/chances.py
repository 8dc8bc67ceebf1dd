"""What a policy and a number of examples do: the chance that variants pass, and that a claim is shown."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.plots.plot import Axis, BarsOf, Plot, Series
from gradience.reports.base.numbers import chance, percent
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.reports.power import PowerReport, Scenario

CHANCE = Axis("chance", low=0.0, high=1.0, form="share")


def operating_plot(report: BenchAggregate) -> Plot | None:
    """Return the chance that the policy passes each variant if it is equal, and if it loses twice the margin."""
    known = [
        (row.name, row.evidence.policy) for row in report.variants if row.evidence and row.evidence.policy
    ]
    if not known:
        return None
    places = list(range(len(known)))
    equal = [policy.pass_if_equal for _, policy in known]
    worse = [policy.pass_if_twice_margin for _, policy in known]
    return Plot(
        "operating",
        "What the policy does, at the discordance and the spread that were seen",
        CHANCE,
        Axis("", scale="categories", categories=[name for name, _ in known]),
        [
            BarsOf("passes if equal", places, equal, lying=True, tone="good"),
            BarsOf("passes at twice the margin", places, worse, lying=True, tone="bad"),
        ],
        f"The policy passes an equal variant with a chance of {chance(min(equal))} or more, and one that loses"
        f" twice the margin with {chance(max(worse))} at most.",
    )


def power_plot(report: PowerReport) -> Plot | None:
    """Return, for each scenario, the chance that a claim is shown and that the policy passes."""
    return chances_plot(report.scenarios)


def chances_plot(scenarios: Sequence[Scenario]) -> Plot | None:
    """Return the chances of each scenario; nothing without any."""
    if not scenarios:
        return None
    places = list(range(len(scenarios)))
    series: list[Series] = [
        BarsOf("shown of these runs", places, [row.power_these_runs for row in scenarios], lying=True),
    ]
    if any(row.power_new_run is not None for row in scenarios):
        series.append(
            BarsOf("shown of a new run", places, [row.power_new_run for row in scenarios], lying=True)
        )
    series += [
        BarsOf("policy passes an equal one", places, [row.pass_if_equal for row in scenarios], lying=True),
        BarsOf("policy passes a worse one", places, [row.pass_if_worse for row in scenarios], lying=True),
    ]
    best = max(row.power_these_runs for row in scenarios)
    return Plot(
        "power",
        "What the planned examples and seeds show",
        CHANCE,
        Axis(
            "variant, discordance ± spread",
            scale="categories",
            categories=[_assumed(row) for row in scenarios],
        ),
        series,
        f"Non-inferiority of the runs themselves is shown with a chance of {chance(best)} in the best of these cases.",
    )


def _assumed(row: Scenario) -> str:
    """What a scenario assumes: of one name there are several."""
    spread = f" ± {100 * row.spread:.3g}" if row.spread else ""
    return f"{row.name}, {percent(row.discordance)}{spread}"
