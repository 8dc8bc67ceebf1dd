"""`gradience bench power`: what a budget can show, as blocks."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import MISSING, chance, in_points, percent, plural
from gradience.reports.power import Need, PowerReport, Scenario

NONE_ENOUGH = "none"
"""No number of examples is enough."""


def power_text(report: PowerReport, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience bench power` prints."""
    return terminal.render(power_blocks(report), width=width, color=color)


def power_blocks(report: PowerReport) -> Document:
    """The budget, the two claims, the policy, and what all of it rests on."""
    blocks: list[Block] = [
        Heading(f"What {plural(report.n, 'example')} and {plural(report.seeds, 'seed')} can show", level=1),
        Facts(_budget(report)),
        Heading("These runs", aside="non-inferior on other examples, asked of the same adapters"),
        _claim_table(report, "these-runs"),
        Heading("A new run", aside="non-inferior on other examples, with another seed"),
        _claim_table(report, "new-run"),
        Paragraph(_legend(report)),
        Heading(
            "The policy", aside=f"at most {report.allowed:,} of {report.n:,} fewer correct than the probe"
        ),
        policy_table(report.scenarios, report.seeds, float(report.margin)),
        Heading("What this rests on"),
        items(report.assumptions),
    ]
    return blocks


def _budget(report: PowerReport) -> list[tuple[str, Inline]]:
    margin = (
        f"{in_points(float(report.margin))} points, at a one-sided error of {percent(float(report.alpha))}"
    )
    return [("margin", margin)]


def _legend(report: PowerReport) -> str:
    return (
        "If the variant is exactly as good as the probe. Power: chance to show it with this budget. Margin: the "
        "smallest that this budget shows with that chance, in points. Examples: how many are needed with "
        f"{plural(report.seeds, 'seed')}. Seeds: how many are needed with {plural(report.n, 'example')}."
    )


def _claim_table(report: PowerReport, claim: str) -> Table:
    """One row for each scenario; those that differ in nothing that the claim depends on stand once."""
    columns = [Column("variant"), Column("discordance", ">")]
    spread = claim == "new-run"
    columns += [Column("spread", ">")] if spread else []
    columns += [Column("power", ">"), Column("margin 80 %", ">"), Column("90 %", ">", drop=2)]
    columns += [Column("examples 80 %", ">"), Column("90 %", ">", drop=1)]
    columns += [Column("seeds 80 %", ">"), Column("90 %", ">", drop=1)]
    rows: list[tuple[Inline, ...]] = []
    for scenario in report.scenarios:
        needs = [need for need in scenario.needs if need.claim == claim]
        power = scenario.power_new_run if spread else scenario.power_these_runs
        row: tuple[Inline, ...] = (
            Span(scenario.name, "name"),
            percent(scenario.discordance),
            *((in_points(scenario.spread),) if spread else ()),
            chance(power),
            *(in_points(need.smallest_margin) for need in needs),
            *(_examples(need) for need in needs),
            *(_seeds(need) for need in needs),
        )
        rows += [] if row in rows else [row]
    return Table(columns, rows)


def _examples(need: Need) -> str:
    if need.examples is None:
        return NONE_ENOUGH if need.smallest_margin is not None else MISSING
    return f"{need.examples:,}"


def _seeds(need: Need) -> str:
    return "over 100" if need.seeds is None else str(need.seeds)


def policy_table(scenarios: Sequence[Scenario], seeds: int, margin: float) -> Table:
    """The chance that the policy passes a variant that is as good, and one that is worse by two margins."""
    columns = [Column("variant"), Column("discordance", ">"), Column("spread", ">")]
    columns += [Column("PASS if equal", ">"), Column(f"PASS if {in_points(2 * margin)} points worse", ">")]
    rows = [
        (
            Span(each.name, "name"),
            percent(each.discordance),
            in_points(each.spread),
            chance(each.pass_if_equal),
            chance(each.pass_if_worse),
        )
        for each in scenarios
    ]
    return Table(columns, rows)
