"""How a Bench run ends as an exit code: by the policy, and by a grade where one is required."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from gradience.reports.bench import Bench, Status
    from gradience.reports.bench_aggregate import BenchAggregate


class Required(StrEnum):
    """Grades that may be asked for."""

    A = "A"
    B = "B"


RequireGrade = Annotated[
    Required | None,
    typer.Option(
        "--require-grade",
        metavar="GRADE",
        help="A or B: of a PASS, exit with 0 only if a variant that passes has this grade or a better one; else with 8,"
        " or with 1 if all of them are D or X.",
    ),
]


def code_of(status: Status) -> ExitCode:
    """Return 0 for PASS (and SKIPPED: nothing to compress), 1 FAIL, 8 no evidence, 4 something ended in an error."""
    codes = {
        "PASS": ExitCode.DONE,
        "SKIPPED": ExitCode.DONE,
        "FAIL": ExitCode.GATE_FAILED,
        "INCONCLUSIVE": ExitCode.INCONCLUSIVE,
        "UNDERTRAINED": ExitCode.INCONCLUSIVE,
        "ERROR": ExitCode.INCOMPLETE,
    }
    return codes[status]


def ended(result: Bench | BenchAggregate, required: Required | None) -> ExitCode:
    """Return the exit code of a result, and say on stderr where a required grade is missed.

    What the policy does not pass keeps its own code. Nothing that passed without a grade is a grade: 8.
    """
    code = code_of(result.status)
    if required is None or code is not ExitCode.DONE:
        return code
    grades = {
        variant.name: variant.evidence.grade
        for variant in result.candidates
        if variant.status == "PASS" and variant.evidence is not None and variant.evidence.grade is not None
    }
    best = min(grades.values(), default=None)  # A comes first
    if best is not None and best <= required:
        return code
    if best is None:
        print(f"required: grade {required}; nothing that passes has a grade", file=sys.stderr)
        return ExitCode.INCONCLUSIVE
    names = ", ".join(name for name, grade in grades.items() if grade == best)
    print(f"required: grade {required}; the best of what passes is {best}: {names}", file=sys.stderr)
    return ExitCode.GATE_FAILED if best in ("D", "X") else ExitCode.INCONCLUSIVE
