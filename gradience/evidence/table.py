"""A table of your own: CSV, TSV or JSON lines with `id`, `score` and perhaps `prompt`, `answer` (gold) and `output`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.evidence.base import Item, Log, Row, Wanted, add, digest, head, scored, tail
from gradience.evidence.text import json_lines, numbered_lines
from gradience.reading import MAX_DATA_BYTES, open_stream

NAME = "table"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXTS = ("id", "prompt", "answer", "output")
"""Columns that are no score."""


def fits(path: Path, first: Mapping[str, Any]) -> bool:
    """Whether the file is a CSV or TSV by its name, or the first of its JSON lines has an id."""
    return path.suffix.lower() in DELIMITERS or "id" in first


def read(path: Path, wanted: Wanted) -> Log:
    """Read the table. Raises InputError and UsageError (see `base` and `text`; `log-row`)."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    rows: dict[str, Row] = {}
    for place, values in json_lines(path) if delimiter is None else _delimited(path, delimiter):
        key = values.get("id")
        if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
            raise InputError(
                f"{place}: no id",
                code="log-row",
                hint="a table has the columns `id` and `score`, and both files the same ids",
            )
        prompt = values.get("prompt")
        item = Item(
            str(key),
            prompt=None if prompt is None else digest(prompt),
            excerpt=tail(str(prompt or "")),
            output=head(str(values.get("output", ""))),
        )
        scores = {name: value for name, value in values.items() if name not in TEXTS}
        add(rows, Row(place, item, _numbers(scores) if delimiter else scores))
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


def _delimited(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        lines = (
            text.decode("utf-8-sig" if line == 1 else "utf-8") for line, text in numbered_lines(file, path)
        )
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            if "id" not in names or len(set(names)) < len(names):
                raise _bad(f"{path}: line 1", "no header with `id` and `score`, each once")
            for cells in reader:
                if not cells:
                    continue
                place = f"{path}: line {reader.line_num}"
                if len(cells) != len(names):
                    raise _bad(place, f"{len(cells)} fields, and the header names {len(names)}")
                yield place, dict(zip(names, cells, strict=True))
        except UnicodeDecodeError:
            raise _bad(str(path), "not UTF-8") from None
        except csv.Error as error:
            raise _bad(f"{path}: line {reader.line_num}", str(error)) from None


def _bad(place: str, what: str) -> InputError:
    return InputError(
        f"{place}: {what}",
        code="log-row",
        hint="write `id,score` into the first line and one example into each other, in UTF-8; or use JSON lines",
    )
