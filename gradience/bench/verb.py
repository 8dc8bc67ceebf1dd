"""The verbs of Bench as functions, one for each command of `gradience bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gradience.bench.config.shipped import find_config
from gradience.bench.settings import (
    AggregateSettings,
    BenchSettings,
    ExportSettings,
    PowerSettings,
    StatusSettings,
    VerifySettings,
    existing_folder,
    not_a_share,
)
from gradience.errors import InputError, UsageError, require_installed
from gradience.files.digests import write_digests
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists
from gradience.progress import Watcher
from gradience.reports.base.exact import as_written, share_of_points
from gradience.reports.base.report import save_with_page
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_status import BenchStatus
from gradience.reports.forecast import BenchForecast
from gradience.reports.power import PowerReport
from gradience.reports.verification import Verification
from gradience.settings import paths_of, public, required_output
from gradience.tasks.user_code import allowing

if TYPE_CHECKING:  # they are imported only once the arguments are known to be right
    from gradience.bench.plan.power import Assumptions

MOST_EXAMPLES, MOST_SEEDS, DEFAULT_SEEDS = 1_000_000, 100, 3


@public(BenchSettings)
def run_bench(settings: BenchSettings) -> Bench | BenchAggregate | BenchForecast:
    """Train, audit, make smaller adapters, evaluate them and decide, as a config says; resume what is in `output`.

    >>> run_bench(config="minilm_reviews_demo", output="runs/demo").status  # doctest: +SKIP
    'PASS'

    Returns the aggregate if several seeds are planned and none is missing, else the result of the last one that was
    run; a dry run returns what the run needs. The keywords are the flags of `gradience bench run`:

    Raises UsageError for a wrong setting, no output (`no-output`) and a folder of another run, InputError for what
    cannot be read, MissingExtra, LockedError while another run writes there, OutputError when disk or memory refuse.
    """
    given = [*settings.overrides, *(["run_type=smoke"] if settings.smoke else [])]
    given += [] if settings.only_seed is None else [f"only_seed={settings.only_seed}"]
    config = find_config(str(settings.config))
    from gradience.bench.config.load import load_config

    loaded = load_config(config, given)
    if settings.note is not None:
        for note in loaded.notes:
            settings.note(note)
    output = None if settings.dry_run else required_output(settings.output, "DIR")
    require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")
    if output is None:
        from gradience.bench.plan.forecast import forecast

        return forecast(loaded)
    from gradience.bench.run.bench import run_bench as run

    benches, together = run(loaded, output, settings.watcher or Watcher(), command=settings.command)
    if together is None or any(row.source is None for row in together.seeds):
        return benches[-1]
    return together


@public(VerifySettings)
def verify(settings: VerifySettings) -> Verification:
    """Verify a finished run: digests, scores of the stored answers, counts, verdicts, aggregate and pages.

    >>> verify("runs/mine").verdict  # doctest: +SKIP
    'consistent'

    Needs no model unless answers are regenerated. The keywords are the flags of `gradience verify`:

    Raises InputError (`not-a-run`, `nothing-to-verify`) if there is nothing that could be verified.
    """
    folder = existing_folder(Path(settings.folder))
    from gradience.bench.verify.verify import verify_run

    with allowing(settings.allow_code):
        return verify_run(
            folder,
            root=settings.root,
            plan=settings.plan,
            data=settings.data,
            regenerate=settings.regenerate,
            sample_seed=settings.sample_seed,
            command=settings.command,
        )


class Aggregated(NamedTuple):
    """An aggregate, and the digest of the folder that it was written to."""

    report: BenchAggregate
    root: str | None


@public(AggregateSettings)
def aggregate(settings: AggregateSettings) -> Aggregated:
    """Combine the seeds of one protocol and apply the safety policy.

    The keywords are the flags of `gradience bench aggregate`:

    Raises InputError (`bench-altered`, and for runs that do not belong together), UsageError (`output-exists`).
    """
    require_installed("scipy", extra="stats")
    folders = [existing_folder(folder) for folder in paths_of(settings.folders)]
    from gradience.bench.verdict.folders import AGGREGATE, DOCUMENT, PLAN
    from gradience.bench.verify.verify import aggregate_checked

    output = None if settings.output is None else Path(settings.output)
    if output is not None and (output / AGGREGATE).exists() and not settings.force:
        raise already_exists(output / AGGREGATE)
    report = aggregate_checked(folders, command=settings.command)
    if output is None:
        return Aggregated(report, None)
    output.mkdir(parents=True, exist_ok=True)
    save_with_page(report, output / AGGREGATE)
    # a folder of its own holds nothing else that is ours; that of a run is listed as a whole
    return Aggregated(
        report, write_digests(output, None if (output / PLAN).is_file() else (AGGREGATE, DOCUMENT))
    )


@public(StatusSettings)
def status(settings: StatusSettings) -> BenchStatus:
    """Read how far a run is: finished, running and failed stages. Changes nothing.

    The keywords are the flags of `gradience bench status`:

    Raises InputError (`not-a-run`, `run-not-found`, and what `status.look` raises).
    """
    folder = existing_folder(Path(settings.folder))
    from gradience.bench.status import look

    return look(folder)


@public(ExportSettings)
def export(settings: ExportSettings) -> list[Path]:
    """Export results to Every Eval Ever or the Hugging Face hub, and return the files that were written.

    The keywords are the flags of `gradience bench export`:

    Raises InputError (`not-a-run`, and for what cannot be exported), MissingExtra.
    """
    existing_folder(Path(settings.folder))
    require_installed("scipy", extra="stats")
    from gradience.bench.export import export_eee, export_hub
    from gradience.bench.verify.packed import unpacked

    with unpacked(Path(settings.folder)) as folder:
        if settings.to == "eee":
            return export_eee(folder, Path(settings.output))
        return export_hub(folder, Path(settings.output), dataset=settings.dataset)


@public(PowerSettings)
def power_of_a_budget(settings: PowerSettings) -> PowerReport:
    """Compute what a budget of examples and seeds can show, and what it takes to show more.

    The keywords are the flags of `gradience bench power`:

    Raises UsageError (`no-budget`, `bad-count`, `bad-share`), InputError (`nothing-seen`), MissingExtra.
    """
    require_installed("scipy", extra="stats")
    n, seeds = settings.n, settings.seeds
    margin = None if settings.margin is None else share_of_points(as_written(settings.margin))
    if settings.config is None and n is None:
        raise UsageError("no budget given", code="no-budget", hint="give --config CONFIG, or --n and --seeds")
    if settings.config is None and settings.overrides:
        raise UsageError(
            f"{settings.overrides[0]}: no config to override",
            code="no-budget",
            hint="give --config CONFIG",
        )
    if settings.earlier and (settings.discordance or settings.spread):
        raise UsageError(
            "give only one of --from and --discordance",
            code="no-budget",
            hint="--from takes discordance and spread from an earlier run",
        )
    for option, number, least, most in (("--n", n, 2, MOST_EXAMPLES), ("--seeds", seeds, 1, MOST_SEEDS)):
        if number is not None and not least <= number <= most:
            raise UsageError(
                f"{option}: {number} is not between {least} and {most}",
                code="bad-count",
                hint="--n is the number of test examples, --seeds the number of seeds",
            )
    from gradience.bench.config.load import load_config
    from gradience.bench.plan.power import plausible, report_of_numbers

    assumed = _assumed(settings)
    if settings.config is None:
        return report_of_numbers(n or 0, seeds or DEFAULT_SEEDS, margin, assumed or plausible())
    config = load_config(find_config(str(settings.config)), settings.overrides)
    if settings.note is not None:
        for note in config.notes:
            settings.note(note)
    require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")
    from gradience.bench.plan.forecast import report_of_config

    return report_of_config(config, assumed, n=n, seeds=seeds, margin=margin)


def _assumed(settings: PowerSettings) -> Assumptions | None:
    """Return what the settings or earlier runs say of a variant; None if they say nothing."""
    from gradience.bench.plan.power import observed, stated
    from gradience.bench.verdict.folders import read_results

    paths = paths_of(settings.earlier)
    if not paths:
        discordances, spreads = settings.discordance, settings.spread
        for discordance in discordances:
            if not 0 < discordance <= 1:
                raise not_a_share("--discordance", f"{discordance} is not between 0 and 1")
        for spread in spreads:
            if not 0 <= spread < 1:
                raise not_a_share("--spread", f"{spread} is not between 0 and 1")
        return stated(discordances, spreads) if discordances or spreads else None
    results = [
        result
        for path in paths
        for result in ([BenchAggregate.read(path)] if path.is_file() else read_results([path]))
    ]
    aggregates = [result for result in results if isinstance(result, BenchAggregate)]
    assumed = observed(aggregates, ", ".join(map(path_text, paths)))
    if not assumed.of:
        raise InputError(
            f"{paths[0]}: no variant has usable counts",
            code="nothing-seen",
            hint="name a finished run that is no smoke run, or give --discordance",
        )
    return assumed
