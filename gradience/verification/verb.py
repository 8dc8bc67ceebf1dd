"""The public function `verify`: the kind of folder decides which results are checked. Comparisons of two logs."""

import secrets
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

from gradience.bench.plan import GUARDS
from gradience.bench.settings import VerifySettings, existing_folder
from gradience.bench.verdict.aggregate import AGGREGATE, BENCH, PLAN
from gradience.bench.verify.folder import Findings, RunFolder, as_published, check_files, unpacked
from gradience.bench.verify.recompute import check_data as check_bench_data
from gradience.bench.verify.verify import checked_run
from gradience.compress.carry import DISTILL_REPORT, REPORT
from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.evaluate.verb import EVALUATION, JOINT
from gradience.evidence.verb import compare_logs
from gradience.files.digests import DIGESTS, root_of
from gradience.files.shared_names import path_text
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.base.exact import exact_text
from gradience.reports.base.report import Stopwatch
from gradience.reports.evidence import EvidenceReport, LogFacts
from gradience.reports.verification import Verification
from gradience.settings import public
from gradience.shrink.verb import SHRUNK
from gradience.tasks.user_code import allowing
from gradience.verification import answers

EVIDENCE = "evidence.json"


def check_evidence(place: Path, findings: Findings, _: answers.KnownAdapters) -> None:
    """Make evidence.json again from the two logs, found in the folder or at their paths by their digests."""
    report = EvidenceReport.read(place / EVIDENCE)
    a, b = (_log_at(place, log, findings) for log in (report.a, report.b))
    if a is None or b is None:
        findings.not_done("result", "L1", f"{EVIDENCE}: a log is missing; cannot recompute")
        return
    most = max((sum(flip.change == side for flip in report.flips) for side in ("lost", "gained")), default=0)
    margin = Fraction(repr(report.margin)) * (1 if report.table is None else 100)
    with findings.check("result", "L1", f"{EVIDENCE}: every number and sentence matches the logs", EVIDENCE):
        again = compare_logs(
            a,
            b,
            margin=float(exact_text(margin)),
            metric=report.metric,
            filter=report.filter,
            group=report.grouped_by,
            lower_is_better=report.lower_is_better or None,
            flips=most,
        )
        findings.compare_json(place / EVIDENCE, again, ignored=("a.path", "b.path"))


def _log_at(place: Path, log: LogFacts, findings: Findings) -> Path | None:
    """Return the log with the recorded digest; report another file under its name."""
    at = [place / Path(log.path).name, place / log.path, Path(log.path)]
    present = [path for path in at if path.is_file()]
    for path in present:
        if sha256_file(path, limit=MAX_DATA_BYTES) == log.sha256:
            return path
    if present and present[0].is_relative_to(place):
        findings.mismatch(present[0].name, f"sha256 is not {log.sha256[:16]}…, as {EVIDENCE} says")
    findings.gap(f"{log.path}: the log is not here (sha256 {log.sha256[:12]}…)")
    return None


CHECKS: Mapping[str, Callable[[Path, Findings, answers.KnownAdapters], object]] = {
    SHRUNK: answers.check_shrink,
    EVALUATION: answers.check_evaluation,
    JOINT: answers.check_sets,
    EVIDENCE: check_evidence,
    REPORT: answers.check_compression,
    DISTILL_REPORT: answers.check_distillation,
}
"""File of a result -> its check."""
UNCOUNTED = "earlier tests on these examples: the ledger that counts them is not in the folder"
MADE_UP = (
    "fabricated records would also pass. A root published in advance dates the result; only running the command again"
    " tests the answers"
)


@public(VerifySettings)
def verify(settings: VerifySettings) -> Verification:
    """Verify a result: a Bench run, or a folder of `shrink`, `evaluate`, `evidence`, `compress` or `distill`.

    >>> verify("runs/mine").level  # doctest: +SKIP
    'L2'

    Digests, scores of the stored answers, counts, grades, sentences and pages are recomputed, and sizes are read from
    the weights. Needs no model unless answers are regenerated. Keywords, named like the flags of `gradience verify`:

    Raises InputError (`not-a-run`, `nothing-to-verify`) if there is nothing to verify, UsageError
    (`not-of-bench`) for a setting that applies only to Bench.
    """
    folder, watch = Path(settings.folder), Stopwatch(settings.command)
    names = [name for name in CHECKS if (folder / name).is_file()]
    if not names or any((folder / name).is_file() for name in (BENCH, AGGREGATE)):
        with allowing(settings.allow_code), checked_run(existing_folder(folder), settings.root) as run:
            return _of_run(settings, run, watch)
    if settings.regenerate is not None:
        raise UsageError(
            f"--regenerate: only the answers of a Bench run are regenerated, and {folder} holds {names[0]}",
            code="not-of-bench",
            hint="leave it out; to regenerate the answers, run the command that the result contains",
        )
    with unpacked(folder) as place, answers.KnownAdapters(place) as adapters:
        findings = Findings(lambda text: as_published(text, place, folder))
        if (place / DIGESTS).is_file() or settings.root is not None:
            check_files(place, findings, expected=settings.root)
        plan = _plan_digest(place, settings.plan, findings)
        for name in names:
            with findings.remaking(name):
                CHECKS[name](place, findings, adapters)
            if settings.data:
                with findings.remaking(name):
                    answers.check_data(name, place, findings)
    if {SHRUNK, EVALUATION, JOINT} & {*names}:
        findings.gap(UNCOUNTED)
    return _report(settings, findings, watch, folder, plan)


def _of_run(settings: VerifySettings, run: RunFolder, watch: Stopwatch) -> Verification:
    """Check what `checked_run` has left of a Bench run, and return the report."""
    findings = run.findings
    plan = _plan_digest(run.folder, settings.plan, findings)
    for path in sorted(run.folder.glob(f"**/{GUARDS}/*/{EVALUATION}")):
        inside = f"{path.parent.relative_to(run.folder).as_posix()}/"
        if inside.startswith(run.only):
            with findings.inside(inside), findings.remaking(EVALUATION):
                answers.check_answers(path.parent, findings)
    if settings.data:
        check_bench_data(run)
    sample_seed, again = settings.sample_seed, None
    if settings.regenerate is not None:
        from gradience.bench.verify.regenerate import regenerated

        sample_seed = secrets.randbelow(2**32) if sample_seed is None else sample_seed
        again = regenerated(run, least=settings.regenerate, seed=sample_seed)
    of_run = {"code": run.code, "status": run.status, "seeds": tuple(run.seeds), "regenerated": again}
    sample = {"sample_seed": None if again is None else sample_seed}
    return _report(settings, findings, watch, run.published, plan).model_copy(update=of_run | sample)


def _plan_digest(folder: Path, expected: str | None, findings: Findings) -> str | None:
    """Return the sha256 of plan.json, if it is there; compare it with the one that is expected."""
    present = sha256_file(folder / PLAN) if (folder / PLAN).is_file() else None
    if expected is not None:
        with findings.check("plan digest", "L1", f"{PLAN} has the digest given with --plan"):
            if present != expected.strip().lower():
                problem = f"sha256 is {present or 'unavailable: no file'}; expected: {expected}"
                findings.mismatch(PLAN, problem)
    return present


def _report(
    settings: VerifySettings, findings: Findings, watch: Stopwatch, published: Path, plan: str | None
) -> Verification:
    root = root_of(published)
    if settings.root is None:
        missing = f"it has no root ({DIGESTS} is missing)"
        how = missing if root is None else "give the published root with --root"
        findings.gap(f"the origin of the folder: {how}")
    findings.gap(MADE_UP)
    return Verification(
        folder=path_text(settings.folder),
        verdict=findings.verdict(from_outside=settings.root is not None or settings.plan is not None),
        level=findings.level,
        root=root,
        root_expected=settings.root,
        plan=plan,
        plan_expected=settings.plan,
        status=None,
        seeds=(),
        checks=tuple(findings.checks),
        mismatches=tuple(findings.mismatches),
        not_verified=tuple(findings.gaps),
        run=watch.run_info(),
    )
