"""A Verification -> blocks: the answer, what was checked, what disagrees, what nobody could see."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.errors import shortened
from gradience.reports.base import terminal
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
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import MISSING, count, plural
from gradience.reports.verification import (
    DifferingAnswer,
    RegeneratedAnswers,
    Verification,
    VerificationCheck,
)

QUOTED = 80
"""Bytes of an answer on a screen."""
SHOWN = 20
"""Mismatches on a screen; Markdown and JSON have all."""
LEVELS = {
    "L1": "the folder agrees with itself, from the scored answers to the verdict",
    "L2": "the answers were scored again from the stored outputs, and everything follows from them",
    "L3": "a sample of the outputs was generated again, and is the same",
}
ROLES = {"passed": "good", "failed": "bad", "not done": "dim"}


def verification_text(report: Verification, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience bench verify` prints."""
    return terminal.render(verification_blocks(report, most=SHOWN), width=width, color=color)


def verification_blocks(report: Verification, *, most: int | None = None) -> Document:
    """Return the sections. most: mismatches that are shown."""
    blocks: list[Block] = [
        Heading((Span("Verification of "), Span(report.folder, "name")), level=1),
        Paragraph(_answer(report)),
        Facts(_facts(report)),
    ]
    if report.mismatches:
        shown = report.mismatches[:most]
        blocks += [Heading("Mismatches"), Notes([_mismatch(one.file, one.field, one.what) for one in shown])]
        if len(shown) < len(report.mismatches):
            left = len(report.mismatches) - len(shown)
            blocks.append(Paragraph(Span(f"… {plural(left, 'more')} in --json", "dim")))
    if report.regenerated:
        blocks += [Heading("Answered again"), *_regenerated(report.regenerated, most)]
    columns = [Column("check"), Column("level"), Column("result"), Column("what", wrap=True)]
    return [
        *blocks,
        Heading("Checks"),
        Table(columns, [_row(check) for check in report.checks]),
        Heading("Not verified"),
        items(report.not_verified),
    ]


def _answer(report: Verification) -> Inline:
    if not report.verified:
        count = plural(len(report.mismatches), "mismatch", "mismatches")
        return Span(f"NOT VERIFIED: {count}", "bad")
    if report.level is None:
        return Span("Nothing disagrees, and nothing could be made again", "warn")
    return (Span(f"Verified, {report.level}", "good"), f": {LEVELS[report.level]}")


def _facts(report: Verification) -> list[tuple[str, Inline]]:
    root = report.root or "none: there is no digests.json"
    if report.root is not None and report.root == (report.root_expected or "").lower():
        root += " (as expected)"
    return [
        ("verdict in the folder", report.status or MISSING),
        ("seeds made again", ", ".join(map(str, report.seeds)) or "none"),
        ("root", root),
    ]


def _mismatch(file: str, field: str, what: str) -> Note:
    return Note(
        "error", (Span(file, "name"), *((": ", Span(field, "name")) if field else ())), [Span(what, "name")]
    )


def _regenerated(answers: Sequence[RegeneratedAnswers], most: int | None) -> list[Block]:
    """Counts for each evaluation, and the differences that are no mismatches: those are named above."""
    columns = [
        Column("records", wrap=True),
        *(Column(name, ">") for name in ("examples", "equal", "differing")),
    ]
    rows: list[list[Inline]] = [
        [Span(one.file, "name"), count(one.examples), count(one.equal), count(len(one.differing))]
        for one in answers
    ]
    undecided = [
        (Span(f"{one.file}, {each.id}", "name"), ": ", Span(_change(each), "name"))
        for one in answers
        if one.undecidable
        for each in one.differing
    ]
    blocks: list[Block] = [Table(columns, rows)]
    if undecided:
        blocks.append(items(undecided[:most]))
        if len(undecided) > len(undecided[:most]):
            blocks.append(Paragraph(Span(f"… {plural(len(undecided) - SHOWN, 'more')} in --json", "dim")))
    return blocks


def _change(one: DifferingAnswer) -> str:
    marks = {True: "correct", False: "wrong"}
    recorded, again = shortened(one.recorded, QUOTED), shortened(one.again, QUOTED)
    return (
        f"{recorded!r} ({marks[one.recorded_correct]}) recorded, {again!r} ({marks[one.again_correct]}) when it is"
        " answered again"
    )


def _row(check: VerificationCheck) -> list[Inline]:
    return [check.name, check.level, Span(check.result, ROLES[check.result]), Span(check.what, "name")]  # type: ignore[arg-type]
