"""Folders of runs -> their results, and the aggregate of those that belong together.

`python -m gradience.bench.aggregate DIR… --output DIR` is `gradience bench aggregate`.
"""

from collections.abc import Sequence
from pathlib import Path

from gradience.bench.verdict.aggregate import aggregate
from gradience.errors import InputError
from gradience.files.shared_names import given_text, path_text
from gradience.reports.base.report import RunInfo
from gradience.reports.bench import Bench, BenchAggregate

PLAN, CONFIG = "plan.json", "config.yaml"
BENCH, PAGE = "bench.json", "bench.md"
AGGREGATE, DOCUMENT = "bench_aggregate.json", "bench_aggregate.md"


def folder_of_seed(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Return the folder of a seed in the folder of the run; the same folder if there is one seed."""
    return run if len(seeds) == 1 else run / f"seed_{seed}"


def find_benches(folders: Sequence[Path]) -> list[Path]:
    """Return `DIR/bench.json`, or `DIR/seed_*/bench.json`, of every folder; files are returned unchanged.

    Raises InputError (`bench-not-found`) for a folder without a result, since its seeds would be left out.
    """
    paths: list[Path] = []
    for folder in folders:
        here = folder if folder.is_file() else folder / BENCH
        # `glob` checks that a literal last part exists, so a broken link would count as a seed without a result.
        inside = sorted(path for path in folder.glob("seed_*/*") if path.name == BENCH)
        results = [here] if here.is_file() else inside
        if not results:
            raise InputError(
                f"{folder}: no {BENCH} in it, and none in {folder / 'seed_*'}",
                code="bench-not-found",
                hint="name folders that `gradience bench run` has finished",
            )
        paths += results
    return paths


def benches_of(folder: Path, seeds: Sequence[int]) -> list[Bench]:
    """Return the results of the planned seeds that have one in the run's folder."""
    paths = [folder / f"seed_{seed}" / BENCH for seed in seeds]
    return [Bench.read(path) for path in paths if path.is_file()]


def aggregate_run(benches: Sequence[Bench], run: RunInfo, *, records_verified: bool) -> BenchAggregate:
    """Aggregate the results in the folder of one run; planned seeds that have none are missing."""
    sources = [f"seed_{bench.seed}/{BENCH}" for bench in benches]
    return aggregate(benches, sources, run=run, records_verified=records_verified)


def source_of(path: Path) -> str:
    """Return the name of a result in an aggregate. It includes the folder, since all files have the same name."""
    return f"{path_text(path.parent)}/{path.name}" if path.is_absolute() else given_text(path)
