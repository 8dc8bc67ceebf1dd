"""The process of vLLM: started once, asked in lines of JSON (server.py); it ends when this process does."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from gradience.errors import EngineError
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.engines.vllm.interpreter import SERVER, clean
from gradience.words import counted

LEAVES = 30
"""Seconds that it has to leave, before it is killed."""
LAST = 4
"""Lines of what it printed that stand in a message."""
LONGEST = 300
"""Characters of a refusal: some list all that there is."""


class Refused(Exception):
    """vLLM does not take a model, an adapter or a sequence; why, in its words."""


class VllmProcess:
    """A running server.py."""

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        """python: as `interpreter` names it. environment: added to that of this process."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process is)
        self._child = subprocess.Popen(
            [python, str(SERVER)],
            env=clean() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
        )

    def ask(self, what: str, *, on_part: Callable[[float], None] | None = None, **question: Any) -> Any:
        """The answer to a question.

        on_part: called with the share of the rows that are answered.
        Raises Refused, OutOfMemoryError, and EngineError (`engine-died`) where the process is gone.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps({"ask": what, **question}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            self._died(what)
        while "part" in (reply := self._reply(what)):
            if on_part is not None:
                on_part(reply["part"])
        if "refusal" not in reply:
            return reply["answer"]
        if reply["memory"]:
            raise OutOfMemoryError(_first_line(reply["refusal"]))
        raise Refused(_first_line(reply["refusal"]))

    def _reply(self, what: str) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else self._died(what)

    def _died(self, what: str) -> NoReturn:
        code = self._child.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = "the system may have run out of memory (signal 9)" if code < 0 else ""
        raise EngineError(
            f"the process of vLLM {how}, asked to {what}. {self._last_lines()}", code="engine-died", hint=hint
        )

    def _last_lines(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-LAST:]
        return f"Its last {counted(len(last), 'line')}: {' / '.join(last)}" if last else "It printed nothing"

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(LEAVES)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._said.close()


def _first_line(text: str) -> str:
    """A refusal in one line: pydantic's begin with how many there are, and say what it is in front of a type."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.partition(" [type=")[0].removeprefix("Value error, ") for line in lines if " [type=" in line]
    line = next(iter(said or lines), text)
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] + " …"
