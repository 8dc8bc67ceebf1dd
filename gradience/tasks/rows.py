"""Rows of a local file or of a split on the hub, each with the place that an error names. Nothing is guessed.

CSV follows RFC 4180: quoted fields may hold commas, quotes and line breaks. TSV follows IANA's
text/tab-separated-values: a quote is a character like any other, so a field holds no tab and no line break.
JSONL is one object a line. All are UTF-8, with or without a byte order mark, with any line ends.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gradience.adapters import strict_json
from gradience.digests import sha256_file
from gradience.errors import InputError, NetworkError, UsageError, did_you_mean, require
from gradience.models.local_only import would_fetch
from gradience.reading import MAX_DATA_BYTES, check_regular, open_stream
from gradience.reports.bench_plan import Role
from gradience.words import counted

MAX_ROW = 4 * 2**20
"""Characters of one row of a file: about a million tokens."""
MAX_ROWS = 1_000_000
"""Rows of one file: its examples are kept in memory."""
csv.field_size_limit(MAX_ROW)  # its own limit, 131,072, is less than an honest long text


@dataclass(frozen=True, slots=True)
class Row:
    """One row, and where it stands."""

    place: str
    """`reviews.csv: line 12`, for errors."""
    values: Mapping[str, object]

    def value(self, column: str) -> object:
        """What stands in `column`. Raises InputError (`task-column`)."""
        if column not in self.values:
            raise InputError(
                f"{self.place}: no column `{column}`",
                code="task-column",
                hint=did_you_mean(
                    column,
                    self.values,
                    f"the columns are {', '.join(f'`{name}`' for name in self.values)}: rename one to `{column}`",
                ),
            )
        return self.values[column]

    def text(self, column: str) -> str:
        """The text in `column`, as it is. Raises InputError (`task-column`, `task-text`)."""
        text = self.value(column)
        if not isinstance(text, str):
            raise self.wrong(column, f"contains {json.dumps(text, default=str)[:40]}, which is not text")
        if not text.strip():
            raise self.wrong(column, "is empty")
        return text

    def has(self, column: str) -> bool:
        """Whether something stands in `column`: not null, and in CSV, where every row has every column, not blank."""
        value = self.values.get(column)
        return bool(value.strip()) if isinstance(value, str) else value is not None

    def wrong(self, column: str, what: str) -> InputError:
        """The error (`task-text`) for a row that cannot be used as it stands: `what` is wrong with the column."""
        return InputError(
            f"{self.place}: column `{column}` {what}",
            code="task-text",
            hint="remove the row, or correct its text",
        )


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file or split, and what is known of them."""

    rows: Iterable[Row]
    """To be read once."""
    source: str
    """Name and version: for a file its sha256, on the hub the revision when one was asked for."""
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column: the names of its labels, where the data say them (`ClassLabel` on the hub)."""


def local(path: Path) -> Table:
    """The rows of a CSV, TSV or JSONL file, read when they are asked for.

    Raises InputError (`task-file`; while reading also `task-row`).
    """
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"{path}: no file format is known by this extension",
            code="task-file",
            hint=f"rename it with the extension of its format: {', '.join(_READERS)}",
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file", code="task-file", hint="check the path")
    check_regular(path, limit=MAX_DATA_BYTES)
    return Table(_file_rows(path), f"{path.name} sha256:{sha256_file(path)}")


def hub(dataset: str, split: str, *, subset: str | None = None, revision: str | None = None) -> Table:
    """The rows of a split of a data set on the hub, or of a folder that looks like one.

    Raises MissingExtra; NetworkError (`task-dataset`) when the hub cannot be reached or has no such data
    set; InputError (`task-dataset`) when the data set has no such subset or split, or cannot be read.
    """
    if not Path(dataset).is_dir():
        would_fetch(f"{dataset} (from the hub)")
    datasets = require("datasets", extra="hf")
    from huggingface_hub.errors import HfHubHTTPError

    name = f"{dataset}{f'/{subset}' if subset else ''} {split}"
    try:
        loaded = datasets.load_dataset(dataset, subset, split=split, revision=revision)
    except (ConnectionError, HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        raise NetworkError(
            f"{name}: {_first_line(error)}",
            code="task-dataset",
            hint="check the name, the network and `hf auth login`, or use local files with the same rows",
        ) from None
    # What `datasets` raises for an unknown subset or split, for unreadable files, and for a loading script.
    except (datasets.exceptions.DatasetsError, FileNotFoundError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: {_first_line(error)}",
            code="task-dataset",
            hint="check subset and split, or use local files with the same rows",
        ) from None
    return Table(
        (Row(f"{name}: row {number}", values) for number, values in enumerate(loaded)),
        name + (f" revision:{revision}" if revision else ""),
        {
            column: tuple(feature.names)
            for column, feature in loaded.features.items()
            if isinstance(feature, datasets.ClassLabel)
        },
    )


def train_and_confirm(
    train_file: Path | None,
    confirm_file: Path | None,
    *,
    dataset: str,
    subset: str,
    split: str,
    revision: str | None,
) -> dict[Role, Table]:
    """Return what trains and what confirms: two files, or `train` and `split` of a data set on the hub.

    What confirms comes first: the first spelling of a text stays, so what train repeats falls out of train.
    Raises UsageError (`task-files`) for one file without the other, and what `local` and `hub` raise.
    """
    if (train_file is None) != (confirm_file is None):
        raise UsageError(
            f"only one of `train_file` and `{split.partition('_')[0]}_file` is given",
            code="task-files",
            hint="give both, or neither to load the data set from the hub",
        )
    if train_file and confirm_file:
        return {"confirm": local(confirm_file), "train": local(train_file)}
    return {
        "confirm": hub(dataset, split, subset=subset, revision=revision),
        "train": hub(dataset, "train", subset=subset, revision=revision),
    }


def _file_rows(path: Path) -> Iterator[Row]:
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        lines = _Lines(path, io.TextIOWrapper(file, "utf-8-sig", newline=""))
        try:
            for number, row in enumerate(_READERS[path.suffix.lower()](path, lines)):
                if number == MAX_ROWS:
                    raise InputError(
                        f"{path}: more than {MAX_ROWS:,} rows",
                        code="task-file",
                        hint="split the file, or take a sample of its rows",
                    )
                yield row
        except UnicodeDecodeError:
            raise InputError(
                f"{path} is not UTF-8", code="task-file", hint="save it again as UTF-8"
            ) from None


class _Lines:
    """The lines of a file, read when they are asked for. A row too long for memory is refused before it is there."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.number = self.characters = 0
        """Of the last line, and of the lines of its row up to it."""

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
                hint="shorten it; where a CSV file has no such row, look for a quote that is not closed",
            )
        return line


def _csv_rows(path: Path, lines: _Lines) -> Iterator[Row]:
    return _delimited(path, lines, csv.reader(lines, strict=True))


def _tsv_rows(path: Path, lines: _Lines) -> Iterator[Row]:
    return _delimited(path, lines, csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


def _delimited(path: Path, lines: _Lines, reader: Any) -> Iterator[Row]:
    """`reader` is one of `csv`, which gives its type no public name."""
    try:
        header: list[str] = next(reader, [])
        if not header or len(set(header)) < len(header):
            raise InputError(
                f"{path}: line 1 must name the columns, each once",
                code="task-file",
                hint="write the names of the columns into the first line",
            )
        line = reader.line_num + 1
        for fields in reader:
            place, line, lines.characters = f"{path}: line {line}", reader.line_num + 1, 0
            if not fields:
                continue
            if len(fields) != len(header):
                columns = counted(len(header), "column")
                raise InputError(
                    f"{place}: {counted(len(fields), 'field')}, and the first line names {columns}",
                    code="task-row",
                    hint="quote texts with commas or line breaks (CSV); a TSV file can contain neither tabs nor"
                    " line breaks in a text: use CSV or JSONL",
                )
            yield Row(place, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: {error}",
            code="task-row",
            hint='write a quote inside a quoted text twice (`""`), or use JSONL',
        ) from None


def _json_rows(path: Path, lines: _Lines) -> Iterator[Row]:
    for line in lines:
        lines.characters = 0
        if not line.strip():
            continue
        place = f"{path}: line {lines.number}"
        try:
            values = strict_json.parse(line)
        except ValueError as error:
            what = getattr(error, "msg", str(error))
            raise InputError(f"{place}: {what}", code="task-row", hint=_ONE_OBJECT) from None
        if not isinstance(values, dict):
            raise InputError(f"{place} is not a JSON object", code="task-row", hint=_ONE_OBJECT)
        yield Row(place, values)


_ONE_OBJECT = 'write one JSON object per line: {"text": "…", "label": "…"}'
_READERS = {".csv": _csv_rows, ".tsv": _tsv_rows, ".jsonl": _json_rows}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
