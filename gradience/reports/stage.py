"""`manifest.json`: the last file of a finished stage of Bench, and therefore the proof that the stage is finished."""

from typing import Literal

from gradience.files.artifact import Artifact, Float12, Part
from gradience.files.shared_names import PlainName

MANIFEST = "manifest.json"


class StageFile(Part):
    """One file of a stage."""

    sha256: str
    bytes: int
    mtime_ns: int | None = None
    """Modification time in nanoseconds: the file is not hashed again while this time and its size are unchanged."""


class StageManifest(Artifact):
    """Inputs and outputs of a stage."""

    schema_: Literal["gradience.stage/1"] = "gradience.stage/1"
    stage: str
    key: str
    """sha256 over the stage's name, its version and everything that it depends on."""
    plan_digest: str | None = None
    """SHA-256 of plan.json, written before the first stage; null outside a planned run."""
    files: dict[PlainName, StageFile]
    """Path inside the stage's folder -> size and digest."""
    seconds: Float12
    """Seconds of the process that finished the stage, excluding earlier interrupted processes."""
    peak_memory_bytes: int | None
    """Peak memory that torch allocated on the GPU during the stage; null on a CPU."""
