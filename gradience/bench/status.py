"""The folder of a run -> how far it is. Read-only: the run may go on, or be over, and notices nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.plan.variants import PlannedVariant, StageNode, asked_for, plan_variants, stage_graph
from gradience.bench.run.live import LIVE, LOG, Live
from gradience.bench.verdict.facts import AUDIT, CALIBRATION
from gradience.bench.verdict.folders import BENCH, CONFIG, PLAN, folder_of_seed
from gradience.bench.verify.packed import unpacked
from gradience.errors import GradienceError, InputError
from gradience.files.digests import DIGESTS
from gradience.models.lock import is_held
from gradience.reading import MAX_SETTINGS_BYTES, open_stream, read_file
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench
from gradience.reports.bench_status import BenchStatus, RunState, SeedStatus, StageStatus, StageWork
from gradience.reports.calibration import Calibration
from gradience.reports.stage import MANIFEST, StageManifest

LAST_BYTES = 2**20
"""Bytes read from the end of a log."""
LAST_LINES = 20
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: ")
"""Start of a log record; other lines continue the previous record."""
_FAILED = re.compile(r" ERROR gradience\.bench: seed \d+: (.+) failed$")


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
        config = load_config(folder / CONFIG) if is_own else _config_of_published(place, folder)
        return _look(place, config, folder.resolve().name)


def _config_of_published(place: Path, folder: Path) -> BenchConfig:
    """Return the config of the plan: an older config.yaml may have other keys than the results made again since."""
    from gradience.bench.verify.data import config_of_plan, plan_of

    return config_of_plan(place, folder, plan_of(place))


def _look(folder: Path, config: BenchConfig, name: str) -> BenchStatus:
    # a run of `--only-seed` holds the folder of its seed
    places = [folder, *(folder_of_seed(folder, config.seeds, seed) for seed in config.seeds)]
    running = []
    for place in filter(is_held, dict.fromkeys(places)):
        with suppress(InputError, OSError, ValidationError):  # a run that ends meanwhile removes it
            running.append(Live.model_validate_json(read_file(place / LIVE, MAX_SETTINGS_BYTES)))
    work = {(stage.seed, stage.name): stage for live in running for stage in live.begun}
    seeds = tuple(_seed(folder, config, seed, work) for seed in config.seeds)
    newest = max(running, key=lambda live: live.process.since, default=None)
    is_finished = all(seed.result is not None for seed in seeds) and (folder / DIGESTS).is_file()
    state: RunState = "going on" if newest is not None else "finished" if is_finished else "stopped"
    return BenchStatus(
        run=name,
        looked=datetime.now(UTC),
        state=state,
        executor=config.runtime.executor if newest is None else newest.executor,
        process=None if newest is None else newest.process,
        seeds=seeds,
    )


def _seed(
    folder: Path, config: BenchConfig, seed: int, work: Mapping[tuple[int, str], StageWork]
) -> SeedStatus:
    place = folder_of_seed(folder, config.seeds, seed)
    bench = Bench.read(place / BENCH) if (place / BENCH).is_file() else None
    logged = logged_failures(place)
    stages, failed = list[StageStatus](), list[str]()
    for node in stage_graph(_variants(place, config, seed), config):
        stage = _stage(place, node, work.get((seed, node.name)), logged, failed)
        failed += [node.name] if stage.state == "failed" else []
        if bench is None or stage.state != "waiting":  # a seed with a result waits for nothing
            stages.append(stage)
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


def _stage(
    place: Path,
    node: StageNode,
    work: StageWork | None,
    logged: Mapping[str, LoggedFailure],
    failed: Sequence[str],
) -> StageStatus:
    file = place / node.name / MANIFEST
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


# ---------------------------------------------------------------- failures, by `run.log`


@dataclass(frozen=True, slots=True)
class LoggedFailure:
    """An error with its traceback, as the log has it."""

    moment: datetime
    lines: tuple[str, ...]
    """The last ones of the traceback."""

    @property
    def message(self) -> str:
        """The error itself: the last line that a traceback does not indent."""
        return next((line for line in reversed(self.lines) if line and not line.startswith(" ")), "")


def logged_failures(folder: Path) -> dict[str, LoggedFailure]:
    """Return the last failure of each variant (or `probe`, `calibration`) in the log of a seed."""
    if not (folder / LOG).is_file():
        return {}
    with open_stream(folder / LOG) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LAST_BYTES))
        text = file.read(LAST_BYTES).decode("utf-8", errors="replace")
    failures: dict[str, LoggedFailure] = {}
    name, moment, lines = "", datetime.min, list[str]()
    for line in [*text.splitlines(), None]:
        if line is not None and not _HEAD.match(line):
            lines.append(line)
            continue
        if name:
            failures[name] = LoggedFailure(moment, tuple(lines[-LAST_LINES:]))
        failed = _FAILED.search(line) if line is not None else None
        name, lines = failed[1] if failed else "", []
        if failed and line is not None:
            moment = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone()
    return failures
