"""Write records so that they survive a kill: every batch is on disk before the next one starts.

`NAME.part` beside the file holds the header and the records of the completed batches, in the order in which
they were answered. An evaluation with the same header resumes after them. Batches depend only on the
examples, so the final bytes equal those of an uninterrupted run.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Generic

from gradience.errors import InputError
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.files import records as record_types
from gradience.files.whole import sweep_beside, write_errors, write_whole
from gradience.progress import Progress
from gradience.reading import MAX_DATA_BYTES, read_file


class RecordFile(Generic[record_types.R]):
    """The records of one adapter, batch by batch; only in memory if there is no path."""

    def __init__(
        self,
        run: record_types.ExamplesRun,
        ids: Sequence[str],
        batches: Sequence[Sequence[int]],
        path: Path | None,
        earlier: Sequence[record_types.ExamplesRun] = (),
    ) -> None:
        """Resume from the complete records at `path` or in its `.part`, if the header is the same in every
        byte.

        earlier: headers of whole files with fewer of these examples, which end with one of the batches.
        """
        self.run, self.ids, self.batches, self.path = run, ids, batches, path
        self.done: list[list[record_types.R]] = []
        self.finished = False
        self.part = None if path is None else path.with_name(f"{path.name}.part")
        if path is None or self.part is None:
            return
        with write_errors(path):
            sweep_beside(path)
            try:
                whole: record_types.Evaluation[record_types.R] | None = (
                    record_types.read_records(path) if path.exists() else None
                )
            except InputError:  # not our records; this evaluation replaces the file
                whole = None
            if whole is not None and whole.run == run:  # equal headers include the digest of the examples
                self.done = [[whole.records[place] for place in batch] for batch in batches]
                self.finished = True
                return
            if whole is not None and whole.run in earlier:
                answered = takewhile(lambda batch: max(batch) < whole.run.n, batches)
                self.done = [[whole.records[place] for place in batch] for batch in answered]
            if self.part.exists():
                part = list(self._complete(read_file(self.part, MAX_DATA_BYTES)))
                self.done = max(self.done, part, key=len)

    def keep(self, count: int) -> None:
        """Drop all but the first `count` batches, which all files of the evaluation have."""
        if self.finished and count == len(self.batches):
            return
        self.done, self.finished = self.done[:count], False
        if self.part is not None:
            with write_errors(self.part):
                self.part.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.part, [record_types.line(self.run), *map(record_types.line, chain(*self.done))])

    def append(self, records: Sequence[record_types.R]) -> None:
        """Append the next batch, and flush it to disk."""
        self.done.append(list(records))
        if self.part is not None:
            with write_errors(self.part), self.part.open("ab") as file:
                file.write(b"".join(map(record_types.line, records)))
                file.flush()
                os.fsync(file.fileno())

    def finish(self) -> record_types.Evaluation[record_types.R]:
        """Return all records in the order of the examples; the file is written whole and its `.part` removed."""
        ordered = dict(zip(chain(*self.batches), chain(*self.done), strict=True))
        evaluation = record_types.Evaluation(
            self.run, tuple(ordered[place] for place in range(len(self.ids)))
        )
        if self.path is not None and self.part is not None:
            if not self.finished:
                record_types.write_records(self.path, *evaluation)
            with write_errors(self.part):
                self.part.unlink(missing_ok=True)
        return evaluation

    def _complete(self, content: bytes) -> Iterator[list[record_types.R]]:
        """Yield the batches in `content` whose records are all complete and of the right examples."""
        # A partial last line was interrupted while it was written.
        header, *rows = content.split(b"\n")[:-1] or [b""]
        if header + b"\n" != record_types.line(self.run):
            return
        for batch in self.batches:
            some, rows = rows[: len(batch)], rows[len(batch) :]
            try:
                records = [record_types.parsed_record(self.run.kind, row) for row in some]
            except ValueError:
                return
            if [record.id for record in records] != [self.ids[place] for place in batch]:
                return
            yield records  # type: ignore[misc]  # the header says which kind R is


def answer_batches(
    files: Sequence[RecordFile[record_types.R]],
    answer: Callable[[Sequence[int]], Sequence[Sequence[record_types.R]]],
    on_batch: Progress | None = None,
) -> list[record_types.Evaluation[record_types.R]]:
    """Answer the batches that are missing in any of `files`, which have the same batches.

    answer: places of the examples in a batch -> the records for each of the files. on_batch: called after each batch
    with the number of answered examples.
    """
    batches = files[0].batches
    sizes = [len(batch) for batch in batches]
    first = min(len(file.done) for file in files)
    for file in files:
        file.keep(first)
    for number in range(first, len(batches)):
        before, size = sum(sizes[:number]), sizes[number]
        try:
            batch_records = answer(batches[number])
        except OutOfMemoryError as error:
            error.divisible = size > 1
            raise
        for file, records in zip(files, batch_records, strict=True):
            file.append(records)
        if on_batch is not None:
            on_batch(before + size, sum(sizes))
    return [file.finish() for file in files]


def numerics_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return a description such as `torch 2.13.0, here 2.14.0; threads 1, here 2`; empty if there is no
    difference.

    there: fields of `ExamplesRun`. here: `Engine.numerics`.
    """
    before, now = (
        {"device": facts["device"], "threads": facts["threads"], **facts["versions"]}
        for facts in (there, here)
    )
    return "; ".join(
        f"{name} {before.get(name)}, here {now.get(name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )
