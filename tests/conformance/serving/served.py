"""What the driver asks a runtime, and what it gets back: the same for every runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from conformance.serving.cases import Case, Made, Workshop
from conformance.serving.compare import Compared
from conformance.serving.model import Logprobs
from gradience.artifacts.compression import RuntimeVerdict
from gradience.runtimes.written import Module


class Asked(NamedTuple):
    """One case, made, and what PEFT says about it.

    peft: None for an adapter that is only claimed.   hotswap: None where it was not tried.
    predicted: runtime and version -> what `gradience.runtimes` says.
    """

    case: Case
    made: Made
    config: dict[str, Any]
    modules: tuple[Module, ...]
    peft: Logprobs | None
    hotswap: Compared | None
    predicted: Mapping[str, RuntimeVerdict]


class Reply(NamedTuple):
    """What a runtime made of one adapter: log-probabilities, or the text of its refusal."""

    logprobs: Logprobs | None
    refusal: str = ""


class Served(NamedTuple):
    """What a runtime answered. bases: without an adapter, at the end of each process.   replies: case -> reply."""

    bases: tuple[Logprobs, ...]
    replies: Mapping[str, Reply]
    versions: Mapping[str, str]


class Server(Protocol):
    """A runtime under test.

    table: its name and version in `gradience.runtimes`.   slug: of the JSON file and of the block in docs/runtimes.md.
    """

    name: str
    slug: str

    @property
    def table(self) -> str: ...

    def serve(self, shop: Workshop, asked: Sequence[Asked]) -> Served: ...

    def refuses_here(self, asked: Asked) -> bool:
        """True where the way it was started, and not the adapter alone, makes it refuse."""
        ...


def say(text: str) -> None:
    """A line on the screen."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run(*command: str | Path) -> str:
    """Run a program and return what it printed. Ends the whole run, showing the output, if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        say(done.stdout[-6000:])
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}")
    return done.stdout
