"""Records of an evaluation, reused as long as nothing that determines them has changed.

`records/manifest.json` holds, for each file, a key over its inputs (written before the first record) and the file's
sha256 (written after the last one). So a killed evaluation resumes, a finished one is read without loading a model,
and records that were edited or have other inputs are recomputed.
"""

import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, LockedError, OutputError
from gradience.files.records import Evaluation, read_records
from gradience.files.whole import only_one, write_errors
from gradience.reports.evaluation import KeptBudget, KeptFile, KeptRecords, Ledger

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
