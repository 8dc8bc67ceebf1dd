"""`fleet.jsonl` and how it survives a kill: rows are appended to `fleet.jsonl.part` as they come, and at the end the
file itself is replaced whole.

A row is taken over if every file of its adapter has the size and the time of change that it had, or else if
weights and config have the digests that they had (copied, downloaded again), and where it did not fail: failures are
tried again.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import Self

from gradience.adapters.files import Closing
from gradience.errors import InputError, LockedError
from gradience.files.whole import write_errors, write_whole
from gradience.fleet.measure import same_content, stamp_of, stamped_files
from gradience.reading import MAX_DATA_BYTES, MAX_SETTINGS_BYTES, not_a_file, open_stream
from gradience.reports.fleet import FleetRow

PART = ".part"
MAX_ROW = MAX_SETTINGS_BYTES
"""Bytes of a line."""
BEGINS = b'{"schema":"gradience.fleet_row/'
"""First bytes of a row that was written here."""


class FleetJournal(Closing):
    """The rows of one run, on the disk. Use as a context manager; only one process at a time."""

    def __init__(self, output: Path, file: FileIO, stack: ExitStack) -> None:
        self.output = output
        self._file = file
        self._stack = stack
        self._places: dict[str, tuple[int, int]] = {}
        """Name -> offset and length of its row."""
        self._end = os.fstat(file.fileno()).st_size

    @classmethod
    def begin(cls, output: Path) -> Self:
        """Open or continue the journal of a file.

        Raises LockedError (output-locked), InputError (not-a-file, not-ours), OutputError (write-failed).
        """
        part = output.with_name(output.name + PART)
        with write_errors(part), ExitStack() as stack:
            file = stack.enter_context(_appended(part))
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(
                    f"{output}: another run is writing it",
                    code="output-locked",
                    hint="wait until it ends, or give another --output",
                ) from None
            with open_stream(part) as rows:
                head = rows.read(len(BEGINS))
            if not BEGINS.startswith(head):  # it is neither continued nor removed
                raise InputError(
                    f"{part}: not the unfinished rows of a fleet run, so nothing is written to it",
                    code="not-ours",
                    hint="move this file away, or give another --output",
                )
            return cls(output, file, stack.pop_all())

    def close(self) -> None:
        """Close the journal; what it holds stays for the next run."""
        self._stack.close()

    def kept(self, paths: Mapping[str, Path], *, allow_pickle: bool = False) -> Iterator[FleetRow]:
        """Yield the rows of earlier runs that still hold, each name once.

        paths: the adapters of this run by name; allow_pickle: pickles among them are read again if they were
        touched. Raises InputError if the earlier file was not written by Gradience.
        """
        part = self.output.with_name(self.output.name + PART)
        touched = []
        for start, line in _lines(part):
            row = None
            with suppress(InputError):
                if line.startswith(BEGINS) and line.endswith(b"\n"):
                    row = FleetRow.parse(Path("journal"), line)
            if row is None:  # a kill cut it short, or it was never written by us: rows go on from here
                with write_errors(part):
                    self._file.truncate(start)
                self._end = start
                break
            current = self._current(row, paths, allow_pickle=allow_pickle)
            if current is not None and current == row:
                self._places[current.path] = (start, len(line))
                yield current
            elif current is not None:
                touched.append(current)
        for row in touched:
            if row.path not in self._places:
                self.add(row)
                yield row
        if self.output.exists():
            for row in read_rows(self.output):
                current = self._current(row, paths, allow_pickle=allow_pickle)
                if current is not None:
                    self.add(current)
                    yield current

    def _current(self, row: FleetRow, paths: Mapping[str, Path], *, allow_pickle: bool) -> FleetRow | None:
        """The row, with the stamp of today if files were touched and not changed; None for one that is outdated."""
        path = paths.get(row.path)
        if path is None or row.status == "failed" or row.path in self._places:
            return None
        stamp = stamp_of(stamped_files(path))
        if stamp == row.stamp:
            return row
        same = same_content(row, path, allow_pickle=allow_pickle)
        return row.model_copy(update={"stamp": stamp}) if same else None

    def add(self, row: FleetRow) -> None:
        """Append a row. Raises OutputError (write-failed)."""
        line = row.to_json(indent=None).encode() + b"\n"
        self._places[row.path] = (self._end, len(line))
        with write_errors(self.output):
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        self._end += len(line)

    def finish(self, names: Iterable[str]) -> None:
        """Write the file, with the rows of these names in this order, and remove the journal."""
        part = self.output.with_name(self.output.name + PART)
        with open_stream(part) as file:

            def rows() -> Iterator[bytes]:
                for name in names:
                    start, size = self._places[name]
                    file.seek(start)
                    yield file.read(size)

            write_whole(self.output, rows())
        with write_errors(part):
            part.unlink()


def read_rows(path: Path) -> Iterator[FleetRow]:
    """Yield the rows of a `fleet.jsonl`, one in memory at a time. Raises InputError as `Artifact.read` does."""
    for _, line in _lines(path):
        yield FleetRow.parse(path, line)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    start = 0
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        while line := file.readline(MAX_ROW + 1):
            if len(line) > MAX_ROW:
                raise InputError(
                    f"{path}: not rows of a fleet: a line of more than {MAX_ROW:,} bytes",
                    code="artifact-invalid",
                    hint=FleetRow.repair,
                )
            yield start, line
            start += len(line)


def _appended(part: Path) -> FileIO:
    """The journal, open at its end: never through a link, and never waiting for a reader."""
    if part.is_symlink():
        raise not_a_file(part)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(part, flags, 0o666), "ab", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise not_a_file(part)
    return file
