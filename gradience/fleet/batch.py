"""`compress_fleet`, the function behind `gradience compress fleet.jsonl`.

Each adapter is left unchanged, reused from an earlier run, or truncated. It is written completely or not at all.
"""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from gradience.adapters.formats import SUFFIXES
from gradience.adapters.locate import WEIGHT_SUFFIXES
from gradience.compress.adapter import compress_adapter
from gradience.compress.carry import REPORT
from gradience.compress.settings import WriteSettings
from gradience.errors import GradienceError, InputError, UsageError
from gradience.files.shared_names import sentence_text
from gradience.files.whole import held, write_errors
from gradience.fleet.measure import read_rows, stamp_of, stamped_files
from gradience.fleet.processes import Request, replies
from gradience.fleet.settings import FleetCompressSettings
from gradience.plan.criteria import ToRank
from gradience.reports.base.report import Stopwatch, save_with_page
from gradience.reports.compression import CompressionReport
from gradience.reports.fleet import UNCHANGED, FleetCompression, FleetRow, Truncated, TruncationStatus
from gradience.settings import public, shared

BATCH_REPORT = "fleet_compression.json"


@public(FleetCompressSettings)
def compress_fleet(settings: FleetCompressSettings) -> FleetCompression:
    """Truncate every adapter of a `fleet.jsonl` with a larger rank to `rank`, and return a report.

    >>> batch = compress_fleet("fleet.jsonl", "batch", rank=4)
    >>> batch.written, batch.small_enough, batch.failed
    (2, 1, 0)

    Each adapter is written completely or not at all. Adapters that an earlier run of the same batch has written are
    kept, so the same call resumes an interrupted run. Keywords, named like the flags of
    `gradience compress fleet.jsonl`:

    Raises InputError for a broken fleet.jsonl, or if none of its adapters is below `root` (`not-found`), LockedError
    while another batch writes to `output`, OutputError if the folder cannot be written. An adapter that cannot be
    compressed does not raise: its entry has the error's code.
    """
    watch, wanted = Stopwatch(settings.command), settings.rank
    folder, home = Path(settings.output), Path(settings.root)
    options = shared(settings, WriteSettings)
    options |= {
        "base_model": None if settings.base_model is None else str(settings.base_model),
        "allow_pickle": settings.allow_pickle,
        "max_memory": settings.max_memory,
    }
    rows = {row.path: row for row in read_rows(Path(settings.fleet))}
    if rows and all(".." not in name and not os.path.lexists(home / name) for name in rows):
        above = (*Path(settings.fleet).resolve().parents, *Path.cwd().parents)
        root = next((place for place in above for name in rows if os.path.lexists(place / name)), None)
        raise InputError(
            f"{settings.fleet}: none of its adapters is below {home.resolve()}",
            code="not-found",
            hint=f"set --root {root or f'DIR, the folder that {next(iter(rows))} is relative to'}",
        )
    results: dict[str, Truncated] = {}
    requests: list[Request] = []
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        for name, row in rows.items():
            try:
                linked = is_link(folder / name, home / name)  # of an earlier run
                target = folder if linked else _target(row, folder, rows)
                small = linked or (row.rank is not None and row.rank <= wanted)
                if small and not linked and settings.unchanged == "link":
                    link(home / name, folder / name)
                    linked = True
            except GradienceError as error:
                results[name] = failed(row, error)
                continue
            if small:
                status: TruncationStatus = "linked" if linked else "small enough"
                results[name] = Truncated(path=name, status=status, old_rank=row.rank, old_bytes=row.bytes)
                continue
            requests.append({
                "task": "truncate",
                "name": name,
                "row": row.model_dump(mode="json"),
                "path": str(home / name),
                "target": str(target),
                "rank": wanted,
                "options": options,
            })  # fmt: skip
        for request, reply in replies(requests, workers=settings.workers):
            name = request["name"]
            if isinstance(reply, str):
                results[name] = failed(rows[name], InputError(reply, code="process-died"))
            else:
                results[name] = TypeAdapter(Truncated).validate_json(reply)
            if settings.progress:
                settings.progress(len(results), len(rows))
        adapters = [results[name] for name in rows]
        statuses = Counter(adapter.status for adapter in adapters)
        written = [adapter for adapter in adapters if adapter.new_bytes is not None]
        report = FleetCompression(
            rank=wanted,
            written=statuses["written"],
            reused=statuses["reused"],
            small_enough=sum(adapter.status in UNCHANGED for adapter in adapters),
            failed=statuses["failed"],
            old_bytes=sum(adapter.old_bytes or 0 for adapter in written),
            new_bytes=sum(adapter.new_bytes or 0 for adapter in written),
            adapters=tuple(adapters),
            run=watch.run_info(),
        )
        save_with_page(report, folder / BATCH_REPORT)
    return report


def is_link(path: Path, source: Path) -> bool:
    """Return True if `path` is a symbolic link to `source`."""
    return path.is_symlink() and os.path.realpath(path) == os.path.realpath(source)


def link(source: Path, target: Path) -> None:
    """Link an unchanged adapter (folder or file) into the batch.

    Raises UsageError (output-exists) if another adapter is there, OutputError if it cannot be written.
    """
    if os.path.lexists(target):
        raise UsageError(
            f"{target}: exists and is not this adapter",
            code="output-exists",
            hint="remove it, or give another --output",
        )
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.realpath(source))


def _target(row: FleetRow, output: Path, names: Collection[str]) -> Path:
    """Return where the smaller adapter goes: the path of the row, below the output; of a file without its suffix.

    Raises InputError: bad-row-path, symlink-outside for a path that leads out of it, or through a link; nested-adapter;
    what the row failed with.
    """
    path = PurePosixPath(row.path)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in row.path:
        raise InputError(
            f"the row of {row.path!r} has a path outside its root",
            code="bad-row-path",
            hint="run gradience fleet again with --root, a folder that contains all adapters",
        )
    inside = path.with_suffix("") if path.suffix.lower() in (*WEIGHT_SUFFIXES, *SUFFIXES) else path
    target = output / inside
    if os.path.realpath(target) != os.path.join(os.path.realpath(output), inside):
        raise InputError(
            f"{target}: a symbolic link in the output leads elsewhere, so nothing is written there",
            code="symlink-outside",
            hint=f"remove the link, or give another output than {output}",
        )
    outer = next((str(above) for above in path.parents if str(above) in names), None)
    if outer is not None:  # its folder is replaced as a whole
        raise InputError(
            f"{row.path}: is inside {outer}, another adapter of the fleet",
            code="nested-adapter",
            hint=f"compress it separately: gradience compress {row.path} --rank 4 -o smaller",
        )
    if row.status == "failed" or row.rank is None:
        raise InputError(row.message or "its rank is not known", code=row.error or "no-rank")
    return target


# ---------------------------------------------------------------- one adapter, in a process of `processes`


def truncate(row: FleetRow, source: Path, target: Path, rank: int, options: dict[str, Any]) -> Truncated:
    """Bring the adapter of a row to a rank, and return what became of it.

    options: keywords of `compress_adapter`. Raises nothing that a user could act on: that is in what is returned.
    """
    try:
        if stamp_of(stamped_files(source)) != row.stamp:
            raise InputError(
                f"{source}: {'changed since it was measured' if source.exists() else 'not found; add --root DIR'}",
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
    """Return the entry of an adapter that could not be written."""
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
        and (dtype is None or {row.dtype for row in report.modules if row.new_rank} <= {dtype.upper()})
    )
    return report if same else None
