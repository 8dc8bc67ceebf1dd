"""`fleet.jsonl` and how it survives a kill: rows are appended to `fleet.jsonl.part` as they come, and at the end the
file itself is replaced whole.

A row is taken over if every file of its adapter has the size and the time of change that it had, unless it is a
failure: those are tried again.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Self

from gradience.adapters.files import Closing
from gradience.errors import InputError
from gradience.files.whole import lock_alone, write_errors, write_whole
from gradience.fleet.measure import stamp_of, stamped_files
from gradience.reading import MAX_DATA_BYTES, MAX_SETTINGS_BYTES, open_stream
from gradience.reports.fleet import FleetRow

PART = ".part"
MAX_ROW = MAX_SETTINGS_BYTES
"""Bytes of a line."""
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Never through a link, and never waiting for the reader of a pipe."""
BEGINS = b'{"schema":"gradience.fleet_row/'
"""First bytes of a row that was written here."""


class FleetJournal(Closing):
    """The rows of one run, on the disk. Use as a context manager; only one process at a time."""

    def __init__(self, output: Path, part: Path, file: FileIO, stack: ExitStack) -> None:
        self._output, self._part, self._file, self._stack = output, part, file, stack

    @classmethod
    def begin(cls, output: Path) -> Self:
        """Open or continue the journal of a file.

        Raises LockedError (output-locked), InputError (not-a-file, not-ours), OutputError (write-failed).
        """
        part = output.with_name(output.name + PART)
        with write_errors(part), ExitStack() as stack:
            file = stack.enter_context(os.fdopen(os.open(part, FLAGS, 0o666), "ab", buffering=0))
            lock_alone(file.fileno(), output)
            with open_stream(part) as rows:
                head = rows.read(len(BEGINS))
            if not BEGINS.startswith(head):  # it is neither continued nor removed
                raise InputError(
                    f"{part}: not the unfinished rows of a fleet run, so nothing is written to it",
                    code="not-ours",
                    hint="move this file away, or give another --output",
                )
            return cls(output, part, file, stack.pop_all())

    def close(self) -> None:
        """Close the journal; what it holds stays for the next run."""
        self._stack.close()

    def kept(self, paths: Mapping[str, Path]) -> dict[str, FleetRow]:
        """Return the rows of earlier runs that still hold, by name.

        paths: the adapters of this run by name. Raises InputError if the earlier file was not written by Gradience.
        """
        kept: dict[str, FleetRow] = {}
        finished = read_rows(self._output) if self._output.exists() else ()
        for row in chain(self._unfinished(), finished):
            path = paths.get(row.path)
            if path is None or row.status == "failed" or row.path in kept:
                continue
            if stamp_of(stamped_files(path)) == row.stamp:
                kept[row.path] = row
        return kept

    def _unfinished(self) -> Iterator[FleetRow]:
        """Yield the rows of a killed run. After a line that a kill cut short, new rows go on."""
        end = 0
        for line in _lines(self._part):
            try:
                if not (line.startswith(BEGINS) and line.endswith(b"\n")):
                    break
                yield FleetRow.parse(self._part, line)
            except InputError:
                break
            end += len(line)
        with write_errors(self._part):
            self._file.truncate(end)

    def add(self, row: FleetRow) -> None:
        """Append a row. Raises OutputError (write-failed)."""
        with write_errors(self._output):
            rest = memoryview(_line_of(row))
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, rows: Iterable[FleetRow]) -> None:
        """Write the file, with these rows, and remove the journal."""
        write_whole(self._output, map(_line_of, rows))
        with write_errors(self._part):
            self._part.unlink()


def _line_of(row: FleetRow) -> bytes:
    return row.to_json(indent=None).encode() + b"\n"


def read_rows(path: Path) -> Iterator[FleetRow]:
    """Yield the rows of a `fleet.jsonl`, one in memory at a time. Raises InputError as `Artifact.read` does."""
    for line in _lines(path):
        yield FleetRow.parse(path, line)


def _lines(path: Path) -> Iterator[bytes]:
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        while line := file.readline(MAX_ROW + 1):
            if len(line) > MAX_ROW:
                raise InputError(
                    f"{path}: not rows of a fleet: a line of more than {MAX_ROW:,} bytes",
                    code="artifact-invalid",
                    hint=FleetRow.repair,
                )
            yield line
