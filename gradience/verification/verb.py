"""The public function `verify`: the kind of folder decides which results are checked. Comparisons of two logs."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

from gradience.bench.settings import VerifySettings, existing_folder
from gradience.bench.verdict.folders import AGGREGATE, BENCH
from gradience.bench.verify.files import check_files
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.packed import as_published, unpacked
from gradience.bench.verify.verify import check_plan_digest, compare_json, verification_of, verify_run
from gradience.compress.adapter import REPORT
from gradience.compress.carry import DISTILL_REPORT
from gradience.digests import sha256_file
from gradience.errors import GradienceError, InputError, UsageError
from gradience.evaluate.verb import EVALUATION, JOINT
from gradience.evidence.verb import compare_logs
from gradience.files.digests import DIGESTS, root_of
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.base.exact import exact_text
from gradience.reports.base.run import Stopwatch
from gradience.reports.evidence import EvidenceReport, LogFacts
from gradience.reports.verification import Verification
from gradience.settings import public
from gradience.shrink.verb import SHRUNK
from gradience.tasks.user_code import allowing
from gradience.verification.adapters import check_compression, check_distillation
from gradience.verification.answers import (
    check_answers,
    check_data,
    check_evaluation,
    check_sets,
    check_shrink,
)

EVIDENCE = "evidence.json"
NOT_IN_LOGS = ("schema", "run", "a.path", "b.path")
"""Fields that are taken as recorded."""


def check_evidence(place: Path, findings: Findings) -> None:
    """Make evidence.json again from the two logs, found in the folder or at their paths by their digests."""
    report = EvidenceReport.read(place / EVIDENCE)
    a, b = (_log_at(place, log, findings) for log in (report.a, report.b))
    if a is None or b is None:
        findings.not_done("result", "L1", f"{EVIDENCE}: a log is missing; cannot recompute")
        return
    most = max((sum(flip.change == side for flip in report.flips) for side in ("lost", "gained")), default=0)
    margin = Fraction(repr(report.margin)) * (1 if report.table is None else 100)
    with findings.check("result", "L1", f"{EVIDENCE}: every number and sentence matches the logs"):
        try:
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
        except InputError as error:
            findings.mismatch(EVIDENCE, f"cannot be made again: {error}")
            return
        compare_json(place / EVIDENCE, again, findings, NOT_IN_LOGS)


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


CHECKS: Mapping[str, Callable[[Path, Findings], object]] = {
    SHRUNK: check_shrink,
    EVALUATION: check_evaluation,
    JOINT: check_sets,
    EVIDENCE: check_evidence,
    REPORT: check_compression,
    DISTILL_REPORT: check_distillation,
}
"""File of a result -> its check."""
UNCOUNTED = "earlier tests on these rows: the ledger that counts them is not part of the folder"
MADE_UP = (
    "invented answers: wholly invented records could also pass these checks. A root published in advance dates the"
    " result; only running the command again tests the answers"
)


@public(VerifySettings)
def verify(settings: VerifySettings) -> Verification:
    """Verify a result: a Bench run, or a folder of `shrink`, `evaluate`, `evidence`, `compress` or `distill`.

    >>> verify("runs/mine").level  # doctest: +SKIP
    'L2'

    Digests, scores of the stored answers, counts, grades, sentences and pages are recomputed, and sizes are read from
    the weights. Needs no model unless answers are regenerated. The keywords are the flags of `gradience verify`:

    Raises InputError (`not-a-run`, `nothing-to-verify`) if there is nothing to verify, UsageError
    (`not-of-bench`) for a setting that applies only to Bench.
    """
    folder = Path(settings.folder)
    names = [name for name in CHECKS if (folder / name).is_file()]
    if not names or any((folder / name).is_file() for name in (BENCH, AGGREGATE)):
        with allowing(settings.allow_code):
            return verify_run(
                existing_folder(folder),
                root=settings.root,
                plan=settings.plan,
                data=settings.data,
                regenerate=settings.regenerate,
                sample_seed=settings.sample_seed,
                command=settings.command,
                guard=check_answers,
            )
    if settings.regenerate is not None:
        raise UsageError(
            f"--regenerate: only the answers of a Bench run are regenerated, and {folder} holds {names[0]}",
            code="not-of-bench",
            hint="leave it out; the command in the result makes the answers again",
        )
    watch, findings = Stopwatch(settings.command), Findings()
    with unpacked(folder) as place:
        findings.named = lambda text: as_published(text, place, folder)
        if (place / DIGESTS).is_file() or settings.root is not None:
            check_files(place, findings, expected=settings.root)
        plan = check_plan_digest(place, settings.plan, findings)
        for name in names:
            try:
                CHECKS[name](place, findings)
                if settings.data:
                    check_data(place, name, findings)
            except (GradienceError, LookupError, ValueError, ArithmeticError, AssertionError) as error:
                # files of unknown origin may be inconsistent, and then nothing can be computed from them
                findings.mismatch(name, f"cannot be made again: {type(error).__name__}: {error}")
    if {SHRUNK, EVALUATION, JOINT} & {*names}:
        findings.gap(UNCOUNTED)
    return verification_of(
        folder, findings, watch, MADE_UP, root_of(folder), settings.root, plan, settings.plan
    )
