"""What the driver asks a runtime, and what it gets back: the same for every runtime."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from conformance.serving.cases import Case, CaseAdapter
from conformance.serving.compare import Compared
from conformance.serving.model import Logprobs
from gradience.runtimes.verdict import LoadedAdapter, Parts


class Asked(NamedTuple):
    """One case, made, and what PEFT says about it.

    peft: None for an adapter that is only claimed.   hotswap: None where it was not tried.
    """

    case: Case
    adapter: CaseAdapter
    written: LoadedAdapter
    parts: Parts
    peft: Logprobs | None
    hotswap: Compared | None


class Reply(NamedTuple):
    """What a runtime made of one adapter: log-probabilities, or the text of its refusal."""

    logprobs: Logprobs | None
    refusal: str = ""


class Served(NamedTuple):
    """What a runtime answered.

    bases: without an adapter, at the end of each process.   replies: case -> reply.
    not_served: why it does not serve the base model with adapters at all; empty where it does.
    broke: it meant to, and could not on this machine: then nothing was run.
    """

    bases: tuple[Logprobs, ...]
    replies: Mapping[str, Reply]
    versions: Mapping[str, str]
    not_served: str = ""
    broke: bool = False


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options of a program that asks a runtime in an environment of its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the runtime's environment")
    return parser


def asked_of(
    python: Path, program: Path, folder: Path, content: Mapping[str, Any], name: str = ""
) -> dict[str, Any]:
    """Run a program in the environment of a runtime, and return the JSON that it prints."""
    request, answer = (folder / f"{kind}{name}.json" for kind in ("request", "answer"))
    request.write_text(json.dumps(content), encoding="utf-8")
    # -P: the folder of the program must not come before the runtime's own packages.
    run(python, "-P", program, request, answer)
    answers: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return answers


def replies_of(answers: Mapping[str, Any]) -> dict[str, Reply]:
    """Adapter -> reply."""
    return {row["id"]: Reply(row.get("logprobs"), row.get("refusal", "")) for row in answers["adapters"]}


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
