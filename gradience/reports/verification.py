"""Report of `gradience verify`: verdict, level reached, checks, mismatches, and limits."""

import re
from collections.abc import Iterable
from typing import ClassVar, Literal, Self, TypeVar

from gradience.files.artifact import Part
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import MISSING, count, plural
from gradience.reports.base.report import Report, RunInfo
from gradience.reports.bench import Status
from gradience.words import noun

T = TypeVar("T")

Level = Literal["L1", "L2", "L3"]
"""L1: the folder agrees with itself, from the scored answers to the verdict. L2: the answers were scored again,
from the stored outputs. L3: a sample of the outputs was generated again."""
CheckLevel = Literal["L1", "L2", "data", "L3"]
"""data: compared with the task's own examples, which needs them but no model (`--data`)."""
Verdict = Literal["mismatch", "consistent", "verified"]
"""mismatch: something disagrees. consistent: everything checked agrees, but a careful forger could have made all of it.
verified: also, the folder or its plan has the digest that was given from outside (`--root`, `--plan`)."""


class VerificationCheck(Part):
    """One check."""

    name: str
    level: CheckLevel
    result: Literal["passed", "failed", "not done"]
    what: str
    """Result in counts, or the reason if the check was not done."""


class VerificationMismatch(Part):
    """One mismatch."""

    file: str
    """File name inside the folder."""
    field: str = ""
    """Field in the file, such as `variants.per_layer.pairs.n10`; empty for the whole file."""
    what: str


class RegeneratedAnswers(Part):
    """A sample of the examples of one evaluation, regenerated with its adapter."""

    file: str
    """Records file inside the folder."""
    examples: int
    equal: int
    """Number of outputs, labels or choices identical to the recorded ones."""
    differing: int
    undecidable: str
    """Reason why a difference is not a mismatch (different machine, half precision); empty if it is one."""


class Verification(Report):
    """Result of a verification.

    >>> verification.verdict, verification.level
    ('consistent', 'L2')
    """

    row_field: ClassVar[str] = "checks"

    schema_: Literal["gradience.verification/2"] = "gradience.verification/2"
    folder: str
    verdict: Verdict
    """`verified` only if nothing disagrees and a root or plan was given from outside."""
    level: Level | None
    """Level reached; null if there are mismatches."""
    root: str | None
    """sha256 of digests.json; null if the file is missing."""
    root_expected: str | None
    """Value of `--root`; without it, an edited folder with a new digests.json is not detected."""
    plan: str | None
    """sha256 of plan.json; null if the file is missing."""
    plan_expected: str | None
    """Value of `--plan`, printed by the run before anything was trained."""
    code: str | None = None
    """Commit of the Gradience that wrote the plan, or the sha256 of its files, as recorded; null in older plans."""
    status: Status | None
    """Status in the folder's aggregate, or in the result of a single seed."""
    seeds: tuple[int, ...]
    """Seeds whose results were recomputed."""
    checks: tuple[VerificationCheck, ...]
    mismatches: tuple[VerificationMismatch, ...]
    not_verified: tuple[str, ...]
    """Limits of this verification, and how to check the rest."""
    sample_seed: int | None = None
    """Seed of the regenerated sample; `--sample-seed` repeats it. Null without `--regenerate`."""
    regenerated: tuple[RegeneratedAnswers, ...] | None = None
    """Regenerated answers of each adapter with weights in the folder; null without `--regenerate`."""
    run: RunInfo

    def screen(self, view: doc.View) -> doc.Document:
        """Return result, mismatches, checks and limits; on a brief screen the first mismatches only."""
        answer: doc.Inline = doc.Span("No mismatches, but nothing could be recomputed", "warn")
        if self.verdict == "mismatch":
            answer = doc.Span(f"MISMATCH: {plural(len(self.mismatches), 'contradiction')}", "bad")
        elif self.level is not None:
            word = doc.Span(f"{_agreement(self)}, level {self.level}", "good")
            data = any(check.level == "data" and check.result == "passed" for check in self.checks)
            origin = ORIGIN if self.verdict == "consistent" else ""
            answer = (word, f": {LEVELS[self.level]}", DATA if data else "", origin)
        facts: list[doc.Fact] = [
            ("root", _digest(self.root, self.root_expected, "digests.json")),
            ("plan", _digest(self.plan, self.plan_expected, "plan.json")),
        ]
        if self.status is not None or self.seeds:
            seeds = ", ".join(map(str, self.seeds))
            again = f"recomputed for {noun(len(self.seeds), 'seed')} {seeds}" if seeds else "not recomputed"
            facts.insert(0, ("verdict", f"{self.status or MISSING}, {again}"))
        if self.sample_seed is not None:
            facts.append(("sample seed", str(self.sample_seed)))
        heading = doc.Heading((doc.Span("Verification of "), doc.Span(self.folder, "name")), level=1)
        blocks: list[doc.Block] = [heading, doc.Paragraph(answer), doc.Facts(facts)]
        notes = []
        for mismatch in self.mismatches[: SHOWN if view.brief else None]:
            field = (": ", doc.Span(mismatch.field, "name")) if mismatch.field else ()
            where = (doc.Span(mismatch.file, "name"), *field)
            notes.append(doc.Note("error", where, [doc.Span(mismatch.what, "name")]))
        blocks += [doc.Heading("Mismatches"), doc.Notes(notes)]
        blocks += doc.more(len(self.mismatches) - len(notes), "more", " in --json", "more")
        regenerated = doc.table_of(
            self.regenerated or (),
            (doc.Column("records", wrap=True), lambda answer: doc.Span(answer.file, "name")),
            (doc.Column("examples", ">"), lambda answer: count(answer.examples)),
            (doc.Column("equal", ">"), lambda answer: count(answer.equal)),
            (doc.Column("differing", ">"), lambda answer: count(answer.differing)),
        )
        checks: dict[tuple[str, CheckLevel, str], list[str]] = {}
        rows = ((check.what, (check.name, check.level, check.result)) for check in self.checks)
        for text, key in _of_seeds(rows):
            checks.setdefault(key, []).append(text)
        table = doc.table_of(
            checks.items(),
            (doc.Column("check"), lambda row: row[0][0]),
            (doc.Column("level"), lambda row: row[0][1]),
            (doc.Column("result"), lambda row: doc.Span(row[0][2], ROLES[row[0][2]])),
            (doc.Column("details", wrap=True), lambda row: _each(row[1])),
        )
        return [
            *blocks,
            doc.Heading("Regenerated answers"),
            regenerated,
            doc.Heading("Checks", aside=CHECKED),
            table,
            doc.Heading("Not checked"),
            doc.items(text for text, _ in _of_seeds((gap, ()) for gap in self.not_verified)),
        ]

    def without_texts(self) -> Self:
        """Return the report without recorded and regenerated outputs."""
        mismatches = [
            row.model_copy(update={"what": LEFT_OUT}) if row.file.endswith(RECORDS) else row
            for row in self.mismatches
        ]
        return self.model_copy(update={"mismatches": tuple(mismatches)})


SHOWN = 20
"""Maximum number of mismatches on screen; Markdown and JSON list all."""
LEFT_OUT = "(left out)"
RECORDS = "records.jsonl"
"""Suffix of records files, whose mismatches may quote answers."""
LEVELS: dict[Level, str] = {
    "L1": "the result follows from its records and files",
    "L2": "the stored outputs were scored again, and the verdict follows from the scores",
    "L3": "a sample of the outputs was regenerated and is identical",
}
CHECKED = "L1: recomputed from records; L2: outputs scored again; L3: outputs regenerated"
DATA = "; all examples and gold answers are the task's"
ORIGIN = ". This does not prove where the records come from."
OF_SEED = re.compile(r"^seed_\d+(: |/)")
"""Prefix of a sentence about one seed."""
ROLES: dict[str, doc.Style] = {"passed": "good", "failed": "bad", "not done": "dim"}


def _agreement(report: Verification) -> str:
    """Return `Consistent`, or what was verified by a digest from outside."""
    given = {"root": report.root_expected, "plan": report.plan_expected}
    verified = " and ".join(name for name, digest in given.items() if digest is not None)
    return f"{verified} verified".capitalize() if report.verdict == "verified" else "Consistent"


def _of_seeds(rows: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """Return the rows, with equal sentences of several seeds as one: `… (each of 2 seeds)`."""
    numbers: dict[tuple[str, T], int] = {}
    for text, rest in rows:
        of_all = OF_SEED.sub("", text)
        numbers[of_all, rest] = numbers.get((of_all, rest), 0) + (of_all != text)
    return [
        (f"{text} (each of {number} seeds)" if number > 1 else text, rest)
        for (text, rest), number in numbers.items()
    ]


def _each(texts: Iterable[str]) -> doc.Inline:
    """Return all texts, each a name of its own: a long name loses its middle, and with it whole texts."""
    spans = [span for text in texts for span in ("; ", doc.Span(text, "name"))]
    return tuple(spans[1:])


def _digest(digest: str | None, expected: str | None, file: str) -> str:
    """Return a digest, and that it is the expected one if it is."""
    if digest is None:
        return f"none ({file} is missing)"
    return digest + (" (as expected)" if digest == (expected or "").lower() else "")
