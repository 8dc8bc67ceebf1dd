"""The folder of a run -> how far it is. Read-only: the run may go on, or be over, and notices nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.plan.variants import PlannedVariant, StageNode, asked_for, plan_variants, stage_graph
from gradience.bench.run.live import LIVE, Live
from gradience.bench.status.failures import LoggedFailure, logged_failures
from gradience.bench.verdict.facts import AUDIT, CALIBRATION
from gradience.bench.verdict.folders import BENCH, CONFIG, PLAN, folder_of_seed
from gradience.errors import GradienceError, InputError
from gradience.files.digests import DIGESTS
from gradience.models.lock import is_held
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench
from gradience.reports.bench_status import BenchStatus, RunState, SeedStatus, StageStatus, StageWork
from gradience.reports.calibration import Calibration
from gradience.reports.stage import MANIFEST, StageManifest


def look(folder: Path) -> BenchStatus:
    """Return how far the run in `folder` is.

    Raises InputError (`run-not-found`) for a folder without a plan, and what cannot be read of plan and config.
    """
    if not (folder / PLAN).is_file():
        raise InputError(
            f"{folder}: no run of Bench: there is no {PLAN} in it",
            code="run-not-found",
            hint="give the folder that `gradience bench run --output` names",
        )
    config = load_config(folder / CONFIG)
    places = dict.fromkeys(
        [folder, *(folder_of_seed(folder, config.seeds, seed) for seed in config.seeds)]
    )  # a run of `--only-seed` holds the folder of its seed
    lives = [live for live in map(_live, places) if live is not None]
    work = {(each.seed, each.name): each for live in lives for each in live.begun}
    seeds = tuple(_seed(folder, config, seed, work) for seed in config.seeds)
    newest = max(lives, key=lambda live: live.process.since, default=None)
    return BenchStatus(
        run=folder.resolve().name,
        looked=datetime.now(UTC),
        state=_state(folder, seeds, goes_on=newest is not None),
        executor=config.runtime.executor if newest is None else newest.executor,
        process=None if newest is None else newest.process,
        seeds=seeds,
    )


def _live(folder: Path) -> Live | None:
    """What the process says that runs here; None if none does."""
    if is_held(folder):
        with suppress(InputError, OSError, ValidationError):  # a run that ends meanwhile removes it
            return Live.model_validate_json(read_file(folder / LIVE, MAX_SETTINGS_BYTES))
    return None


def _state(folder: Path, seeds: Sequence[SeedStatus], *, goes_on: bool) -> RunState:
    if goes_on:
        return "going on"
    is_finished = all(seed.result is not None for seed in seeds) and (folder / DIGESTS).is_file()
    return "finished" if is_finished else "stopped"


def _seed(
    folder: Path, config: BenchConfig, seed: int, work: Mapping[tuple[int, str], StageWork]
) -> SeedStatus:
    here = folder_of_seed(folder, config.seeds, seed)
    bench = Bench.read(here / BENCH) if (here / BENCH).is_file() else None
    logged = logged_failures(here)
    stages, failed = list[StageStatus](), list[str]()
    for node in _graph(here, config, seed):
        stage = _stage(here, node, work.get((seed, node.name)), logged, failed)
        failed += [node.name] if stage.state == "failed" else []
        if bench is None or stage.state != "waiting":  # a seed with a result waits for nothing
            stages.append(stage)
    return SeedStatus(seed=seed, result=None if bench is None else bench.status, stages=tuple(stages))


def _graph(here: Path, config: BenchConfig, seed: int) -> tuple[StageNode, ...]:
    return stage_graph(_variants(here, config, seed), config)


def _variants(here: Path, config: BenchConfig, seed: int) -> Sequence[PlannedVariant]:
    """The variants that are made; before the audit all that are asked for, some of which may prove to be the same."""
    with suppress(GradienceError, OSError):  # not there yet, or being written
        audit = AuditReport.read(here / "audit" / AUDIT)
        file = here / "calibration" / CALIBRATION
        calibration = Calibration.read(file) if file.is_file() else None
        planned = plan_variants(audit, config, seed, calibration=calibration)
        return [variant for variant in planned if not variant.skipped and variant.same_as is None]
    return asked_for(config.compression)


def _stage(
    here: Path,
    node: StageNode,
    work: StageWork | None,
    logged: Mapping[str, LoggedFailure],
    failed: Sequence[str],
) -> StageStatus:
    file = here / node.name / MANIFEST
    with suppress(GradienceError):  # a damaged one: the run will make the stage again
        if file.is_file():
            return StageStatus(name=node.name, state="done", seconds=StageManifest.read(file).seconds)
    entry = logged.get(node.name.rpartition("/")[0] or node.name)
    is_first = not any(name in failed for name in node.after)  # the first that is not done is what failed
    if entry is not None and is_first and (work is None or entry.moment >= work.since):
        return StageStatus(name=node.name, state="failed", message=entry.message, log=entry.lines)
    if work is not None:
        running = StageWork(since=work.since, done=work.done, of=work.of)
        return StageStatus(name=node.name, state="running", work=running)
    return StageStatus(name=node.name, state="waiting")
