"""Rows of CSV, TSV, JSONL, JSON, Parquet and text files, read within bounds: the one place that parses them.

CSV follows RFC 4180: quoted fields may hold commas, quotes and line breaks. TSV follows IANA's
text/tab-separated-values: a quote is a character like any other, so a field holds no tab and no line break.
JSONL is one object a line, JSON a list of objects. A plain text
is one row for each paragraph. All are UTF-8, with or without a byte order mark, with any line
ends. Nothing is guessed.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TextIO, runtime_checkable

from gradience.digests import sha256_text
from gradience.errors import InputError, require
from gradience.files import strict_json
from gradience.reading import MAX_DATA_BYTES, open_stream
from gradience.words import counted, first_line

MAX_ROW = 4 * 2**20
"""Characters of one row of a file: about a million tokens."""
MAX_ROWS = 1_000_000
"""Rows of one file: its examples are kept in memory."""
PARQUET = ".parquet"
HUB = "hf:"
"""First part of a path such as `hf://org/name`, which names a data set on the hub."""
csv.field_size_limit(MAX_ROW)  # its own limit, 131,072, is less than an honest long text

PlacedRow = tuple[str, dict[str, Any]]


def rows_of(path: Path) -> Iterator[PlacedRow]:
    """Yield the rows of a file, each with its location for errors (`reviews.csv: line 12`).

    Raises InputError (`task-file`, `task-row`, and what `open_stream` raises), MissingExtra for Parquet.
    """
    rows = _parquet_rows(path) if path.suffix.lower() == PARQUET else _text_rows(path)
    for number, row in enumerate(rows):
        if number == MAX_ROWS:
            raise InputError(
                f"{path}: more than {MAX_ROWS:,} rows",
                code="task-file",
                hint="split the file, or take a sample of its rows",
            )
        yield row


def _text_rows(path: Path) -> Iterator[PlacedRow]:
    with io.TextIOWrapper(open_stream(path, limit=MAX_DATA_BYTES), "utf-8-sig", newline="") as file:
        try:
            yield from _READERS[path.suffix.lower()](_Lines(path, file))
        except UnicodeDecodeError:
            raise InputError(
                f"{path} is not UTF-8", code="task-file", hint="save it again as UTF-8"
            ) from None


def is_on_hub(path: Path) -> bool:
    """Return True for `hf://org/name`, which is no file."""
    return path.parts[:1] == (HUB,)


@runtime_checkable
class Rows(Protocol):
    """Rows in memory: a list of dicts, a pandas DataFrame, or a `datasets.Dataset`."""

    def __iter__(self) -> Iterator[Any]: ...


def written(rows: Rows) -> Path:
    """Write rows that are in memory to a file of this process, named by its content, and return its path.

    Raises ValueError for a row that is no mapping or cannot be written as JSON.
    """
    if hasattr(rows, "to_json") and hasattr(rows, "iterrows"):
        text = rows.to_json(orient="records", lines=True, force_ascii=False)
    else:
        lines = []
        for number, row in enumerate(rows, 1):
            try:
                lines.append(json.dumps(dict(row), ensure_ascii=False, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise ValueError(f"row {number} is not a dict of texts, numbers and lists: {error}") from None
        text = "\n".join(lines)
    path = Path(_scratch().name) / f"rows-{sha256_text(text)[:16]}.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


@cache
def _scratch() -> TemporaryDirectory[str]:
    """A folder that lasts as long as this process."""
    return TemporaryDirectory(prefix="gradience-rows-")


class _Lines:
    """The lines of a file, read on demand. A row too long for memory is refused before it is loaded."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.number = self.characters = 0
        """Number of the last line, and characters of the current row so far."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline(MAX_ROW + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.characters += len(line)
        if self.characters > MAX_ROW:
            raise InputError(
                f"{self.path}: line {self.number}: a row of more than {MAX_ROW:,} characters",
                code="task-row",
                hint="shorten it; if a CSV file has no such row, look for an unclosed quote",
            )
        return line


def _delimited(lines: _Lines, **dialect: Any) -> Iterator[PlacedRow]:
    reader = csv.reader(lines, strict=True, **dialect)
    path = lines.path
    try:
        header: list[str] = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise InputError(
                f"{path}: line 1 must list the column names, without duplicates",
                code="task-file",
                hint="write the column names in the first line",
            )
        line = reader.line_num + 1
        for fields in reader:
            place, line, lines.characters = f"{path}: line {line}", reader.line_num + 1, 0
            if not fields:
                continue
            if len(fields) != len(header):
                columns = counted(len(header), "column")
                raise InputError(
                    f"{place}: {counted(len(fields), 'field')}, but the first line has {columns}",
                    code="task-row",
                    hint="quote texts with commas or line breaks (CSV); a TSV file can contain neither tabs nor"
                    " line breaks in a text: use CSV or JSONL",
                )
            yield place, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: {error}",
            code="task-row",
            hint='write a quote inside a quoted text twice (`""`), or use JSONL',
        ) from None


def _json_rows(lines: _Lines) -> Iterator[PlacedRow]:
    hint = 'write one JSON object per line: {"text": "…", "label": "…"}'
    for line in lines:
        lines.characters = 0
        if not line.strip():
            continue
        place = f"{lines.path}: line {lines.number}"
        try:
            values = strict_json.parse(line)
        except ValueError as error:
            raise InputError(
                f"{place}: {getattr(error, 'msg', str(error))}", code="task-row", hint=hint
            ) from None
        if not isinstance(values, dict):
            raise InputError(f"{place} is not a JSON object", code="task-row", hint=hint)
        yield place, values


def _listed_rows(lines: _Lines) -> Iterator[PlacedRow]:
    """A JSON file: a list of objects."""
    hint = 'write [{"text": "…", "label": "…"}, …], or one object per line in a .jsonl file'
    try:
        values = strict_json.parse(lines.file.read())
    except ValueError as error:
        raise InputError(f"{lines.path}: {error}", code="task-file", hint=hint) from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError(f"{lines.path} is not a list of JSON objects", code="task-file", hint=hint)
    for number, value in enumerate(values, 1):
        yield f"{lines.path}: row {number}", value


def paragraphs_of(text: str) -> Iterator[str]:
    """Yield the paragraphs of a plain text, which blank lines separate, with `\\n` as line end."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"\r\n?", "\n", text)):
        if paragraph.strip():
            yield paragraph.strip()


def _paragraphs(lines: _Lines) -> Iterator[PlacedRow]:
    """A plain text: each paragraph is a row."""
    for number, paragraph in enumerate(paragraphs_of(lines.file.read()), 1):
        yield f"{lines.path}: paragraph {number}", {"text": paragraph}


def _parquet_rows(path: Path) -> Iterator[PlacedRow]:
    arrow, parquet = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
    try:
        with parquet.ParquetFile(path) as file:
            values = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
            for number, value in enumerate(values, 1):
                yield f"{path}: row {number}", value
    except (arrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: {first_line(error)}", code="task-file", hint="write it again with pandas or datasets"
        ) from None


_READERS: Mapping[str, Callable[[_Lines], Iterator[PlacedRow]]] = {
    ".csv": _delimited,
    ".tsv": partial(_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".jsonl": _json_rows,
    ".json": _listed_rows,
    ".txt": _paragraphs,
    ".md": _paragraphs,
}
SUFFIXES = (*_READERS, PARQUET)
