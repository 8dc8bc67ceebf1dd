"""`digests.json`: every file of a Bench run with its sha256. Its own sha256, the root, stands for the whole folder."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.artifacts.base import Artifact

DIGESTS = "digests.json"


class Digests(Artifact):
    """The files of a run as they were when it was done. The same files give the same bytes."""

    repair: ClassVar[str] = (
        "make it again: gradience bench run with the same --config and --output, which uses the finished stages"
    )

    schema_: Literal["gradience.digests/1"] = Field(default="gradience.digests/1", alias="schema")
    files: dict[str, str]
    """Path inside the folder -> sha256. Not listed: this file, attestations, signatures, and names that begin with a
    dot (locks, temporaries)."""
