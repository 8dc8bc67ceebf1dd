"""What `gradience bench verify` tells of a run: what was checked and how far, what disagrees, what nobody could see."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from gradience.errors import shortened
from gradience.files.artifact import Part
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Role,
    Span,
    items,
    table_of,
)
from gradience.reports.base.numbers import MISSING, count, plural
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

    def blocks(self) -> Document:
        """Return the sections with every mismatch."""
        return verification_blocks(self)

    def screen(self) -> Document:
        """Return the sections with the first mismatches."""
        return verification_blocks(self, SHOWN)

    def without_texts(self) -> Self:
        """Return the report without outputs that were recorded, and those that were made again."""
        mismatches = [
            row.model_copy(update={"what": LEFT_OUT}) if row.file.endswith(RECORDS) else row
            for row in self.mismatches
        ]
        outputs = {"recorded": LEFT_OUT, "again": LEFT_OUT}
        regenerated = []
        for answers in self.regenerated or ():
            differing = tuple(row.model_copy(update=outputs) for row in answers.differing)
            regenerated.append(answers.model_copy(update={"differing": differing}))
        return self.model_copy(update={"mismatches": tuple(mismatches), "regenerated": tuple(regenerated)})


QUOTED = 80
"""Bytes of an answer on a screen."""
SHOWN = 20
"""Mismatches on a screen; Markdown and JSON have all."""
LEFT_OUT = "(left out)"
RECORDS = "records.jsonl"
"""How the name of a file of records ends: what disagrees there may be an answer."""
LEVELS: dict[Level, str] = {
    "L1": "the folder agrees with itself, from the scored answers to the verdict",
    "L2": "the answers were scored again from the stored outputs, and everything follows from them",
    "L3": "a sample of the outputs was generated again, and is the same",
}
ROLES: dict[str, Role] = {"passed": "good", "failed": "bad", "not done": "dim"}


def verification_blocks(report: Verification, most: int | None = None) -> Document:
    """Return the answer, what was checked, what disagrees, and what nobody could see. most: mismatches shown."""
    answer: Inline = Span("Nothing disagrees, and nothing could be made again", "warn")
    if not report.verified:
        answer = Span(f"NOT VERIFIED: {plural(len(report.mismatches), 'mismatch', 'mismatches')}", "bad")
    elif report.level is not None:
        answer = (Span(f"Verified, {report.level}", "good"), f": {LEVELS[report.level]}")
    root = report.root or "none: there is no digests.json"
    if report.root is not None and report.root == (report.root_expected or "").lower():
        root += " (as expected)"
    facts: list[tuple[str, Inline]] = [
        ("verdict in the folder", report.status or MISSING),
        ("seeds made again", ", ".join(map(str, report.seeds)) or "none"),
        ("root", root),
    ]
    heading = Heading((Span("Verification of "), Span(report.folder, "name")), level=1)
    blocks: list[Block] = [heading, Paragraph(answer), Facts(facts)]
    if report.mismatches:
        notes = []
        for mismatch in report.mismatches[:most]:
            field = (": ", Span(mismatch.field, "name")) if mismatch.field else ()
            where = (Span(mismatch.file, "name"), *field)
            notes.append(Note("error", where, [Span(mismatch.what, "name")]))
        blocks += [Heading("Mismatches"), Notes(notes), *_more(len(report.mismatches) - len(notes))]
    if report.regenerated:
        blocks += [Heading("Answered again"), *_regenerated(report.regenerated, most)]
    checks = table_of(
        report.checks,
        (Column("check"), lambda check: check.name),
        (Column("level"), lambda check: check.level),
        (Column("result"), lambda check: Span(check.result, ROLES[check.result])),
        (Column("what", wrap=True), lambda check: Span(check.what, "name")),
    )
    return [
        *blocks,
        Heading("Checks"),
        checks,
        Heading("Not verified"),
        items(report.not_verified),
    ]


def _regenerated(answers: tuple[RegeneratedAnswers, ...], most: int | None) -> list[Block]:
    """Counts for each evaluation, and the differences that are no mismatches: those are named above."""
    table = table_of(
        answers,
        (Column("records", wrap=True), lambda answer: Span(answer.file, "name")),
        (Column("examples", ">"), lambda answer: count(answer.examples)),
        (Column("equal", ">"), lambda answer: count(answer.equal)),
        (Column("differing", ">"), lambda answer: count(len(answer.differing))),
    )
    undecided: list[Inline] = []
    for answer in answers:
        for differing in answer.differing if answer.undecidable else ():
            recorded, again = (shortened(text, QUOTED) for text in (differing.recorded, differing.again))
            was = "correct" if differing.recorded_correct else "wrong"
            now = "correct" if differing.again_correct else "wrong"
            change = f"{recorded!r} ({was}) recorded, {again!r} ({now}) when it is answered again"
            undecided.append((Span(f"{answer.file}, {differing.id}", "name"), ": ", Span(change, "name")))
    blocks: list[Block] = [table]
    if undecided:
        blocks += [items(undecided[:most]), *_more(len(undecided) - len(undecided[:most]))]
    return blocks


def _more(hidden: int) -> list[Block]:
    return [Paragraph(Span(f"… {plural(hidden, 'more')} in --json", "dim"))] if hidden else []
