"""A comparison of two logs, made again from the logs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from gradience.bench.verify.findings import Findings
from gradience.bench.verify.verify import compare_json
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.evidence.verb import compare_logs
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.base.exact import exact_text
from gradience.reports.evidence import EvidenceReport, LogFacts

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
