"""What `gradience bench verify` tells of a run: what was checked and how far, what disagrees, what nobody could see."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Part
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench import Status

Level = Literal["L1", "L2", "L3"]
"""L1: the folder agrees with itself, from the scored answers to the verdict. L2: the answers were scored again,
from the stored outputs. L3: a sample of the outputs was generated again."""


class VerificationCheck(Part):
    """One thing that was looked at."""

    name: str
    level: Level
    result: Literal["passed", "failed", "not done"]
    what: str
    """What was compared with what, in counts; or why it was not done."""


class VerificationMismatch(Part):
    """One thing that does not agree."""

    file: str
    """Inside the folder."""
    field: str = ""
    """Where in the file: `variants.per_layer.pairs.n10`; empty for the file as a whole."""
    what: str


class DifferingAnswer(Part):
    """An example that was answered otherwise when it was answered again."""

    id: str
    recorded: str
    """The output, or the label or choice by its number."""
    again: str
    recorded_correct: bool
    again_correct: bool


class RegeneratedAnswers(Part):
    """A sample of one evaluation's examples, answered again by its adapter."""

    file: str
    """The records, inside the folder."""
    examples: int
    equal: int
    """Outputs, labels or choices that are exactly those recorded."""
    differing: tuple[DifferingAnswer, ...]
    undecidable: str
    """Why a difference shows nothing (another machine, half precision); empty where it is a mismatch."""


class Verification(Report):
    """`gradience bench verify --json`.

    >>> verification.verified, verification.level
    (True, 'L2')
    """

    row_field: ClassVar[str] = "checks"

    schema_: Literal["gradience.verification/1"] = Field(default="gradience.verification/1", alias="schema")
    folder: str
    verified: bool
    """Whether nothing disagrees."""
    level: Level | None
    """How far it was verified; null where something disagrees."""
    root: str | None
    """sha256 of digests.json; null where there is none."""
    root_expected: str | None
    """What was given with `--root`: without it, whoever edits the folder can make digests.json again."""
    status: Status | None
    """The verdict in the folder's aggregate, or in the result of its one seed."""
    seeds: tuple[int, ...]
    """Whose results were made again."""
    checks: tuple[VerificationCheck, ...]
    mismatches: tuple[VerificationMismatch, ...]
    not_verified: tuple[str, ...]
    """What this verification cannot or did not see, and what would."""
    regenerated: tuple[RegeneratedAnswers, ...] | None = None
    """What was answered again, for each adapter whose weights are there; null without `--regenerate`."""
    run: RunInfo
