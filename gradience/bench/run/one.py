"""One stage by its spec, in a process of its own: what `python -m gradience.bench.stage spec.json` does."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from gradience.artifacts.stage_spec import StageFailure, StageSpec
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.due import OneStage
from gradience.bench.run.logs import LOG, logged
from gradience.bench.run.places import failure_name, folder_of_seed, is_address, lease_name, place_of
from gradience.bench.run.seed import SeedRun
from gradience.bench.run.shelf import Shelf
from gradience.errors import GradienceError, InputError
from gradience.executors.executor import DONE, FAILED, RETRY
from gradience.models.devices import threads
from gradience.storage.lease import claim
from gradience.storage.place import Place
from gradience.tasks.rendered import rendered

SCRATCH = "GRADIENCE_SCRATCH"
"""Folder of a machine for its work, where the run has a storage. By default below that for temporary files."""


def read_spec(address: str) -> StageSpec:
    """The spec in a file, or at an address of a storage. Raises InputError (`not-found`, `artifact-invalid`)."""
    if not is_address(address):
        return StageSpec.read(address)
    folder, _, name = address.rpartition("/")
    content = Place.at(folder).read(name)
    if content is None:
        raise InputError(f"{address}: no such file", code="not-found", hint="check the address")
    return StageSpec.parse(Path(address), content)


def do_stage(spec: StageSpec, began: float | None = None) -> int:
    """Make the stage, unless it is made, or somebody makes it. Returns 0, 75 or 1, as `executors` means them.

    began: when this process did, by `perf_counter`, where it is there for this stage.
    """
    place = place_of(spec.storage, spec.plan_digest)
    folder = _folder(spec)
    shelf = Shelf(place, folder, spec.seed) if is_address(spec.storage) else None
    lease = claim(place, lease_name(spec.seed, spec.stage), heartbeat=spec.heartbeat, takeover=spec.takeover)
    if lease is None:
        return RETRY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        code, failure = _made(spec, folder, shelf, began)
        if failure is not None:
            place.write(failure_name(spec.seed, spec.stage), failure.to_json().encode())
        return code
    finally:
        lease.release()


def _made(
    spec: StageSpec, folder: Path, shelf: Shelf | None, began: float | None
) -> tuple[int, StageFailure | None]:
    config = _config_of(spec)
    task = rendered(config.task.load(), config.model)
    make = partial(
        OneStage,
        wanted=spec.stage,
        key=spec.key,
        inputs=spec.inputs,
        seed=spec.seed,
        shelf=shelf,
        process_began=began,
    )
    with threads(config.runtime.threads), logged(folder / LOG):
        run = SeedRun(config, task, spec.seed, folder, plan=spec.plan_digest, stages=make)
        stages = run.stages
        assert isinstance(stages, OneStage)
        try:
            run.walk()
        except GradienceError:
            if not stages.failures:
                raise
        finally:
            run.evaluator.close()
    if stages.failures:
        return FAILED, stages.failures[0]
    return (DONE if stages.is_made else RETRY), None


def _config_of(spec: StageSpec) -> BenchConfig:
    try:
        return BenchConfig.model_validate(spec.config)
    except ValidationError as error:
        raise InputError(
            f"the config of the spec is not one: {error.errors()[0]['msg']}",
            code="artifact-invalid",
            hint="run the same version of Gradience on all machines",
        ) from None


def _folder(spec: StageSpec) -> Path:
    """Where this machine has the stages of the seed."""
    if not is_address(spec.storage):
        return folder_of_seed(Path(spec.storage), spec.config["seeds"], spec.seed)
    scratch = os.environ.get(SCRATCH) or tempfile.gettempdir()
    return Path(scratch) / f"gradience-{spec.plan_digest[:16]}" / f"seed_{spec.seed}"
