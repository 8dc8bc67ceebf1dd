"""JSON and JSON lines of logs: bounded objects, no key twice. NaN is accepted: tools write it beside scores."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.files.strict_json import parse
from gradience.reading import MAX_DATA_BYTES, open_stream

MAX_LINE = 64 * 2**20
"""Bytes of one example: a prompt of 100,000 tokens has about 0.5 MB."""


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a file as its place (`a.jsonl: line 3`) and its object; empty lines are left out.

    Raises InputError (`log-row`, and what `open_stream` raises).
    """
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        line = 0
        while text := file.readline(MAX_LINE + 1):
            line += 1
            if len(text) > MAX_LINE:
                raise InputError(
                    f"{path}: line {line}: longer than {MAX_LINE:,} bytes",
                    code="log-row",
                    hint="write one example per line",
                )
            if text.strip():
                yield f"{path}: line {line}", json_object(text, f"{path}: line {line}")


def json_object(text: bytes, place: str) -> dict[str, Any]:
    """The object that a text of JSON is. Raises InputError (`log-row`)."""
    try:
        value = parse(text.decode("utf-8"), constants=True)
    except UnicodeDecodeError as error:
        raise _bad(place, f"not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise _bad(place, getattr(error, "msg", str(error))[:200]) from None
    if not isinstance(value, dict):
        raise _bad(place, "not a JSON object")
    return value


def within(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key; an empty object if there is none."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def text_or_none(value: object) -> str | None:
    """Return a string unchanged; None for anything else."""
    return value if isinstance(value, str) else None


def _bad(place: str, problem: str) -> InputError:
    return InputError(
        f"{place}: {problem}",
        code="log-row",
        hint="copy the log again, or rerun the tool: a truncated log is not compared",
    )
