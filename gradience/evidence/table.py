"""A table of your own: CSV, TSV or JSON lines with `id`, `score` and perhaps `prompt`, `answer` (gold) and `output`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.evidence.base import (
    Log,
    LogExample,
    LogRow,
    Wanted,
    add,
    digest,
    group_of,
    head,
    scored,
    spelling,
    tail,
)
from gradience.evidence.text import json_lines
from gradience.files.rows import rows_of

NAME = "table"
DELIMITED = (".csv", ".tsv")
TEXTS = ("id", "prompt", "answer", "output")
"""Columns that are not scores."""


def fits(path: Path, first: Mapping[str, Any]) -> bool:
    """Return True if the file is a CSV or TSV by its name, or its first JSON line has an id."""
    return path.suffix.lower() in DELIMITED or "id" in first


def read(path: Path, wanted: Wanted) -> Log:
    """Read the table. Raises InputError and UsageError (see `base` and `text`; `log-row`)."""
    delimited = path.suffix.lower() in DELIMITED
    rows: dict[str, LogRow] = {}
    for place, values in rows_of(path) if delimited else json_lines(path):
        key = values.get("id")
        if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
            raise InputError(
                f"{place}: no id",
                code="log-row",
                hint="a table has the columns `id` and `score`, and both files the same ids",
            )
        prompt = values.get("prompt")
        item = LogExample(
            str(key),
            prompt=None if prompt is None else digest(prompt),
            excerpt=tail(str(prompt or "")),
            output=head(str(values.get("output", ""))),
            spelling=spelling(str(prompt or "")),
            group=group_of(str(place), values, wanted.group),
        )
        scores = {name: value for name, value in values.items() if name not in (*TEXTS, wanted.group)}
        add(rows, LogRow(place, item, _numbers(scores) if delimited else scores))
    metric, items = scored(path, rows, wanted.metric, default="score")
    return Log(path, NAME, metric, items)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a CSV that are numbers as numbers."""
    return {name: _number(text) for name, text in values.items()}


def _number(text: str) -> float | str:
    word = text.strip().lower()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        return float(word)
    except ValueError:
        return text
