"""`runtime.executor: ray`: a stage is a task of Ray Core on the cluster that RAY_ADDRESS names, or on this machine.

This process makes no stage. It collects the finished stages of each seed (`DueStages`), submits the stages whose inputs
are finished, and repeats this when a task has ended, until every seed has its facts. A task receives its inputs as Ray
objects and returns the folder of its stage, so the machines share no file system. Ray places the tasks, starts them
again when a worker or a node is lost, and cancels them. A run that was killed continues with the finished stages,
wherever they were made.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradience.adapters.locate import WEIGHTS
from gradience.bench.config import BenchConfig
from gradience.bench.plan import GUARDS, PROBE
from gradience.bench.run.seed import LOG, MadeElsewhere, SeedRun, logged
from gradience.bench.run.stages import Make, NotDone, Stages, mark_begun, stage_key, write_failure
from gradience.bench.verdict.aggregate import folder_of_seed
from gradience.bench.verdict.facts import SeedFacts
from gradience.digests import sha256_file
from gradience.errors import InputError, NetworkError, require
from gradience.evaluate.engines.vllm.engine import BATCH_INVARIANT, PYTHON
from gradience.files.shared_names import plain_name, sentence_text
from gradience.files.whole import write_errors
from gradience.models.load import threads
from gradience.progress import Watcher
from gradience.reports.training import MANIFEST, StageManifest
from gradience.tasks.base import Task, rendered
from gradience.tasks.user_code import ALLOW

logger = logging.getLogger("gradience.bench")
RETRIES = 5
"""Times that Ray starts a task again whose worker or node was lost."""
POLL_SECONDS = 2.0
"""Seconds between two polls of the cluster's head."""
PATIENCE = 20.0
"""Seconds without a reply until the head counts as lost. After 60, Ray would kill this process without our message."""
PIECE = 64 * 2**20
"""Bytes of a file per Ray object, so that this process holds no second copy of an adapter."""
CARRIED = (ALLOW, PYTHON, BATCH_INVARIANT)
"""Environment variables that affect a stage; each task gets those of this process."""

Files = list[tuple[str, np.ndarray[Any, np.dtype[np.uint8]]]]
"""Pieces of files of a stage's folder, in order: name inside the folder, bytes."""


# ---------------------------------------------------------------- due stages, and one requested stage


@dataclass(frozen=True, slots=True)
class StageOrder:
    """One stage to make, on any machine with the same base and data. It contains no code and allows none."""

    config: Mapping[str, Any]
    """Config of the run with all its defaults and absolute paths."""
    plan: str
    """Digest of plan.json."""
    seed: int
    stage: str
    """Such as `uniform_median/train`."""
    key: str
    """Expected key of the stage."""
    inputs: tuple[str, ...]
    """Finished stages that it reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueStages(Stages):
    """Makes no stage: an unfinished stage is due, unless it has failed."""

    failed: Mapping[str, Exception]
    """Stages of this seed that failed since the run began, and why."""
    passed: list[str] = field(default_factory=list)
    """Finished stages found so far."""

    def done(self, name: str, depends: Mapping[str, Any], make: Make, **how: Any) -> Path:
        """Return the folder of a finished stage. Raises NotDone, or the error that ended the stage elsewhere."""
        folder, key = self.folder / name, stage_key(name, depends)
        if self.is_done(name, folder, key):
            self.passed.append(name)
            return folder
        if name in self.failed:
            raise self.failed[name]
        raise NotDone(name, key, tuple(dict.fromkeys(self.passed)))


class StageEnded(BaseException):
    """Raised when the requested stage has finished or failed. Not an Exception, so that error handling does not catch
    it."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStage(Stages):
    """Runs only the requested stage."""

    order: StageOrder

    def done(self, name: str, depends: Mapping[str, Any], make: Make, **how: Any) -> Path:
        """Return the folder of a finished stage. Raises NotDone, and StageEnded after the requested stage."""
        folder, key, error = self.folder / name, stage_key(name, depends), None
        if name != self.order.stage and self.is_done(name, folder, key):
            return folder
        if name not in (self.order.stage, *self.order.inputs):
            raise NotDone(name, key)
        if name in self.order.inputs or key != self.order.key:
            raise StageEnded(_differs(name))
        try:
            Stages.done(self, name, depends, make, **how)
        except Exception as failed:  # noqa: BLE001  (the boundary of a stage: its error goes to the run's process)
            error = failed
        raise StageEnded(error)


def make_stage(order: StageOrder, folder: Path) -> None:
    """Run the requested stage in its seed's folder, which holds the inputs. Raises what ended it."""
    config = BenchConfig.model_validate(order.config)
    task = rendered(config.task.load(), config.model)
    with threads(config.runtime.threads):
        stages = partial(OneStage, order=order)
        run = SeedRun(config, task, order.seed, folder, plan=order.plan, stages=stages)
        try:
            run.collect()
        except StageEnded as ended:
            if isinstance(ended.error, MadeElsewhere):
                raise _mixed(ended.error) from None
            if ended.error is not None:
                raise ended.error from None
            return
        finally:
            run.evaluator.close()
    raise _differs(order.stage)


def _differs(name: str) -> InputError:
    return InputError(
        f"{name}: data, base or adapter on the machine {socket.gethostname()} differ from those of the process that"
        " started the run",
        code="stage-differs",
        hint="give all machines the same files, versions and settings",
    )


def _mixed(error: MadeElsewhere) -> InputError:
    return InputError(
        f"earlier answers of this seed, which are compared with these, come from a different machine: {error}",
        code="machines-differ",
        hint="run on machines of one kind, or delete the earlier evaluations to repeat them",
    )


# ---------------------------------------------------------------- the run


def run_on_ray(
    config: BenchConfig,
    task: Task,
    plan: str,
    output: Path,
    watcher: Watcher,
) -> dict[int, SeedFacts]:
    """Run the seeds of `config` as tasks of Ray, and return the facts of each, including failures.

    Raises MissingExtra without Ray, NetworkError (`ray-lost`), and what cannot be written.
    """
    runs, failed = dict[int, SeedRun](), dict[int, dict[str, Exception]]()
    for seed in config.due:
        folder, failed[seed] = folder_of_seed(output, config.seeds, seed), {}
        stages = partial(DueStages, failed=failed[seed])
        runs[seed] = SeedRun(config, task, seed, folder, plan=plan, stages=stages)
    whole, known = _whole(config), dict[int, SeedFacts]()
    at_work, submitted = set[tuple[int, str]](), 0
    with closing(OnRay(config.runtime.device, torch.get_num_threads())) as workers:
        while True:
            for number, (seed, run) in enumerate(runs.items(), start=1):
                if seed in known:
                    continue
                facts, due = run.collect()
                if not due:
                    known[seed] = facts
                for stage in due:
                    if (seed, stage.stage) in at_work:
                        continue
                    inputs = tuple(_needed(stage.stage, stage.inputs))
                    order = StageOrder(whole, plan, seed, stage.stage, stage.key, inputs)
                    workers.submit(order, run.folder, int(run.needs_base(stage.stage)))
                    mark_begun(run.folder / stage.stage, stage.key)
                    at_work.add((seed, stage.stage))
                    submitted += 1
                    watcher.seed(seed, number, len(runs))
                    watcher.stage(stage.stage, submitted, None)
            if len(known) == len(runs):
                return known
            order, error = workers.ended()
            at_work.remove((order.seed, order.stage))
            if error is not None:
                failed[order.seed][order.stage] = error
                why = sentence_text(str(error).partition("\n")[0])
                watcher.note(f"{order.stage}: failed: {why}")
                lines = "".join(traceback.format_exception(error)).splitlines()
                write_failure(runs[order.seed].folder / order.stage, lines)
                with logged(runs[order.seed].folder / LOG):
                    logger.error("seed %d: %s failed\n%s", order.seed, order.stage, "\n".join(lines))


def _whole(config: BenchConfig) -> dict[str, Any]:
    """Return the config with all defaults, absolute paths, and the settings that must be equal on every
    machine.

    Threads: this machine's number, since Ray's tasks and torchrun's processes would use one. Device: only its
    kind, since a process sees its assigned GPU as the first.
    """
    values = config.model_dump(mode="json")
    values["runtime"]["threads"] = torch.get_num_threads()
    values["runtime"]["device"] = config.runtime.device.partition(":")[0]
    for name, section in (("task", config.task), ("model", config.model)):
        values[name]["folder"] = str(Path(section.folder or "").resolve())
    return values


class OnRay:
    """Makes stages as tasks of Ray."""

    def __init__(self, device: str, threads: int) -> None:
        self.ray: Any = require("ray", extra="ray")
        self.threads = threads
        self.tasks: dict[Any, tuple[StageOrder, Path, Any]] = {}
        """Reference of a task's first result -> its order, the folder of its seed, the reference of its weights."""
        self.objects: dict[tuple[int, str], tuple[list[Any], list[Any]]] = {}
        """Seed and stage -> references of its weights, and of its other files."""
        self.lost = False
        """True once the cluster is lost, so that nothing can be canceled."""
        self.joined = not self.ray.is_initialized()
        if self.joined:
            # RAY_ADDRESS, else the cluster last started on this machine, else one that ends with this process.
            self.ray.init(log_to_driver=False, configure_logging=False)
        # a process for each task: it gives back its memory, and the GPU's
        self.run: Any = self.ray.remote(num_returns=2, max_retries=RETRIES, max_calls=1)(run_stage)
        self.head: str = self.ray.get_runtime_context().gcs_address
        self.heard: float | None = None
        """Time of the head's last response; None if it never responded (for example behind a proxy), which
        proves nothing.
        """
        self.nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        self.has_gpus = device not in ("cpu", "mps") and self._most("GPU") > 0

    def submit(self, order: StageOrder, folder: Path, gpus: int) -> None:
        """Submit the stage to Ray. gpus: number that it needs on a machine that has some."""
        cores = 1 if self.has_gpus else max(1, min(self.threads, self._most("CPU")))
        gpus = gpus if self.has_gpus else 0
        task = self.run.options(name=f"{order.seed}/{order.stage}", num_cpus=cores, num_gpus=gpus)
        environment = {name: os.environ[name] for name in CARRIED if name in os.environ}
        inputs = [(stage, ref) for stage in order.inputs for ref in self._objects(order, folder, stage)]
        stages, objects = [stage for stage, _ in inputs], [ref for _, ref in inputs]
        files, weights = task.remote(order, environment, stages, *objects)
        self.tasks[files] = order, folder, weights

    def ended(self) -> tuple[StageOrder, Exception | None]:
        """Wait until a stage has ended, and return it with its error. Raises NetworkError (`ray-lost`)."""
        while True:
            ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=POLL_SECONDS)
            self._listen()
            if ready:
                return self._ended(ready[0], *self.tasks.pop(ready[0]))

    def close(self) -> None:
        """Cancel the running tasks, and leave the cluster."""
        for reference in () if self.lost else self.tasks:
            self.ray.cancel(reference, force=True)
        if self.joined:
            self.ray.shutdown()

    def _objects(self, order: StageOrder, folder: Path, stage: str) -> list[Any]:
        """Return references of an input's files: its task's results, or copies put from the run's folder."""
        if (order.seed, stage) not in self.objects:
            here = folder / stage
            put = [[self.ray.put(piece) for piece in _pieces(here, names)] for names in _names(here)]
            self.objects[order.seed, stage] = put[0], put[1]
        files, weights = self.objects[order.seed, stage]
        is_retrained = order.stage.endswith("/train")  # only from the audit
        return files if is_retrained else [*weights, *files]

    def _ended(
        self, files: Any, order: StageOrder, folder: Path, weights: Any
    ) -> tuple[StageOrder, Exception | None]:
        errors = self.ray.exceptions
        here = folder / order.stage
        try:
            content = [*self.ray.get(weights), *self.ray.get(files)]  # the manifest is the last of them
        except errors.LocalRayletDiedError:
            raise self._gone("Ray's process on this machine (the raylet) has ended") from None
        except errors.RayTaskError as failed:
            failed.cause.__cause__ = failed.with_traceback(None)  # its text is the other process's traceback
            return order, failed.cause
        except errors.RayError as lost:  # a lost process, node or object; out of memory
            return order, lost.with_traceback(None)
        with write_errors(here):
            shutil.rmtree(here, ignore_errors=True)
            _unpack(here, content)
        self.objects[order.seed, order.stage] = [files], [weights]
        variant, _, kind = order.stage.rpartition("/")
        if kind == "eval" and variant != PROBE:  # no later stage depends on it
            for made_of in ("train", "adapter", "eval"):
                self.objects.pop((order.seed, f"{variant}/{made_of}"), None)
        return order, None

    def _listen(self) -> None:
        """Poll the head. After a long silence the cluster counts as lost."""
        host, _, port = self.head.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=POLL_SECONDS).close()
        except OSError as error:
            if self.heard is not None and time.monotonic() - self.heard > PATIENCE:
                raise self._gone(f"its head does not answer: {error.strerror or error}") from None
            return
        self.heard = time.monotonic()

    def _gone(self, why: str) -> NetworkError:
        self.lost = True
        return NetworkError(
            f"the Ray cluster at {self.head} is lost: {why}",
            code="ray-lost",
            hint="restart the cluster and run the same command: finished stages are kept",
        )

    def _most(self, resource: str) -> int:
        """Return the largest amount of a resource on one node."""
        return int(max((node.get(resource, 0) for node in self.nodes), default=0))


def run_stage(
    order: StageOrder, environment: Mapping[str, str], stages: Sequence[str], *inputs: Files
) -> tuple[Files, Files]:
    """Make a stage in a folder for temporary files, from inputs: pieces of the files of `stages`.

    Returns its files other than weights, and its weights.
    """
    os.environ.update(environment)
    with tempfile.TemporaryDirectory(prefix="gradience-") as place:
        folder = Path(place)
        for stage in dict.fromkeys(stages):
            pieces = [files for name, files in zip(stages, inputs, strict=True) if name == stage]
            _unpack(folder / stage, chain.from_iterable(pieces))
        make_stage(order, folder)
        return packed(folder / order.stage)


def packed(folder: Path) -> tuple[Files, Files]:
    """Return the files of a finished stage other than weights, the manifest last, and its weights."""
    files, weights = ([(name, _mapped(folder / name)) for name in names] for names in _names(folder))
    return files, weights


def _needed(stage: str, finished: Sequence[str]) -> Iterator[str]:
    """Yield the finished stages that a stage reads: those of the probe, the base and the same variant; for a guard,
    all."""
    variant = stage.rpartition("/")[0]
    for name in finished:
        if variant == GUARDS or name.rpartition("/")[0] in ("", PROBE, "base", variant):
            yield name


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a finished stage: other files with the manifest last, and the weights that were kept."""
    files = [name for name in StageManifest.read(folder / MANIFEST).files if (folder / name).is_file()]
    weights = [name for name in files if name.endswith(WEIGHTS)]
    return [*(name for name in files if name not in weights), MANIFEST], weights


def _pieces(folder: Path, names: Iterable[str]) -> Iterator[Files]:
    for name in names:
        for at in range(0, (folder / name).stat().st_size or 1, PIECE):
            yield [(name, np.fromfile(folder / name, np.uint8, PIECE, offset=at))]


def _mapped(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a file, which are read when Ray copies them. They outlive the file's name."""
    return np.memmap(path, np.uint8, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, np.uint8)


def _unpack(folder: Path, files: Iterable[tuple[str, np.ndarray[Any, np.dtype[np.uint8]]]]) -> None:
    """Write the files of a stage. Raises InputError (`stage-damaged`) if they differ from its manifest."""
    for name, content in files:
        path = folder / plain_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(content.data)
    for name, known in StageManifest.read(folder / MANIFEST).files.items():
        path = folder / name
        if not path.is_file():  # weights that are not needed, or not kept
            continue
        if sha256_file(path) != known.sha256:
            raise InputError(
                f"{path}: changed during the transfer",
                code="stage-damaged",
                hint="run the same command again: finished stages are kept",
            )
        if known.mtime_ns is not None:  # so that it is not hashed again
            os.utime(path, ns=(known.mtime_ns, known.mtime_ns))
