"""The rows as a table for other programs: CSV, and Parquet through pyarrow.

Sketches and stamps stay in `fleet.jsonl`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gradience.errors import UsageError, require
from gradience.files.whole import already_exists, write_whole
from gradience.ranks import VLLM_MAX_LORA_RANKS
from gradience.reports.fleet import FleetRow
from gradience.words import printable

ROWS, CSV, PARQUET = ".jsonl", ".csv", ".parquet"
EXTRA = "parquet"
BATCH = 1000
"""Rows in memory at a time."""
FORMULA = ("=", "+", "-", "@")
"""First characters that a cell must not have: a spreadsheet would evaluate it as a formula."""
TEXTS = (
    "path",
    "status",
    "error",
    "message",
    "sha256",
    "format",
    "base_model",
    "dtypes",
    "init",
    "not_served",
)
FLAGS = ("use_rslora", "use_dora")
COUNTS = ("bytes", "rank", "declared_r", "modules", "trained", "unmeasured", "params")
NUMBERS = ("width", "stable_rank_median", "energy_rank_90_p50", "energy_rank_90_p90", "fro_norm")
LOST = tuple(f"lost_energy_at_{step}" for step in VLLM_MAX_LORA_RANKS)
COLUMNS = (*TEXTS, *FLAGS, *COUNTS, *NUMBERS, *LOST)


def rows_file_of(output: Path, *, force: bool) -> Path:
    """Return where the rows are kept: the output itself, or `.jsonl` in place of the suffix of a table.

    Raises UsageError (bad-fleet-output, output-exists), MissingExtra for a Parquet file without pyarrow.
    """
    if output.suffix not in (ROWS, CSV, PARQUET):
        raise UsageError(
            f"{output}: unknown file type",
            code="bad-fleet-output",
            hint="end it in .jsonl, .csv or .parquet",
        )
    if output.suffix == PARQUET:
        require("pyarrow", extra=EXTRA)
    if output.suffix != ROWS and output.exists() and not force:
        raise already_exists(output)
    return output.with_suffix(ROWS)


def export(rows: Iterable[FleetRow], output: Path) -> None:
    """Write a table with a line for each row. Raises OutputError (write-failed)."""
    cells = (cells_of(row) for row in rows)
    write_whole(output, _csv(cells) if output.suffix == CSV else _parquet(cells))


def cells_of(row: FleetRow) -> dict[str, Any]:
    """Return a row by column; what does not exist is None."""
    values = {name: getattr(row, name) for name in (*TEXTS, *FLAGS, *COUNTS, *NUMBERS)}
    lost = {
        column: row.lost_energy_at.get(step) for column, step in zip(LOST, VLLM_MAX_LORA_RANKS, strict=True)
    }
    return {**values, "dtypes": " ".join(row.dtypes), **lost}


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for cells in chain([COLUMNS], ([_harmless(row[column]) for column in COLUMNS] for row in rows)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        yield text.getvalue().encode(errors="backslashreplace")


def _harmless(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = printable(value)  # a carriage return would begin a new cell
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def _parquet(rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    arrow = require("pyarrow", extra=EXTRA)
    parquet = require("pyarrow.parquet", extra=EXTRA)
    kinds = {
        **dict.fromkeys(TEXTS, arrow.string()),
        **dict.fromkeys(FLAGS, arrow.bool_()),
        **dict.fromkeys(COUNTS, arrow.int64()),
        **dict.fromkeys((*NUMBERS, *LOST), arrow.float64()),
    }
    schema = arrow.schema([(name, kinds[name]) for name in COLUMNS])
    buffer, waiting = io.BytesIO(), iter(rows)
    with parquet.ParquetWriter(buffer, schema) as writer:
        while batch := list(islice(waiting, BATCH)):
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
    yield buffer.getvalue()
