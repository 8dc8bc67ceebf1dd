"""The verbs of Bench as functions, one for each command of `gradience bench`."""

from pathlib import Path

from gradience.bench import settings as bench_settings
from gradience.errors import require_installed
from gradience.files.digests import write_digests
from gradience.files.whole import already_exists
from gradience.progress import Watcher
from gradience.reports.base.report import save_with_page
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_status import BenchStatus
from gradience.reports.forecast import BenchForecast
from gradience.settings import paths_of, public, required_output


@public(bench_settings.BenchSettings)
def run_bench(settings: bench_settings.BenchSettings) -> Bench | BenchAggregate | BenchForecast:
    """Train and audit adapters, make smaller ones, evaluate them and decide. An interrupted run resumes in `output`.

    >>> run_bench(config="minilm_reviews_demo", output="runs/demo").status  # doctest: +SKIP
    'PASS'

    Returns the aggregate if several seeds are planned, else the result of the one that was run; a dry run returns the
    cost estimate. Keywords, named like the flags of `gradience bench run`:

    Raises UsageError for a wrong setting, no output (`no-output`) and a folder of another run, InputError for
    unreadable inputs, MissingExtra, LockedError while another run writes there, OutputError for disk and memory errors.
    """
    given = [*settings.overrides, *(["run_type=smoke"] if settings.smoke else [])]
    given += [] if settings.only_seed is None else [f"only_seed={settings.only_seed}"]
    config = bench_settings.find_config(str(settings.config))
    from gradience.bench.config import load_config

    loaded = load_config(config, given)
    output = None if settings.dry_run else required_output(settings.output, "DIR")
    require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")
    if output is None:
        from gradience.bench.forecast import forecast

        return forecast(loaded)
    from gradience.bench.run.bench import run_bench as run

    benches, together = run(loaded, output, settings.watcher or Watcher(), command=settings.command)
    return together or benches[-1]


@public(bench_settings.AggregateSettings)
def aggregate(settings: bench_settings.AggregateSettings) -> BenchAggregate:
    """Combine the seeds of one protocol and apply the policy.

    Keywords, named like the flags of `gradience bench aggregate`:

    Raises InputError (`bench-altered`, and for runs that do not belong together), UsageError (`output-exists`).
    """
    require_installed("scipy", extra="stats")
    folders = [bench_settings.existing_folder(folder) for folder in paths_of(settings.folders)]
    from gradience.bench.verdict.aggregate import AGGREGATE, DOCUMENT, PLAN
    from gradience.bench.verify.verify import aggregate_checked

    output = None if settings.output is None else Path(settings.output)
    if output is not None and (output / AGGREGATE).exists() and not settings.force:
        raise already_exists(output / AGGREGATE)
    report = aggregate_checked(folders, command=settings.command)
    if output is None:
        return report
    output.mkdir(parents=True, exist_ok=True)
    save_with_page(report, output / AGGREGATE)
    # a folder of its own holds nothing else that is ours; that of a run is listed as a whole
    write_digests(output, None if (output / PLAN).is_file() else (AGGREGATE, DOCUMENT))
    return report


@public(bench_settings.StatusSettings)
def status(settings: bench_settings.StatusSettings) -> BenchStatus:
    """Read how far a run is: finished, running and failed stages. Changes nothing.

    Keywords, named like the flags of `gradience bench status`:

    Raises InputError (`not-a-run`, `run-not-found`, and what `status.look` raises).
    """
    folder = bench_settings.existing_folder(Path(settings.folder))
    from gradience.bench.status import look

    return look(folder)


@public(bench_settings.ExportSettings)
def export(settings: bench_settings.ExportSettings) -> list[Path]:
    """Export results to Every Eval Ever or the Hugging Face hub, and return the files that were written.

    Keywords, named like the flags of `gradience bench export`:

    Raises InputError (`not-a-run`, and for what cannot be exported), MissingExtra.
    """
    bench_settings.existing_folder(Path(settings.folder))
    require_installed("scipy", extra="stats")
    from gradience.bench.export import export_eee, export_hub
    from gradience.bench.verify.folder import unpacked

    with unpacked(Path(settings.folder)) as folder:
        if settings.to == "eee":
            return export_eee(folder, Path(settings.output))
        return export_hub(folder, Path(settings.output), dataset=settings.dataset)
