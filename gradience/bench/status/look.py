"""The folder of a run -> how far it is. Read-only: the run may go on, or lie there, and notices nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.bench import Bench
from gradience.artifacts.bench_plan import BenchPlan
from gradience.artifacts.bench_status import BenchStatus, RunState, SeedStatus, StageStatus, StageWorker
from gradience.artifacts.calibration import Calibration
from gradience.artifacts.digests import DIGESTS
from gradience.artifacts.stage import MANIFEST, StageManifest
from gradience.artifacts.stage_spec import StageFailure
from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.plan.graph import StageNode, stage_graph
from gradience.bench.plan.preregister import plan_digest
from gradience.bench.plan.variants import PlannedVariant, asked_for, plan_variants
from gradience.bench.run.live import LIVE, Live
from gradience.bench.run.places import SHARED, failure_name, folder_of_seed, lease_name, place_of, spec_name
from gradience.bench.status.failures import LoggedFailure, logged_failures
from gradience.bench.status.left import seconds_left
from gradience.bench.verdict.facts import AUDIT, CALIBRATION
from gradience.bench.verdict.folders import BENCH, CONFIG, PLAN
from gradience.errors import GradienceError, InputError
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.storage.lease import Sighting, is_running, sightings
from gradience.storage.objects import FOLDERS
from gradience.storage.place import Place


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the machines of a run tell each other."""

    place: Place
    names: frozenset[str]
    """Manifests, specs and failures that are there."""
    leases: Mapping[str, Sighting]

    @classmethod
    def of(cls, folder: Path, storage: str | None, digest: str) -> _Shared | None:
        """That of the run in `folder`; None where no other process has made anything of it."""
        if storage is None and not (folder / SHARED).is_dir():
            return None
        place = place_of(storage or str(folder.resolve()), digest)
        names = [name for below in (FOLDERS, "specs", "failures") for name in place.names(below)]
        return cls(place, frozenset(names), sightings(place, "leases"))

    def manifest(self, seed: int, stage: str) -> bytes | None:
        """That of a stage that is finished in the storage."""
        name = f"{FOLDERS}/{seed}/{stage}/{MANIFEST}"
        return self.place.read(name) if name in self.names else None

    def failure(self, seed: int, stage: str) -> StageFailure | None:
        """Why a stage failed, unless it was handed in again since."""
        name, spec = failure_name(seed, stage), spec_name(seed, stage)
        content = self.place.read(name) if name in self.names else None
        failed = None if content is None else self.place.written(name)
        handed = self.place.written(spec) if spec in self.names else None
        if content is None or (failed is not None and handed is not None and handed > failed):
            return None
        return StageFailure.parse(Path(name), content)


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
    plan, config = BenchPlan.read(folder / PLAN), load_config(folder / CONFIG)
    lives = [live for live in map(_live, _folders(folder, config)) if live is not None]
    newest = max((live for live, _ in lives), key=lambda live: live.process.since, default=None)
    storage = config.runtime.storage if newest is None else newest.storage
    shared = _Shared.of(folder, storage, plan_digest(plan))
    now, takeover = datetime.now(UTC), config.runtime.takeover
    seeds, graphs = list[SeedStatus](), dict[int, list[tuple[StageNode, StageStatus]]]()
    for seed in config.seeds:
        status, graphs[seed] = _seed(folder, config, seed, shared, lives, now, takeover)
        seeds.append(status)
    processes = [_worker(Sighting(live.process, written), now) for live, written in lives]
    state = _state(folder, seeds, processes)
    left, why = (
        (0.0, "") if state == "finished" else seconds_left(graphs, _at_once(config, seeds, lives), now)
    )
    return BenchStatus(
        run=folder.resolve().name,
        looked=now,
        state=state,
        executor=config.runtime.executor if newest is None else newest.executor,
        storage=storage,
        process=max(processes, key=lambda each: each.since, default=None),
        seeds=tuple(seeds),
        seconds_left=left,
        left_unknown=why,
    )


def _folders(folder: Path, config: BenchConfig) -> list[Path]:
    """Where processes of the run may say that they are there: that of the run, and each seed's."""
    return list(
        dict.fromkeys([folder, *(folder_of_seed(folder, config.seeds, seed) for seed in config.seeds)])
    )


def _live(folder: Path) -> tuple[Live, datetime] | None:
    file = folder / LIVE
    with suppress(InputError, OSError, ValidationError):  # a run that ends meanwhile removes it
        content = read_file(file, MAX_SETTINGS_BYTES)
        return Live.model_validate_json(content), datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return None


def _worker(sighting: Sighting, now: datetime, takeover: float | None = None) -> StageWorker:
    """takeover: seconds of silence after which nobody is there, where the process itself cannot be looked at."""
    holder, alive = sighting.holder, is_running(sighting.holder)
    if alive is None and takeover is not None:
        alive = (now - sighting.written).total_seconds() <= takeover
    return StageWorker(
        host=holder.host, pid=holder.pid, since=holder.since, seen=sighting.written, alive=alive
    )


def _at_work(live: Live, written: datetime, now: datetime, takeover: float) -> StageWorker:
    """The process of a run that makes its stages by itself, as the maker of the one that it is at."""
    worker = _worker(Sighting(live.process, written), now, takeover)
    return worker.model_copy(update={"since": live.since, "done": live.done, "of": live.of})


# ------------------------------------------------------------ a seed


def _seed(
    folder: Path,
    config: BenchConfig,
    seed: int,
    shared: _Shared | None,
    lives: Sequence[tuple[Live, datetime]],
    now: datetime,
    takeover: float,
) -> tuple[SeedStatus, list[tuple[StageNode, StageStatus]]]:
    here = folder_of_seed(folder, config.seeds, seed)
    bench = Bench.read(here / BENCH) if (here / BENCH).is_file() else None
    logged = logged_failures(here)
    at_work = {
        live.stage: _at_work(live, written, now, takeover) for live, written in lives if live.seed == seed
    }
    seen = list[tuple[StageNode, StageStatus]]()
    for node in _graph(here, config, seed):
        stage = (
            _done(here, node.name, seed, shared)
            or _running(node.name, seed, shared, at_work, now, takeover)
            or _failed(node, seed, shared, logged, [each.name for _, each in seen if each.state == "failed"])
            or _waits(node.name, seed, shared, now, takeover)
        )
        if bench is None or stage.state != "waiting":  # a seed with a result waits for nothing
            seen.append((node, stage))
    stages = tuple(stage for _, stage in seen)
    return SeedStatus(seed=seed, result=None if bench is None else bench.status, stages=stages), seen


def _graph(here: Path, config: BenchConfig, seed: int) -> tuple[StageNode, ...]:
    base = config.model.type == "causal_lm" and config.task.probe_gate.above_base is not None
    calibrates = config.compression.calibration is not None
    return stage_graph(_variants(here, config, seed), has_base=base, calibrates=calibrates)


def _variants(here: Path, config: BenchConfig, seed: int) -> Sequence[PlannedVariant]:
    """The variants that are made; before the audit all that are asked for, some of which may prove to be the same."""
    with suppress(GradienceError, OSError):  # not there yet, or being written
        audit = AuditReport.read(here / "audit" / AUDIT)
        file = here / "calibration" / CALIBRATION
        calibration = Calibration.read(file) if file.is_file() else None
        planned = plan_variants(audit, config, seed, calibration=calibration)
        return [variant for variant in planned if not variant.skipped and variant.same_as is None]
    return asked_for(config.compression)


# ------------------------------------------------------------ a stage


def _done(here: Path, stage: str, seed: int, shared: _Shared | None) -> StageStatus | None:
    file = here / stage / MANIFEST
    with suppress(GradienceError):  # a damaged one: the run will make the stage again
        if file.is_file():
            return _finished(StageManifest.read(file))
        content = None if shared is None else shared.manifest(seed, stage)
        if content is not None:
            return _finished(StageManifest.parse(file, content))
    return None


def _finished(manifest: StageManifest) -> StageStatus:
    return StageStatus(
        name=manifest.stage,
        state="done",
        seconds=manifest.seconds,
        starting_seconds=manifest.starting_seconds,
    )


def _running(
    stage: str,
    seed: int,
    shared: _Shared | None,
    at_work: Mapping[str, StageWorker],
    now: datetime,
    takeover: float,
) -> StageStatus | None:
    lease = None if shared is None else shared.leases.get(lease_name(seed, stage))
    if lease is not None:
        worker = _worker(lease, now, takeover)
        return StageStatus(name=stage, state="running", worker=worker) if worker.alive else None
    here = at_work.get(stage)
    return None if here is None or not here.alive else StageStatus(name=stage, state="running", worker=here)


def _failed(
    node: StageNode,
    seed: int,
    shared: _Shared | None,
    logged: Mapping[str, LoggedFailure],
    before: Sequence[str],
) -> StageStatus | None:
    failure = None if shared is None else shared.failure(seed, node.name)
    if failure is not None:
        message = f"{failure.kind}: {failure.message}"
        return StageStatus(name=node.name, state="failed", message=message, log=failure.log)
    entry = logged.get(node.name.rpartition("/")[0] or node.name)
    if entry is None or any(
        name in before for name in node.after
    ):  # the first that is not done is what failed
        return None
    return StageStatus(name=node.name, state="failed", message=entry.message, log=entry.lines)


def _waits(stage: str, seed: int, shared: _Shared | None, now: datetime, takeover: float) -> StageStatus:
    """worker: who had begun it, and is gone."""
    lease = None if shared is None else shared.leases.get(lease_name(seed, stage))
    worker = None if lease is None else _worker(lease, now, takeover)
    return StageStatus(name=stage, state="waiting", worker=worker)


# ------------------------------------------------------------ the run


def _state(folder: Path, seeds: Sequence[SeedStatus], processes: Sequence[StageWorker]) -> RunState:
    stages = [stage for seed in seeds for stage in seed.stages]
    if any(process.alive for process in processes) or any(stage.state == "running" for stage in stages):
        return "going on"
    if all(seed.result is not None for seed in seeds) and (folder / DIGESTS).is_file():
        return "finished"
    return "unknown" if any(process.alive is None for process in processes) else "stopped"


def _at_once(config: BenchConfig, seeds: Sequence[SeedStatus], lives: Sequence[tuple[Live, datetime]]) -> int:
    """As many stages as run now; else as many as the run was told, and one where it was not."""
    running = sum(stage.state == "running" for seed in seeds for stage in seed.stages)
    asked = max((live.workers or 1 for live, _ in lives), default=config.runtime.workers or 1)
    return max(running, asked)
