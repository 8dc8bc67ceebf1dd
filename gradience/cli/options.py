"""Options that several verbs have in common, as types of their parameters; the defaults stand with the verbs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from gradience.errors import UsageError

AdapterName = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="NAME", help="Which adapter, if there are several in one folder or file."
    ),
]
PairNames = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--pairs",
        metavar="A B",
        help="Names of the factors in a home-made file, two braces for what differs (docs/formats.md).",
    ),
]
PairScale = Annotated[
    float | None,
    typer.Option("--scale", metavar="S", help="What B·A is multiplied by, with --pairs (default: unknown)."),
]
Layers = Annotated[bool, typer.Option("--layers", help="Show every module.")]
ReportAsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No report and no progress bar.")]


AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Read .bin and .pt too, in a process with limits (needs PyTorch 2.10)."
    ),
]
InitialAdapter = Annotated[
    Path | None,
    typer.Option(
        "--initial-adapter",
        metavar="DIR",
        help="The adapter before training (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ): reads the difference to it.",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        help="Refuse what would take more memory (default: 500MB, or eight times the adapter's files).",
    ),
]

EnginePython = Annotated[
    Path | None,
    typer.Option(
        "--engine-python",
        metavar="PATH",
        help="The Python that vLLM is installed in (also: GRADIENCE_ENGINE_PYTHON).",
    ),
]


AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Let a task of your own run its code (also: GRADIENCE_ALLOW_CODE=1)."),
]


def bytes_of(text: str | None) -> int | None:
    """Return a size such as `2GB`, `800 MB` or `1500000` in bytes; None for None. Raises UsageError (bad-size)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([kmgt]?)b?", text.strip(), re.ASCII | re.IGNORECASE)
    size = match and int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))
    if not size:
        raise UsageError(f"{text!r} is no size", code="bad-size", hint="such as --max-memory 2GB")
    return size


def allowed_ranks_of(text: str | None) -> tuple[int, ...] | None:
    """Return `--allowed-ranks 4,8,16` as ranks; None where it was not given. Raises UsageError (code bad-grid)."""
    from gradience.plan.modules import parse_ranks

    return None if text is None else parse_ranks(text)


def one_of(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return the shell completion of an option that takes one of `values`, which are asked for when Tab is pressed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete
