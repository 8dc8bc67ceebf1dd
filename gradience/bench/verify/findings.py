"""Checks, mismatches and gaps of a verification, collected as it goes."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from gradience import __version__
from gradience.bench.verdict.differences import differences, is_equal
from gradience.errors import GradienceError, InputError, shortened
from gradience.files import strict_json
from gradience.files.artifact import Artifact
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.base.report import Report, RunInfo
from gradience.reports.verification import CheckLevel, Level, Verdict, VerificationCheck, VerificationMismatch
from gradience.words import counted

A = TypeVar("A", bound=Artifact)
Link = tuple[str, str, Any, Any]
"""File, field, recorded value, expected value."""
MAX_BYTES = 400
"""Longest quoted value, since it may come from an untrusted file."""
WORDS = {"description", "notes", "obstacles", "rank_basis", "reasons", "why", "words"}
"""Fields that hold sentences, which another version may word in another way."""


class Findings:
    """Checks, mismatches and gaps. Checks continue after a mismatch, so that all mismatches are found."""

    def __init__(self, named: Callable[[str], str] = str) -> None:
        """named: how the reader knows the files in a text, which may lie in a temporary folder."""
        self.named = named
        self.checks: list[VerificationCheck] = []
        self.mismatches: list[VerificationMismatch] = []
        self.gaps: list[str] = []
        self._inside = ""

    @contextmanager
    def inside(self, folder: str) -> Iterator[None]:
        """Prefix the names of files and checks with `folder` (such as `seed_1/`) within the block."""
        before, self._inside = self._inside, f"{self._inside}{folder}"
        try:
            yield
        finally:
            self._inside = before

    def mismatch(self, file: str, problem: str, field: str = "") -> None:
        """Record a mismatch."""
        mismatch = VerificationMismatch(
            file=self.named_in_run(file), field=field, what=shortened(self.named(problem), MAX_BYTES)
        )
        if mismatch not in self.mismatches:
            self.mismatches.append(mismatch)

    def read(self, kind: type[A], path: Path) -> A | None:
        """Read a file of a result. One that cannot be read is a mismatch, and None."""
        try:
            return kind.read(path)
        except InputError as error:
            self.mismatch(path.name, str(error))
            return None

    def named_in_run(self, file: str) -> str:
        """Return the path of a file relative to the run's folder."""
        return f"{self._inside}{file}"

    def compare(self, links: Iterable[Link]) -> None:
        """Record each value that differs from another file."""
        for file, field, actual, expected in links:
            if not (is_equal(actual, expected) if isinstance(actual, float) else actual == expected):
                self.differ(file, field, actual, expected)

    def compare_values(self, file: str, recorded: Any, expected: Any) -> None:
        """Record each field in which the values of a file differ from the expected ones."""
        for field, now, wanted in differences(recorded, expected):
            self.differ(file, field, now, wanted)

    def compare_json(self, path: Path, again: Report, *, ignored: Collection[str] = ()) -> None:
        """Record the fields in which the file of a result differs from the result that was computed again.

        ignored: fields that are taken as recorded, besides the schema and the run.
        """
        values = strict_json.loads(read_file(path, MAX_DATA_BYTES), path, path.name)
        computed = again.model_dump(mode="json")
        version = computed["run"]["gradience_version"]
        for field, recorded, expected in differences(values, computed, ignored=("schema", "run", *ignored)):
            if version != __version__ and not WORDS.isdisjoint(field.split(".")):
                self.gap(f"sentences of version {version}: not compared")
            else:
                self.differ(path.name, field, recorded, expected)

    def compare_page(self, path: Path, result: Report, run: RunInfo) -> None:
        """Compare the page beside the file of a result, if there is one, with the page made from the result.

        run: the run that wrote it.
        """
        page = path.with_suffix(".md")
        if not page.is_file():
            return
        version, name = run.gradience_version, page.name
        if version != __version__:
            self.not_done("pages", "L1", f"{name}: written by another version ({version}), not compared")
            return
        with self.check("pages", "L1", f"{name} matches its JSON, byte for byte", name):
            if read_file(page, MAX_DATA_BYTES) != result.to_markdown().encode():
                self.mismatch(name, "differs from the page generated from its JSON")

    def differ(self, file: str, field: str, recorded: Any, expected: Any) -> None:
        """Record a value that differs from the expected one."""
        self.mismatch(file, f"{recorded}; must be {expected}", field)

    def gap(self, problem: str) -> None:
        """Record what was not verified, without duplicates."""
        problem = self._said(self.named(problem))
        if problem not in self.gaps:
            self.gaps.append(problem)

    def not_done(self, name: str, level: CheckLevel, why: str) -> None:
        """Record that a check was not made."""
        what = self._said(self.named(why))
        self.checks.append(VerificationCheck(name=name, level=level, result="not done", what=what))

    def _said(self, text: str) -> str:
        return f"{self._inside.removesuffix('/')}: {text}" if self._inside else text

    @contextmanager
    def remaking(self, file: str) -> Iterator[None]:
        """Record an error in the block as a mismatch of `file`, which cannot be made again.

        Files of unknown origin may be inconsistent, and then nothing can be computed from them.
        """
        try:
            yield
        except (GradienceError, LookupError, ValueError, ArithmeticError, AssertionError) as error:
            self.mismatch(file, f"cannot be recomputed: {type(error).__name__}: {error}")

    @contextmanager
    def check(self, name: str, level: CheckLevel, description: str, file: str = "") -> Iterator[None]:
        """Run one check. It fails if the block reports a mismatch. description: what holds if it passes.

        file: an InputError in the block is a mismatch of this file.
        """
        before, passed, what = len(self.mismatches), False, "stopped by an error"
        try:
            try:
                yield
            except InputError as error:
                if not file:
                    raise
                self.mismatch(file, str(error))
            failures = len(self.mismatches) - before
            passed, what = not failures, description
            if failures:
                what = counted(failures, "mismatch", "mismatches")
        finally:
            self.checks.append(
                VerificationCheck(
                    name=name,
                    level=level,
                    result="passed" if passed else "failed",
                    what=self._said(what),
                )
            )

    def verdict(self, *, from_outside: bool) -> Verdict:
        """Return the verdict. from_outside: a digest that was published elsewhere was given, and compared."""
        if self.mismatches:
            return "mismatch"
        return "verified" if from_outside else "consistent"

    @property
    def level(self) -> Level | None:
        """Return the highest level at which, and below which, everything passed; None after a mismatch."""
        if self.mismatches or not any(check.result == "passed" for check in self.checks):
            return None
        reached: Level | None = None
        levels: tuple[Level, ...] = ("L1", "L2", "L3")
        for level in levels:
            results = {check.result for check in self.checks if check.level == level}
            if level != "L1" and "passed" not in results:
                break
            if level == "L2" and "not done" in results:
                break
            reached = level
        return reached
