"""Folders of runs -> their aggregate, each held against its own records first: an edited count is not added up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradience.bench.verdict.folders import AGGREGATE, DOCUMENT, aggregate_folders, find_benches
from gradience.bench.verify.verify import verify_run
from gradience.errors import InputError
from gradience.files.shared_names import given_text, path_text
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.words import counted

NOTHING = ("not-a-run", "nothing-to-verify")
MADE_AGAIN = (AGGREGATE, DOCUMENT)
"""An aggregate in the folder may be older than its seeds: a new one is made of them."""


def aggregate_checked(folders: Sequence[Path], *, command: str = "") -> BenchAggregate:
    """Aggregate the runs in `folders`, as `aggregate_folders` does.

    What its own records and digests contradict is refused; a result that has none beside it is taken as it stands, and
    a note says so. Raises InputError (`bench-altered`), and what `aggregate_folders` raises.
    """
    for path in find_benches(folders):  # first: whether there is anything at all, and can be read
        Bench.read(path)
    unchecked = [name for folder in folders for name in _unchecked(folder)]
    notes = (
        [f"nothing to check the counts of {', '.join(unchecked)} by: no records beside the result"]
        if unchecked
        else []
    )
    return aggregate_folders(folders, command=command, notes=notes, records_verified=not unchecked)


def _unchecked(folder: Path) -> list[str]:
    """The results in a folder that nothing speaks for. Raises InputError where something speaks against one."""
    place = folder if folder.is_dir() else folder.parent
    try:
        verification = verify_run(place)
    except InputError as error:
        if error.code not in NOTHING:
            raise
        return [path_text(folder)]
    wrong = [one for one in verification.mismatches if one.file not in MADE_AGAIN]
    if wrong:
        first, count = wrong[0], len(wrong)
        where = f"{given_text(place)}/{first.file}" + (f": {first.field}" if first.field else "")
        rest = f" (and {counted(count - 1, 'other mismatch', 'other mismatches')})" if count > 1 else ""
        raise InputError(
            f"{where}: {first.what}{rest}",
            code="bench-altered",
            hint=f"gradience bench verify {given_text(place)} says all; an interrupted or edited run is made whole"
            " by gradience bench run with the same --config and --output",
        )
    return [
        check.what.partition(":")[0]
        for check in verification.checks
        if check.name == "results" and check.result == "not done"
    ]
