"""Write records so that they survive a kill: every batch is on disk before the next one starts.

`NAME.part` beside the file holds the header and the records of the completed batches, in the order in which
they were answered. An evaluation with the same header resumes after them. Batches depend only on the
examples, so the final bytes equal those of an uninterrupted run.
"""

import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, LockedError, OutputError, UsageError
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.files import records as record_types
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    ExamplesRun,
    GenerationRecord,
    Record,
    read_records,
)
from gradience.files.whole import only_one, sweep_beside, write_errors, write_whole
from gradience.progress import Progress
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.evaluation import KeptBudget, KeptFile, KeptRecords, Ledger
from gradience.statistics.table import PairedTable


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


# ---------------------------------------------------------------- records that are reused
#
# `records/manifest.json` holds, for each file, a key over its inputs (written before the first record) and the file's
# sha256 (written after the last one). So a killed evaluation resumes, a finished one is read without loading a model,
# and records that were edited or have other inputs are recomputed.


RECORDS, MANIFEST = "records", "manifest.json"
VERSION = 3
"""Incremented when equal inputs give different records: older records are then recomputed."""


class RecordStore:
    """The records in one folder, and their manifest."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """note: called with the reason if a finished file is recomputed."""
        self.folder, self._note = folder, note
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self.manifest = KeptRecords.read(folder / MANIFEST)
        except InputError:  # there is none, or this version cannot read it
            self.manifest = KeptRecords(files={})

    def planned(self, examples: int, candidates: Sequence[str] = ()) -> int:
        """Return the number of examples planned before the first answers; `examples` if there are no answers yet.

        candidates: names whose tests share the 5 %, saved with it.
        """
        if self.manifest.examples is None or not self.manifest.files:
            self._write(examples=examples, claims=tuple((name,) for name in candidates))
        return self.manifest.examples or examples

    def first_margin(self, compares: str, margin: Fraction) -> Fraction:
        """Return the margin set before the first answers; `margin` if there are no answers yet.

        compares: `correct` or `nll`; each has its own margin.
        """
        margins = self.manifest.margins if any(self.folder.glob("*.jsonl*")) else {}
        if compares not in margins:
            self._write(margins={**margins, compares: margin})
        return self.manifest.margins[compares]

    def bind(self, plan: str) -> None:
        """Save the digest of the plan beside the records."""
        self._write(plan=plan)

    def budget(self, depends: Mapping[str, Any]) -> int | None:
        """Return the cached batch size in tokens for these inputs, if there is one."""
        kept = self.manifest.budget
        return kept.tokens if kept is not None and kept.key == _key(depends) else None

    def keep_budget(self, depends: Mapping[str, Any], tokens: int) -> None:
        """Save the batch size in tokens. If it changed, all records are restarted, with a single note."""
        files = self.manifest.files if self.budget(depends) in (None, tokens) else {}
        self._write(files=files, budget=KeptBudget(key=_key(depends), tokens=tokens))

    def records(
        self,
        files: Mapping[str, Sequence[Mapping[str, Any]]],
        make: Callable[[Sequence[Path], int], object],
        look: int = 1,
    ) -> list[tuple[Evaluation[Any], str]]:
        """Return the records of each file up to a look or a later one, with their sha256.

        files: name -> for each look, every input that determines the records, as JSON values. make: writes the files
        up to a look, continuing those of an earlier look.
        """
        keys = {name: [_key(entry) for entry in depends] for name, depends in files.items()}
        reached = {name: self._look_reached(name, known) for name, known in keys.items()}
        look = max(look, *reached.values())
        finished = {
            name: self._is_finished(name, known[(reached[name] or look) - 1]) for name, known in keys.items()
        }
        if not all(finished[name] and reached[name] >= look for name in files):
            for name, known in keys.items():
                self._remove_stale(name, known[look - 1], finished=finished[name])
                self._save(name, known[look - 1], None)
            make([self.folder / name for name in files], look)
            for name, known in keys.items():
                self._save(name, known[look - 1], sha256_file(self.folder / name))
        return [(read_records(self.folder / name), self.manifest.files[name].sha256 or "") for name in files]

    def _look_reached(self, name: str, keys: Sequence[str]) -> int:
        """Return the look that a file's key belongs to; 0 if the file is missing or has other inputs."""
        kept = self.manifest.files.get(name)
        return 0 if kept is None or kept.key not in keys else keys.index(kept.key) + 1

    def _remove_stale(self, name: str, key: str, *, finished: bool) -> None:
        """Remove a file that cannot be continued. A finished file, or an unfinished one with this key, stays."""
        kept, path = self.manifest.files.get(name), self.folder / name
        if not finished and (kept is None or kept.key != key or kept.sha256 is not None):
            with write_errors(path):
                path.unlink(missing_ok=True)
                path.with_name(f"{name}.part").unlink(missing_ok=True)

    def _is_finished(self, name: str, key: str) -> bool:
        kept, path = self.manifest.files.get(name), self.folder / name
        if kept is None or kept.sha256 is None:
            return False
        if kept.key != key:
            self._note(f"{name}: evaluating again because its inputs have changed")
            return False
        if path.is_file() and sha256_file(path) == kept.sha256:
            return True
        self._note(f"{name}: evaluating again because the file was modified")
        return False

    def _save(self, name: str, key: str, digest: str | None) -> None:
        self._write(files={**self.manifest.files, name: KeptFile(key=key, sha256=digest)})

    def _write(self, **changes: object) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        self.manifest.save(self.folder / MANIFEST)


def changed_claims(claims: Sequence[Sequence[str]] | None, candidates: Sequence[str]) -> str | None:
    """Return the warning that the candidates changed; None if they are those of the plan, or unknown.

    No grade changes: a test of other candidates has its own 5 %, and the ledger counts it.

    >>> changed_claims([["rank8"], ["rank4"]], ["rank4"])  # doctest: +NORMALIZE_WHITESPACE
    'the candidates changed after the first answers (rank8, rank4; now rank4): this is a further test, and its p-values
    are adjusted for the current candidates only'
    >>> changed_claims([["rank8"]], ["rank8"])
    """
    if claims is None or [[*names] for names in claims] == [[name] for name in candidates]:
        return None
    before = ", ".join(name for names in claims for name in names) or "none"
    return (
        f"the candidates changed after the first answers ({before}; now {', '.join(candidates) or 'none'}):"
        " this is a further test, and its p-values are adjusted for the current candidates only"
    )


def _key(depends: Mapping[str, Any]) -> str:
    return sha256_text(json.dumps({"version": VERSION, **depends}, sort_keys=True, ensure_ascii=False))


# ---------------------------------------------------------------- tests that are counted
#
# The ledger counts the tests of a reference adapter on the same rows, since each further test can add a false claim.
# `.gradience/ledger.json`, beside the folders of the runs, holds keyed digests, without names or results. Repeating a
# test does not count.


FOLDER, LEDGER = ".gradience", "ledger.json"
WAIT = 10.0
"""Seconds to wait for another run that counts its test."""


def count_test(
    output: Path, reference: tuple[str, str], rows: str, claim: Any, note: Callable[[str], None]
) -> int | None:
    """Count a test of a reference on rows; return the number of different tests, or None if the ledger fails.

    output: folder of the run; the ledger is beside it. reference: digests of its files. rows: digest of the
    examples. claim: the tested claim, as JSON values. note: called with the reason if nothing was counted.
    """
    folder = output.absolute().parent / FOLDER
    try:
        with write_errors(folder), only_one(folder, wait=WAIT):
            path = folder / LEDGER
            ledger = Ledger.read(path) if path.is_file() else Ledger(key=secrets.token_hex(16), tests={})
            subject, test = (_keyed(ledger.key, value) for value in ([*reference, rows], claim))
            tests = ledger.tests.get(subject, ())
            if test not in tests:
                tests = (*tests, test)
                ledger.model_copy(update={"tests": {**ledger.tests, subject: tests}}).save(path)
            return len(tests)
    except (InputError, LockedError, OutputError) as error:
        note(f"this test was not counted: {error}")
        return None


def _keyed(key: str, value: Any) -> str:
    return hmac.new(bytes.fromhex(key), json.dumps(value, sort_keys=True).encode(), "sha256").hexdigest()


# ---------------------------------------------------------------- comparison of two adapters, from their records only


T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Adapter B against adapter A on the same examples; None for what this kind of records does not have.

    Scores have KL and flips only if A was B's reference.
    """

    table: PairedTable
    flips: int | None
    """Examples with a different predicted label or choice, a different extracted answer (none counts as an answer), or,
    for scores, a different most likely token at one or more positions."""
    kl_per_example: float | None
    """Mean over examples of KL(A ‖ B) in nats: of the labels, or summed over the tokens of a response."""
    kl_per_example_standard_error: float | None
    """Sample standard deviation over examples, divided by √n; None for a single example."""


def diverge(a: tuple[ExamplesRun, Sequence[T]], b: tuple[ExamplesRun, Sequence[T]]) -> Divergence:
    """Count the changes from adapter A to adapter B.

    Raises UsageError (`not-paired`) when the two were not evaluated on the same examples in the same way.
    """
    (run_a, records_a), (run_b, records_b) = a, b
    same_examples = [_example(r) for r in records_a] == [_example(r) for r in records_b]
    if not same_examples or not run_a.same_run_as(run_b):
        raise UsageError(
            f"{run_a.adapter} and {run_b.adapter} cannot be compared:"
            f" {'their settings' if same_examples else 'their examples'} differ",
            code="not-paired",
            hint="evaluate both again on the same examples, with the same base, batch size, dtype, threads and"
            " versions",
        )
    rows: list[tuple[Any, Any]] = list(zip(records_a, records_b, strict=True))
    flips = None
    kl: NDArray[np.float64] | None = None
    if run_a.kind == "scores":
        against_a = (run_b.reference, run_b.reference_sha256) == (run_a.adapter, run_a.adapter_sha256)
        measured = all(y.kl is not None and y.flips is not None for _, y in rows)
        if run_b.reference is not None and against_a and measured:
            flips, kl = sum(bool(y.flips) for _, y in rows), np.array([y.kl for _, y in rows])
    elif run_a.kind == "generation":
        flips = sum(x.extracted != y.extracted for x, y in rows)
    else:
        flips = sum(x.predicted != y.predicted for x, y in rows)
        if run_a.kind == "classification":
            kl = kl_divergence(np.array([x.logits for x, _ in rows]), np.array([y.logits for _, y in rows]))
    return Divergence(
        table=PairedTable.of((x.correct for x, _ in rows), (y.correct for _, y in rows)),
        flips=flips,
        kl_per_example=None if kl is None else float(kl.mean()),
        kl_per_example_standard_error=None
        if kl is None or len(kl) < 2
        else float(kl.std(ddof=1) / np.sqrt(len(kl))),
    )


def _example(record: Record) -> tuple[str | int, ...]:
    """Return the fields that are equal in all records of an example."""
    if isinstance(record, ClassificationRecord):
        return record.id, record.text_sha256, record.label
    if isinstance(record, GenerationRecord):
        return record.id, record.prompt_sha256, record.answer
    if isinstance(record, ChoiceRecord):
        return record.id, record.prompt_sha256, record.choices_sha256, record.label
    return record.id, record.prompt_sha256, record.response_sha256


def kl_divergence(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """KL(softmax(a) ‖ softmax(b)) of each row, in nats: (examples, labels) twice -> (examples,), float64."""
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    divergence = (np.exp(log_a) * (log_a - log_b)).sum(axis=1)
    return np.asarray(np.maximum(divergence, 0.0))  # rounding may leave it below 0


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
