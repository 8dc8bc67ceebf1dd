"""The public function `verify`. The kind of folder decides which results are checked, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gradience.bench.settings import VerifySettings
from gradience.bench.verb import verify as verify_bench
from gradience.bench.verdict.folders import AGGREGATE, BENCH
from gradience.bench.verify.files import check_files
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.packed import as_published, unpacked
from gradience.bench.verify.verify import check_plan_digest
from gradience.compress.adapter import REPORT
from gradience.compress.carry import DISTILL_REPORT
from gradience.errors import GradienceError, UsageError
from gradience.evaluate.verb import EVALUATION, JOINT
from gradience.files.digests import DIGESTS, root_of
from gradience.files.shared_names import path_text
from gradience.reports.base.run import Stopwatch
from gradience.reports.verification import Verification
from gradience.settings import call, public
from gradience.shrink.verb import SHRUNK
from gradience.verification.adapters import check_compression, check_distillation
from gradience.verification.answers import check_data, check_evaluation, check_sets, check_shrink
from gradience.verification.logs import EVIDENCE, check_evidence

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
        return call(verify_bench, settings)
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
    if settings.root is None:
        findings.gap("that this is the published folder: give its --root")
    findings.gap(MADE_UP)
    return Verification(
        folder=path_text(folder),
        verdict=findings.verdict(from_outside=settings.root is not None or settings.plan is not None),
        level=findings.level,
        root=root_of(folder),
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
