"""One adapter of a fleet, brought to a rank: what a process of `processes` does for `compress_fleet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradience.compress.adapter import REPORT, compress_adapter
from gradience.errors import GradienceError, InputError
from gradience.files.shared_names import sentence_text
from gradience.fleet.measure import stamp_of, stamped_files
from gradience.plan.criteria import ToRank
from gradience.reports.compression import CompressionReport
from gradience.reports.fleet import FleetRow
from gradience.reports.fleet_compression import Truncated, TruncationStatus


def truncate(row: FleetRow, source: Path, target: Path, rank: int, options: dict[str, Any]) -> Truncated:
    """Bring the adapter of a row to a rank, and return what became of it.

    options: keywords of `compress_adapter`. Raises nothing that a user could act on: that is in what is returned.
    """
    try:
        if stamp_of(stamped_files(source)) != row.stamp:
            raise InputError(
                f"{source}: missing, or changed since it was measured",
                code="row-outdated",
                hint="run gradience fleet again, or give --root, the folder that the paths are relative to",
            )
        report = None if options.get("force") else _earlier(row, target, rank, options)
        status: TruncationStatus = "written" if report is None else "reused"
        if report is None:
            compress_adapter(source, target, rank=rank, workers=1, **options)
            report = CompressionReport.read(target / REPORT)
    except GradienceError as error:
        return failed(row, error)
    return Truncated(
        path=row.path,
        status=status,
        old_rank=row.rank,
        old_bytes=row.bytes,
        new_bytes=report.new_bytes,
        measured_error=report.measured_error,
    )


def failed(row: FleetRow, error: GradienceError) -> Truncated:
    """Return what is said of an adapter that was not written."""
    return Truncated(
        path=row.path,
        status="failed",
        old_rank=row.rank,
        old_bytes=row.bytes,
        error=error.code,
        message=sentence_text(str(error)),
    )


def _earlier(row: FleetRow, target: Path, rank: int, options: dict[str, Any]) -> CompressionReport | None:
    """Return the report of an earlier run, if it made the same from the same weights with these options."""
    if not (target / REPORT).exists():
        return None
    report = CompressionReport.read(target / REPORT)
    dtype = options.get("dtype")
    same = (
        report.source_sha256 == row.sha256
        and report.criterion == ToRank(rank).words
        and options.get("encoding") in (None, report.encoding)
        and options.get("to") in (None, report.format)
        and (dtype is None or {row.dtype for row in report.modules if row.new_rank} <= {dtype.upper()})
    )
    return report if same else None
