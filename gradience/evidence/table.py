"""A table of your own: CSV, TSV or JSON lines with `id`, `score` and perhaps `prompt`, `answer` (gold) and `output`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.evidence.base import Log, LogExample, LogRows, Wanted, group_of, id_of, json_lines
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
    rows = LogRows()
    hint = "a table has the columns `id` and `score`, and both files the same ids"
    for place, values in rows_of(path) if delimited else json_lines(path):
        prompt = values.get("prompt")
        item = LogExample.of(
            id_of(str(place), values.get("id"), "no id", hint),
            prompt=prompt,
            shown=str(prompt or ""),
            output=str(values.get("output", "")),
            spelled=str(prompt or ""),
            group=group_of(str(place), values, wanted.group),
        )
        scores = {name: value for name, value in values.items() if name not in (*TEXTS, wanted.group)}
        rows.add(place, item, {name: _number(text) for name, text in scores.items()} if delimited else scores)
    metric, items = rows.scored(path, wanted.metric, default="score")
    return Log(path, NAME, metric, items)


def _number(text: str) -> float | str:
    word = text.strip().lower()
    if word in ("true", "false"):
        return float(word == "true")
    try:
        return float(word)
    except ValueError:
        return text
