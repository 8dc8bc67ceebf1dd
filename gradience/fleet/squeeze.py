"""One adapter of a batch: left as it is, taken over from an earlier run, or written smaller; whole or not at all."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from gradience.adapters.locate import WEIGHT_SUFFIXES
from gradience.adapters.pickles import SUFFIXES
from gradience.compress.adapter import REPORT
from gradience.compress.verb import compress_adapter
from gradience.errors import GradienceError, InputError
from gradience.files.shared_names import sentence_text
from gradience.fleet.measure import stamp_of, stamped_files
from gradience.plan.criteria import ToRank
from gradience.reports.compression import CompressionReport
from gradience.reports.fleet import FleetRow
from gradience.reports.fleet_compression import Squeezed


def squeeze(row: FleetRow, source: Path, target: Path, rank: int, options: dict[str, Any]) -> Squeezed:
    """Bring the adapter of a row to a rank, and return what became of it.

    options: keywords of `compress_adapter`. Raises nothing that a user could act on: that is in what is returned.
    """
    facts: dict[str, Any] = {"path": row.path, "old_rank": row.rank, "old_bytes": row.bytes}
    try:
        _refuse_outdated(row, source)
        if not options.get("force") and (report := _earlier(row, target, rank, options)) is not None:
            return Squeezed(status="reused", **facts, **_figures(report))
        report = compress_adapter(source, target, rank=rank, workers=1, **options)
    except GradienceError as error:
        return failed(row, error)
    return Squeezed(status="written", **facts, **_figures(report))


def failed(row: FleetRow, error: GradienceError) -> Squeezed:
    """Return what is said of an adapter that was not written."""
    message = sentence_text(str(error))
    return Squeezed(
        path=row.path,
        status="failed",
        old_rank=row.rank,
        old_bytes=row.bytes,
        error=error.code,
        message=message,
    )


def as_json(squeezed: Squeezed) -> dict[str, Any]:
    """Return it as what `Squeezed(**…)` takes."""
    return asdict(squeezed)


def target_of(row: FleetRow, output: Path) -> Path:
    """Return where the smaller adapter goes: the path of the row, below the output; of a file without its suffix.

    Raises InputError (bad-row-path, symlink-outside) for a path that leads out of it, or through a link.
    """
    path = PurePosixPath(row.path)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in row.path:
        raise InputError(
            f"the row of {row.path!r} has a path that is not below its root",
            code="bad-row-path",
            hint="measure again with --root DIR, a folder above the adapters",
        )
    inside = path.with_suffix("") if path.suffix.lower() in (*WEIGHT_SUFFIXES, *SUFFIXES) else path
    target = output / inside
    if os.path.realpath(target) != os.path.join(os.path.realpath(output), inside):
        raise InputError(
            f"{target}: a symbolic link in the output leads elsewhere, so nothing is written there",
            code="symlink-outside",
            hint=f"remove the link, or give another output than {output}",
        )
    return target


def _refuse_outdated(row: FleetRow, source: Path) -> None:
    if stamp_of(stamped_files(source)) != row.stamp:
        raise InputError(
            f"{source}: not there, or changed since its row was measured",
            code="row-outdated",
            hint="run gradience fleet again; --root says what the paths of the rows are relative to",
        )


def _earlier(row: FleetRow, target: Path, rank: int, options: dict[str, Any]) -> CompressionReport | None:
    """The report of an earlier run, where it made the same from the same weights."""
    if not (target / REPORT).exists():
        return None
    report = CompressionReport.read(target / REPORT)
    same = report.source_sha256 == row.sha256 and report.criterion == ToRank(rank).words
    return report if same and _was_asked(report, options) else None


def _was_asked(report: CompressionReport, options: dict[str, Any]) -> bool:
    """Whether what is there was written as these options say: in another format or type it is made again."""
    dtype = options.get("dtype")
    return (
        options.get("encoding") in (None, report.encoding)
        and options.get("to") in (None, report.format)
        and (dtype is None or {row.dtype for row in report.modules if row.new_rank} <= {dtype.upper()})
        and all(any(part in name for name in report.stripped) for part in options.get("strip") or ())
    )


def _figures(report: CompressionReport) -> dict[str, Any]:
    return {"new_bytes": report.new_bytes, "measured_error": report.measured_error}
