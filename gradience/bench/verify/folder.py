"""The run under verification: its plan, its config, and its files against their digests."""

import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gradience import __version__
from gradience.adapters.locate import WEIGHTS
from gradience.bench.config import BenchConfig
from gradience.bench.verdict.aggregate import BENCH, CONFIG, PLAN, differences, is_equal
from gradience.bench.verdict.facts import BEGUN
from gradience.digests import sha256_file
from gradience.errors import GradienceError, InputError, shortened
from gradience.files import strict_json, strict_yaml
from gradience.files.artifact import Artifact
from gradience.files.digests import DIGESTS, Digests, files_below, root_of
from gradience.files.shared_names import given_text, values_text
from gradience.reading import MAX_DATA_BYTES, MAX_SETTINGS_BYTES, read_file
from gradience.reports.base.report import Report, RunInfo
from gradience.reports.bench import Bench, Status
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import MANIFEST, StageManifest
from gradience.reports.verification import CheckLevel, Level, Verdict, VerificationCheck, VerificationMismatch
from gradience.words import counted, listed

# ---------------------------------------------------------------- findings of a verification


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
        for file, place, actual, expected in links:
            if not (is_equal(actual, expected) if isinstance(actual, float) else actual == expected):
                self.differ(file, place, actual, expected)

    def compare_values(self, file: str, recorded: Any, expected: Any) -> None:
        """Record each field in which the values of a file differ from the expected ones."""
        for place, now, wanted in differences(recorded, expected):
            self.differ(file, place, now, wanted)

    def compare_json(self, path: Path, again: Report, *, ignored: Collection[str] = ()) -> None:
        """Record the fields in which the file of a result differs from the result that was computed again.

        ignored: fields that are taken as recorded, besides the schema and the run.
        """
        values = strict_json.loads(read_file(path, MAX_DATA_BYTES), path, path.name)
        computed = again.model_dump(mode="json")
        version = computed["run"]["gradience_version"]
        for place, recorded, expected in differences(values, computed, ignored=("schema", "run", *ignored)):
            if version != __version__ and not WORDS.isdisjoint(place.split(".")):
                self.gap(f"sentences of version {version}: not compared")
            else:
                self.differ(path.name, place, recorded, expected)

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


# ---------------------------------------------------------------- the folder of a run


ARCHIVE = "everything.tar.xz"
"""Archive made by `benchmarks/pack_results.py` from the files of a run other than its results."""
MAX_MEMBERS = 100_000


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with the unpacked archive, or the folder itself if nothing is packed.

    Raises InputError (`bad-archive`) for an archive that is damaged, too large, or leads out of its folder.
    """
    if not (folder / ARCHIVE).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gradience-") as name:
        place, size = Path(name) / "run", 0
        try:
            with tarfile.open(folder / ARCHIVE, "r|xz") as archive:
                for number, member in enumerate(archive):
                    size += member.size
                    if size > MAX_DATA_BYTES or number > MAX_MEMBERS:
                        raise tarfile.TarError(f"more than {MAX_DATA_BYTES:,} bytes or {MAX_MEMBERS:,} files")
                    archive.extract(member, place, filter="data")
            shutil.copytree(
                folder, place, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(ARCHIVE)
            )
        except (tarfile.TarError, lzma.LZMAError, EOFError, shutil.Error, OSError) as error:
            raise InputError(
                f"{folder / ARCHIVE}: cannot be unpacked: {error}",
                code="bad-archive",
                hint="download the archive again from the publisher",
            ) from None
        try:
            yield place
        except GradienceError as error:
            error.args = (as_published(str(error), place, folder),)
            raise


def as_published(text: str, place: Path, folder: Path) -> str:
    """Return a text in which the temporary folder `place` has the name of the published one."""
    return text.replace(str(place), str(folder))


@dataclass
class RunFolder:
    """A run, or one seed of it, and what has come out so far."""

    folder: Path
    """Folder of the run, with plan.json; temporary if the run is packed."""
    published: Path
    """Folder in which the run was published. Relative paths of its config start there."""
    only: str = ""
    """The seed's folder inside it, if only that seed is verified."""
    findings: Findings = field(default_factory=Findings)
    places: list[str] = field(default_factory=lambda: [""])
    """Folders of the verified seeds inside the run's folder; empty name: the folder itself is a seed."""
    status: Status | None = None
    """The verdict recorded in the folder."""
    code: str | None = None
    """Version of Gradience in the plan."""
    seeds: list[int] = field(default_factory=list)
    """Seeds whose results were recomputed."""
    without_records: list[str] = field(default_factory=list)
    """Results that could not be recomputed."""
    shared: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """Kind of fact that all seeds share -> its value, and the first file that has it."""
    unique: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """(kind, digest) that must differ between seeds -> (folder of the seed, first file that has it)."""

    def differs(self, kind: str, value: Any, file: str) -> str:
        """Return the first file of the run that has another value of this kind; empty if there is none."""
        first, named = self.shared.setdefault(kind, (value, self.findings.named_in_run(file)))
        return "" if first == value else named

    def plan(self) -> BenchPlan:
        """Return the plan in the folder.

        Raises InputError (`artifact-invalid` if the plan names no examples), and what `BenchPlan.read` raises.
        """
        plan = BenchPlan.read(self.folder / PLAN)
        missing = {"train", plan.eval_role} - {split.role for split in plan.splits}
        if missing:
            raise InputError(
                f"{self.folder / PLAN}: splits: no {' and no '.join(sorted(missing))} examples",
                code="artifact-invalid",
                hint="get the original plan.json of the run",
            )
        return plan

    def config(self, plan: BenchPlan, result: Bench | None = None) -> BenchConfig:
        """Return the config with the plan's protocol digest; its relative paths start at the published folder.

        result: seed whose settings are preferred, since seeds may have run on different machines.
        Raises InputError (`other-config`) if there is none.
        """
        fitting = [one for one in self.configs() if one.protocol_digest() == plan.protocol_digest]
        if not fitting:
            raise InputError(
                f"{self.published}: neither {CONFIG} nor {BENCH} holds the config that {PLAN} was made from",
                code="other-config",
                hint="get the original config.yaml of the run",
            )
        of_result = (
            one for one in fitting if result and values_text(one.model_dump(mode="json")) == result.config
        )
        return next(of_result, fitting[0]).seen_from(self.published)

    def configs(self) -> Iterator[BenchConfig]:
        """Yield the readable configs: config.yaml, which has full paths, then those in the results."""
        with suppress(InputError, ValidationError):
            text = read_file(self.folder / CONFIG, MAX_SETTINGS_BYTES)
            yield BenchConfig.model_validate(strict_yaml.loads(text, self.folder / CONFIG))
        for path in sorted((*self.folder.glob(BENCH), *self.folder.glob(f"seed_*/{BENCH}"))):
            with suppress(InputError, ValidationError):
                yield BenchConfig.model_validate(Bench.read(path).config)


# ---------------------------------------------------------------- digests: of the folder, and of each stage

SHOWN = 8


def check_files(folder: Path, findings: Findings, *, below: str = "", expected: str | None = None) -> None:
    """Compare the files in `folder` with its `digests.json`, and that with the root that is expected.

    below: only names that begin so.
    """
    root = root_of(folder)
    if expected is not None:
        with findings.check("root", "L1", f"{DIGESTS} has the root given with --root"):
            if root != expected.strip().lower():
                problem = f"sha256 is {root or 'unavailable: the file is missing'}; expected: {expected}"
                findings.mismatch(DIGESTS, problem)
    if root is None:
        findings.not_done("files", "L1", f"no {DIGESTS}: the run is unfinished")
        findings.gap("files that no stage manifest lists (there is no digests.json)")
        return
    digests = findings.read(Digests, folder / DIGESTS)
    if digests is None:
        return
    named = {name: digest for name, digest in digests.files.items() if name.startswith(below)}
    present = {name: path for name, path in files_below(folder).items() if name.startswith(below)}
    absent = [name for name in named if name not in present and not name.endswith(WEIGHTS)]
    if 2 * len(absent) > len(named):  # named once, not hundreds of times
        problem = f"{len(absent):,} of {len(named):,} listed files are missing, such as {absent[0]}"
        findings.mismatch(DIGESTS, f"{problem}: get {ARCHIVE} of the run and put it into the folder")
        named = {name: digest for name, digest in named.items() if name not in absent}
    with findings.check("files", "L1", f"{len(named):,} files match {DIGESTS}"):
        gone = _compare(named, present, DIGESTS, findings)
    if gone:
        findings.gap(f"the weights of {counted(gone, 'adapter')} that {DIGESTS} lists but that are missing")
    if extra := sorted(present.keys() - named.keys()):
        findings.gap(f"not listed in {DIGESTS}: {listed(extra, SHOWN)}")


def stages_of(seed: Path) -> list[Path]:
    """Return the folders of the finished stages of a seed."""
    return sorted(path.parent for path in (*seed.glob(f"*/{MANIFEST}"), *seed.glob(f"*/*/{MANIFEST}")))


def check_stages(seed: Path, plan_digest: str | None, findings: Findings) -> None:
    """Compare every file of every stage with its manifest. plan_digest: digest that the manifests must name."""
    stages, gone = stages_of(seed), 0
    if not stages:
        return
    with findings.check("stages", "L1", f"{len(stages)} stages match their manifests"):
        for stage in stages:
            name = given_text(stage.relative_to(seed).as_posix())
            with findings.inside(f"{name}/"):
                gone += _check_stage(stage, name, plan_digest, findings)
    if gone:
        findings.gap(f"weights of {counted(gone, 'adapter')}: not kept (only their digests are recorded)")


def _check_stage(stage: Path, name: str, plan_digest: str | None, findings: Findings) -> int:
    """Compare the files of one stage; return the number of missing weights files."""
    manifest = findings.read(StageManifest, stage / MANIFEST)
    if manifest is None:
        return 0
    if manifest.stage != name:
        findings.mismatch(MANIFEST, f"of the stage {manifest.stage}", "stage")
    if plan_digest is not None and manifest.plan_digest != plan_digest:
        findings.mismatch(MANIFEST, "made for a different plan than plan.json", "plan_digest")
    paths = (path for path in sorted(stage.rglob("*")) if path.is_file())
    present = {given_text(path.relative_to(stage).as_posix()): path for path in paths}
    digests = {name: file.sha256 for name, file in manifest.files.items()}
    for name, path in present.items():
        if not path.name.startswith(".") and name not in {*digests, MANIFEST, BEGUN}:
            findings.mismatch(name, f"not among the files of its stage ({MANIFEST})")
    return _compare(digests, present, MANIFEST, findings)


def _compare(listed: Mapping[str, str], present: Mapping[str, Path], source: str, findings: Findings) -> int:
    """Compare files with the digests in `source`; return how many files of weights are missing."""
    gone = 0
    for name, digest in listed.items():
        path = present.get(name)
        if path is None:
            if name.endswith(WEIGHTS):  # large, and often not published
                gone += 1
            else:
                findings.mismatch(name, f"listed in {source}, but missing")
            continue
        limit = None if name.endswith(WEIGHTS) else MAX_DATA_BYTES
        try:
            now = sha256_file(path, limit=limit)
        except InputError as error:
            findings.mismatch(name, str(error))
            continue
        if now != digest:
            findings.mismatch(name, f"sha256 {now[:16]}…; in {source} {digest[:16]}…")
    return gone
