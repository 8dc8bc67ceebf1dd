"""`manifest.json`: the last file of a finished stage of Bench, and so the proof that it is finished."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.files.shared_names import PlainName

MANIFEST = "manifest.json"


class StageFile(Part):
    """One file of a stage."""

    sha256: str
    bytes: int
    mtime_ns: int | None = None
    """When it was last changed, in nanoseconds: as long as that and the size are the same, it is not hashed again."""


class StageManifest(Artifact):
    """What a stage was made from, and what it made."""

    schema_: Literal["gradience.stage/1"] = Field(default="gradience.stage/1", alias="schema")
    stage: str
    key: str
    """sha256 over the stage's name, its version and everything that it depends on."""
    plan_digest: str | None = None
    """Of plan.json, which was written before the first stage; null outside a planned run."""
    files: dict[PlainName, StageFile]
    """Path inside the stage's folder -> what it holds."""
    seconds: Float12
    """Of the process that finished it; what an interrupted one had done before is not in it."""
    peak_memory_bytes: int | None
    """On a GPU, what torch had allocated there at most during the stage; on a CPU, the largest resident size of the
    process during it. Null where the system cannot tell one stage from the process so far."""
