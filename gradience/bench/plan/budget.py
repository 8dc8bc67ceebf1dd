"""A config -> what its budget of examples and seeds can show."""

from __future__ import annotations

from fractions import Fraction

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.forecast import forecast
from gradience.bench.plan.power import Assumptions, plausible_for, power_report, rests_on
from gradience.bench.plan.variants import asked_for
from gradience.errors import UsageError
from gradience.reports.power import PowerReport


def report_of_config(
    config: BenchConfig,
    assumed: Assumptions | None = None,
    *,
    n: int | None = None,
    seeds: int | None = None,
    margin: Fraction | None = None,
) -> PowerReport:
    """Return what `config` can show; n, seeds and margin replace its own. assumed: None for plausible values.

    Raises what `forecast` raises, and UsageError where only the data can tell how many examples decide.
    """
    expected = forecast(config)
    examples = n or expected.examples
    if examples is None:
        raise UsageError(
            f"{expected.task}: how many examples decide is known when the data are read",
            code="no-budget",
            hint="give --n as well",
        )
    wanted = asked_for(config.compression)
    tested = sum(variant.is_candidate for variant in wanted)
    assumed = assumed or plausible_for(wanted)
    return power_report(
        examples,
        seeds or len(config.seeds),
        config.policy,
        assumed.of,
        margin=margin,
        assumptions=[*rests_on(assumed, tested=tested), *expected.assumptions],
    )
