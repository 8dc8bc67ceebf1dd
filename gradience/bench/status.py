"""The folder of a run -> its progress. Read-only, so it is safe while the run continues."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gradience.bench.config import BenchConfig, load_config
from gradience.bench.plan import PlannedVariant, asked_for, plan_variants, stage_names
from gradience.bench.verdict.aggregate import BENCH, CONFIG, PLAN, folder_of_seed
from gradience.bench.verdict.facts import AUDIT, BEGUN, CALIBRATION, FAILED
from gradience.bench.verify.folder import RunFolder, unpacked
from gradience.errors import GradienceError, InputError
from gradience.files.digests import DIGESTS
from gradience.files.whole import is_held
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench
from gradience.reports.bench_status import BenchStatus, SeedStatus, StageStatus
from gradience.reports.calibration import Calibration
from gradience.reports.training import MANIFEST, StageManifest


def look(folder: Path) -> BenchStatus:
    """Return how far the run in `folder` is, packed (`everything.tar.xz`) or not.

    Raises InputError (`run-not-found`) for a folder without a plan, `bad-archive`, and what cannot be read of plan and
    config.
    """
    if not (folder / PLAN).is_file():
        raise InputError(
            f"{folder}: not a Bench run: it has no {PLAN}",
            code="run-not-found",
            hint="give the folder passed to `gradience bench run --output`",
        )
    with unpacked(folder) as place:
        is_own = place == folder and (folder / CONFIG).is_file()
        # a published run may have regenerated results, with keys that its config.yaml lacks
        published = RunFolder(place, folder)
        config = load_config(folder / CONFIG) if is_own else published.config(published.plan())
        is_running = is_held(place)
        seeds = tuple(_seed(place, config, seed, is_running=is_running) for seed in config.seeds)
        is_finished = all(seed.result is not None for seed in seeds) and (place / DIGESTS).is_file()
        return BenchStatus(
            run=folder.resolve().name,
            looked=datetime.now(UTC),
            state="going on" if is_running else "finished" if is_finished else "stopped",
            seeds=seeds,
        )


def _seed(folder: Path, config: BenchConfig, seed: int, *, is_running: bool) -> SeedStatus:
    place = folder_of_seed(folder, config.seeds, seed)
    bench = Bench.read(place / BENCH) if (place / BENCH).is_file() else None
    names = stage_names(_variants(place, config, seed), config)
    stages = [_stage(place, name, is_running=is_running) for name in names]
    if bench is not None:  # a seed with a result waits for nothing
        stages = [stage for stage in stages if stage.state != "waiting"]
    return SeedStatus(seed=seed, result=None if bench is None else bench.status, stages=tuple(stages))


def _variants(place: Path, config: BenchConfig, seed: int) -> Sequence[PlannedVariant]:
    """Return the variants that are made; before the audit, all requested variants, and some may coincide."""
    with suppress(GradienceError, OSError):  # not there yet, or being written
        audit = AuditReport.read(place / "audit" / AUDIT)
        file = place / "calibration" / CALIBRATION
        calibration = Calibration.read(file) if file.is_file() else None
        planned = plan_variants(audit, config, seed, calibration=calibration)
        return [variant for variant in planned if not variant.skipped and variant.same_as is None]
    return asked_for(config.compression)


def _stage(place: Path, name: str, *, is_running: bool) -> StageStatus:
    folder = place / name
    with suppress(GradienceError, OSError):  # a damaged one: the run will make the stage again
        if (folder / MANIFEST).is_file():
            seconds = StageManifest.read(folder / MANIFEST).seconds
            return StageStatus(name=name, state="done", seconds=seconds)
        if (folder / FAILED).is_file():
            lines = read_file(folder / FAILED, MAX_SETTINGS_BYTES).decode(errors="replace").splitlines()
            message = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
            return StageStatus(name=name, state="failed", message=message, log=tuple(lines))
        if is_running and (folder / BEGUN).is_file():
            since = datetime.fromtimestamp((folder / BEGUN).stat().st_mtime, UTC)
            return StageStatus(name=name, state="running", since=since)
    return StageStatus(name=name, state="waiting")
