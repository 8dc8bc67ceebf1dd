"""`gradience bench power`: what a budget of examples and seeds can show, before it is spent."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.bench_configs import complete_config
from gradience.cli.console import show_note
from gradience.cli.output import print_result
from gradience.cli.page import Html

if TYPE_CHECKING:
    from gradience.bench.plan.power import Assumptions
    from gradience.errors import UsageError
    from gradience.reports.power import PowerReport

MOST_EXAMPLES, MOST_SEEDS, DEFAULT_SEEDS = 1_000_000, 100, 3


def power(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="CONFIG",
            autocompletion=complete_config,
            help="Examples, seeds, policy and costs of this config: a YAML file or a shipped name.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the config."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", metavar="N", help="Examples that decide.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", metavar="N", help="How many seeds (default: 3, or the config's)."),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            "--margin",
            metavar="POINTS",
            help="The largest acceptable drop in accuracy, in points (default: 2.5, or the config's tolerance).",
        ),
    ] = None,
    discordance: Annotated[
        list[float] | None,
        typer.Option(
            "--discordance",
            metavar="D",
            help="Share of the examples on which exactly one of probe and variant is correct; may be repeated.",
        ),
    ] = None,
    spread: Annotated[
        list[float] | None,
        typer.Option(
            "--spread",
            metavar="T",
            help="Standard deviation of a run's true difference over seeds, as a share; may be repeated.",
        ),
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", metavar="DIR|FILE", help="Discordance and spread as an earlier run's results have them."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    html: Html = None,
) -> None:
    """Compute what a budget of examples and seeds can show.

    And what it takes to show more. Two claims: non-inferior in these runs, and in a new run with another seed. For
    each the chance to show it, the smallest margin, the examples and seeds that it needs; and how often the safety
    policy passes a variant that is as good, and one that is not.

    Examples:

      gradience bench power --n 500 --seeds 3 --discordance 0.12

      gradience bench power --config minilm_reviews --from runs/minilm_reviews
    """
    from gradience.errors import UsageError, require
    from gradience.report.power import power_text

    require("scipy", extra="stats")
    if config is None and n is None:
        raise UsageError("no budget given", code="no-budget", hint="give --config CONFIG, or --n and --seeds")
    if config is None and overrides:
        raise UsageError(
            f"{overrides[0]}: there is no config to change", code="no-budget", hint="give --config CONFIG"
        )
    if earlier and (discordance or spread):
        raise UsageError(
            "give only one of --from and --discordance",
            code="no-budget",
            hint="--from takes discordance and spread from an earlier run",
        )
    _check_counts(n, seeds)
    assumed = _seen(earlier) if earlier else _stated(discordance or [], spread or [])
    if config is None:
        from gradience.bench.plan.power import plausible, report_of_numbers

        report = report_of_numbers(n or 0, seeds or DEFAULT_SEEDS, _share_of(margin), assumed or plausible())
    else:
        report = _of_config(config, overrides or [], n, seeds, margin, assumed)
    print_result(power_text, report, as_json=json, html=html)


def _of_config(
    name: str, overrides: list[str], n: int | None, seeds: int | None, margin: str | None, assumed: Assumptions | None
) -> PowerReport:  # fmt: skip
    from gradience.bench.config.load import load_config
    from gradience.bench.config.shipped import find_config
    from gradience.cli.bench_run import need_libraries

    config = load_config(find_config(name), overrides)
    for note in config.notes:
        show_note(note)
    need_libraries()
    from gradience.bench.plan.forecast import report_of_config

    return report_of_config(config, assumed, n=n, seeds=seeds, margin=_share_of(margin))


def _check_counts(n: int | None, seeds: int | None) -> None:
    """Refuse numbers that are no budget. Raises UsageError (bad-count)."""
    from gradience.errors import UsageError

    limits = (("--n", n, 2, MOST_EXAMPLES), ("--seeds", seeds, 1, MOST_SEEDS))
    for option, number, least, most in limits:
        if number is not None and not least <= number <= most:
            raise UsageError(
                f"{option}: {number} is not between {least} and {most}",
                code="bad-count",
                hint="--n are the examples that decide, --seeds how many seeds",
            )


def _share_of(text: str | None) -> Fraction | None:
    """Return `--margin 2.5` as a share, exactly; None for None. Raises UsageError (bad-share, bad-margin)."""
    from gradience.reports.base.exact import as_written, share_of_points

    try:
        return None if text is None else share_of_points(as_written(text))
    except ValueError as error:
        raise _not_a_share("--margin", str(error)) from None


def _stated(discordances: list[float], spreads: list[float]) -> Assumptions | None:
    """Return what the options say of a variant; None where they say nothing."""
    from gradience.bench.plan.power import stated

    for discordance in discordances:
        if not 0 < discordance <= 1:
            raise _not_a_share("--discordance", f"{discordance} is not between 0 and 1")
    for spread in spreads:
        if not 0 <= spread < 1:
            raise _not_a_share("--spread", f"{spread} is not between 0 and 1")
    return stated(discordances, spreads) if discordances or spreads else None


def _not_a_share(option: str, why: str) -> UsageError:
    from gradience.errors import UsageError

    return UsageError(f"{option}: {why}", code="bad-share", hint="2.5 points are 0.025")


def _seen(paths: list[Path]) -> Assumptions:
    """Return what earlier runs have shown of their variants."""
    from gradience.bench.plan.power import seen
    from gradience.bench.verdict.folders import read_results
    from gradience.errors import InputError
    from gradience.files.shared_names import path_text
    from gradience.reports.bench_aggregate import BenchAggregate

    results = [
        result
        for path in paths
        for result in ([BenchAggregate.read(path)] if path.is_file() else read_results([path]))
    ]
    assumed = seen(
        [result for result in results if isinstance(result, BenchAggregate)], ", ".join(map(path_text, paths))
    )
    if not assumed.of:
        raise InputError(
            f"{paths[0]}: no variant has counts there that are evidence",
            code="nothing-seen",
            hint="name a finished run that is no smoke run, or give --discordance",
        )
    return assumed
