"""Exit codes of every command. docs/reference/exit_codes.md is generated from this table."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradience.reports.base.graded import Grade


class ExitCode(IntEnum):
    """Exit codes of the command."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "Done, or the gate passed (PASS)."
    GATE_FAILED = 1, "A gate failed (FAIL, an error finding, a verification mismatch)."
    USAGE = 2, "The command is wrong: unknown option, missing extra, output exists without `--force`."
    INPUT = 3, "The input cannot be used, or is refused for a stated reason."
    INCOMPLETE = 4, "There is a result, but parts of it could not be made."
    OUTPUT = 5, "The disk, the permissions or the memory do not allow the result to be read, made or written."
    LOCKED = 6, "Another run is writing to the same output."
    NETWORK = (
        7,
        "The network or the login failed, or the repository, revision or file was not found on the hub.",
    )
    INCONCLUSIVE = 8, "The evidence is not enough to decide (INCONCLUSIVE, UNDERTRAINED)."
    INTERRUPTED = 130, "Stopped by Ctrl-C (128 + SIGINT)."
    PIPE_CLOSED = 141, "The reader of the output stopped reading (128 + SIGPIPE); nothing is printed."
    TERMINATED = 143, "Stopped by SIGTERM (128 + SIGTERM)."


def code_of_grades(grades: Iterable[Grade | None]) -> ExitCode:
    """Return 4 if one is X, 1 if one is D, 8 if one is C, else 0."""
    codes = {"X": ExitCode.INCOMPLETE, "D": ExitCode.GATE_FAILED, "C": ExitCode.INCONCLUSIVE}
    known = set(grades)
    return next((code for grade, code in codes.items() if grade in known), ExitCode.DONE)
