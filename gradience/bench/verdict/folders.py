"""Folders of runs -> their results, and the aggregate of those that belong together.

`python -m gradience.bench.aggregate DIR… --output DIR` is `gradience bench aggregate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradience.bench.verdict.aggregate import aggregate
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import given_text, path_text
from gradience.reports.base.run import RunInfo, Stopwatch
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan

PLAN, CONFIG = "plan.json", "config.yaml"
BENCH, PAGE = "bench.json", "bench.md"
AGGREGATE, DOCUMENT = "bench_aggregate.json", "bench_aggregate.md"


def folder_of_seed(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Return the folder of a seed in the folder of the run; the same folder if there is one seed."""
    return run if len(seeds) == 1 else run / f"seed_{seed}"


def find_benches(folders: Sequence[Path]) -> list[Path]:
    """Return `DIR/bench.json`, or `DIR/seed_*/bench.json`, of every folder; a file is taken as it is.

    A folder with a plan and without a result has none: its seeds are missing. Raises InputError (bench-not-found) for a
    folder with neither and if no folder has a result, UsageError for no folder at all.
    """
    if not folders:
        raise UsageError("nothing to aggregate", code="bench-not-found", hint="name the folders of the runs")
    paths: list[Path] = []
    for folder in folders:
        here = folder if folder.is_file() else folder / BENCH
        several = sorted(folder.glob(f"seed_*/{BENCH}"))
        if here.is_file():
            paths.append(here)
        elif several:
            paths += several
        elif not (folder / PLAN).is_file():  # else a run that was begun: its seeds are missing
            raise InputError(
                f"{folder}: no {BENCH} in it, and none in {folder / 'seed_*'}",
                code="bench-not-found",
                hint="name folders that `gradience bench run` has finished",
            )
    if not paths:
        raise InputError(
            f"{folders[0]}: no planned seed has a result yet",
            code="bench-not-found",
            hint="finish it with `gradience bench run`",
        )
    return paths


def aggregate_folders(
    folders: Sequence[Path],
    *,
    command: str = "",
    notes: Sequence[str] = (),
    records_verified: bool = False,
) -> BenchAggregate:
    """Read and aggregate the runs in `folders`; notes and records_verified as in `aggregate`.

    Raises what `find_benches`, `Bench.read` and `aggregate` raise.
    """
    watch = Stopwatch(command)
    paths = find_benches(folders)
    benches = [Bench.read(path) for path in paths]
    stopped = [seed for folder in folders for seed in begun(folder, benches)]
    return aggregate(
        benches,
        [_source(path) for path in paths],
        run=watch.run_info(),
        stopped=stopped,
        notes=notes,
        records_verified=records_verified,
    )


def benches_of(folder: Path, seeds: Sequence[int]) -> list[Bench]:
    """Return the results of those of the planned seeds that have one in the folder of their run."""
    paths = [folder / f"seed_{seed}" / BENCH for seed in seeds]
    return [Bench.read(path) for path in paths if path.is_file()]


def aggregate_run(
    folder: Path, benches: Sequence[Bench], run: RunInfo, *, records_verified: bool
) -> BenchAggregate:
    """Aggregate the results in the folder of their run; planned seeds that have none are missing."""
    sources = [f"seed_{bench.seed}/{BENCH}" for bench in benches]
    return aggregate(
        benches, sources, run=run, stopped=begun(folder, benches), records_verified=records_verified
    )


def _source(path: Path) -> str:
    """Name of a result in an aggregate: includes its folder, which distinguishes it."""
    return f"{path_text(path.parent)}/{path.name}" if path.is_absolute() else given_text(path)


def begun(folder: Path, benches: Sequence[Bench]) -> list[int]:
    """Return the seeds whose run in `folder` began and left no result, of those its plan names (else `benches`)."""
    plan = folder / PLAN
    planned = (
        BenchPlan.read(plan).seeds
        if plan.is_file()
        else {seed for run in benches for seed in run.planned_seeds}
    )
    places = {seed: folder / f"seed_{seed}" if len(planned) > 1 else folder for seed in sorted(planned)}
    return [seed for seed, place in places.items() if place.is_dir() and not (place / BENCH).is_file()]


def read_results(folders: Sequence[Path]) -> list[Bench | BenchAggregate]:
    """Return the aggregate of every folder: its file, else made from its seeds; smoke runs as they are.

    Raises what `aggregate_folders` raises.
    """
    results: list[Bench | BenchAggregate] = []
    for folder in folders:
        if (folder / AGGREGATE).is_file():
            results.append(BenchAggregate.read(folder / AGGREGATE))
            continue
        paths = find_benches([folder])
        benches = [Bench.read(path) for path in paths]
        if any(bench.smoke for bench in benches):
            results += benches
        else:
            results.append(aggregate(benches, [_source(path) for path in paths]))
    return results
