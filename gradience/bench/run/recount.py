"""Are the counts of a result those of the records beside it? For seeds that another process ran."""

from __future__ import annotations

from pathlib import Path

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.packed import pack
from gradience.files.records import read_records
from gradience.reports.bench import Bench, Measures


def agrees(folder: Path, bench: Bench) -> bool:
    """Return whether every count of a seed is the one of its records: their digest, and which examples are correct."""
    measured = [bench.probe, *(result.measures for result in bench.variants)]
    return all(_counted(folder / one.records, one) for one in measured if one is not None)


def _counted(path: Path, measures: Measures) -> bool:
    try:
        rows = read_records(path).records
    except InputError:  # gone, or no records
        return False
    answers = pack(row.correct for row in rows)
    return sha256_file(path) == measures.records_sha256 and answers == measures.correct_examples
