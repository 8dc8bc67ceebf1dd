"""`spec.json`: one stage of Bench, as a process anywhere can do it: `python -m gradience.bench.stage spec.json`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gradience.artifacts.base import Artifact, Float12, Part


class StageNeeds(Part):
    """What a stage takes of a machine."""

    gpus: int = 0
    cpus: int = 1
    """Threads of the processor, which count where no GPU computes."""
    memory_bytes: int | None = None
    """By the forecast, of the GPU, or where none computes of the process; null where nothing could be computed."""
    minutes: Float12 | None = None
    """By the forecast for an H100, or where none computes for the processor that the run was started on; null where
    nothing could be computed. An estimate: a limit on the time is several of it."""


class StageSpec(Artifact):
    """A stage, the finished stages it builds on, and where all of them lie. It allows no code to run."""

    schema_: Literal["gradience.stage_spec/1"] = Field(default="gradience.stage_spec/1", alias="schema")
    stage: str
    """Such as `uniform_median/train`."""
    seed: int
    key: str
    """What the stage's manifest will say: sha256 over everything that it depends on."""
    inputs: dict[str, str]
    """Finished stages of the seed -> sha256 of their manifests, which list every file with its own."""
    plan_digest: str
    config: dict[str, Any]
    """Of the run, with all its defaults and paths from the root."""
    storage: str
    """The folder of the run, which every machine sees under this path; or the address of a storage, `s3://…`."""
    needs: StageNeeds
    heartbeat: Float12
    """Seconds between two signs of life of whoever does the stage."""
    takeover: Float12
    """Seconds without one after which another may do it."""


class StageFailure(Artifact):
    """What ended a stage that was tried: in place of its manifest."""

    schema_: Literal["gradience.stage_failure/1"] = Field(default="gradience.stage_failure/1", alias="schema")
    stage: str
    seed: int
    kind: str
    """Of the exception: the name of its class."""
    message: str
    """In one line."""
    code: str = ""
    """Of an error that a user can act on; empty for any other."""
    hint: str = ""
    host: str = ""
    log: tuple[str, ...] = ()
    """The last lines of its traceback."""
