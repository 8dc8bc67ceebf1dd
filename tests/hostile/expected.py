"""What must hold of every outcome, whatever the file: codes, words, time, memory, and nothing beside the work."""

import json
import math
from collections.abc import Iterator, Sequence, Set

from gradience.cli.exit_codes import ExitCode
from hostile.sandbox import Outcome

MEMORY = 500_000_000
"""Bytes that a verb without torch may use at most, or eight times its files, whichever is more."""
MESSAGE = 2048
RESULTS = {ExitCode.DONE, ExitCode.GATE_FAILED, ExitCode.INCOMPLETE, ExitCode.INCONCLUSIVE}
"""With these codes there may be a report in place of an error."""


def problems(
    outcome: Outcome, names: Sequence[str], codes: Set[int], memory: float, seconds: float
) -> Iterator[str]:
    """What is wrong with an outcome; nothing where all promises hold.

    names: a message must hold one of them.   codes: those that fit.   memory, seconds: most that it may take.
    """
    code, said = outcome.code, outcome.stderr.decode("utf-8", "backslashreplace")
    if outcome.tried:
        yield f"tried {outcome.tried}"
        return
    if code < 0:
        yield f"ended by signal {-code} after {outcome.cpu_seconds:.1f} s of processor time"
        return
    if "Traceback (most recent call last)" in said:
        yield f"traceback: {said.strip().splitlines()[-1][:200]}"
        return
    if outcome.cpu_seconds > seconds:
        yield f"{outcome.cpu_seconds:.1f} s of processor time"
    if outcome.peak_bytes > memory:
        yield f"{outcome.peak_bytes / 1e6:.0f} MB, and {memory / 1e6:.0f} MB are allowed"
    if code not in codes:
        yield f"exit code {code}, and {sorted(codes)} fit: {said[:200]!r}"
    yield from _of_words(outcome, said, names)


def _of_words(outcome: Outcome, said: str, names: Sequence[str]) -> Iterator[str]:
    shown = said + outcome.stdout.decode("utf-8", "backslashreplace")
    if steering := sorted({character for character in shown if not character.isprintable()} - {"\n"}):
        yield f"characters that steer a terminal: {steering!r}"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if outcome.code in RESULTS and outcome.stdout and not errors:
        return
    if outcome.code == ExitCode.DONE:
        return
    if len(errors) != 1:
        yield f"{len(errors)} messages: {said[:200]!r}"
    if len(outcome.stderr) > MESSAGE:
        yield f"a message of {len(outcome.stderr):,} bytes: {said[:100]!r}"
    if "hint: " not in said:
        yield f"no next step: {said[:200]!r}"
    if not any(name in said for name in names):
        yield f"names no file: {said[:200]!r}"


def strict(text: bytes) -> bool:
    """Whether these lines of JSON hold what JSON has, and nothing more."""

    def no_constant(word: str) -> float:
        raise ValueError(f"{word} is no number of JSON")

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(f"{word} is no number that a reader can hold")
        return value

    try:
        for line in text.splitlines():
            json.loads(line, parse_constant=no_constant, parse_float=number)
    except ValueError:
        return False
    return True
