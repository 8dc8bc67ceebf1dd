"""`audit_fleet` and `compress_fleet`: what `gradience fleet` and `gradience compress fleet.jsonl` do."""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gradience.adapters.formats import SUFFIXES, known_names
from gradience.adapters.locate import WEIGHT_SUFFIXES, lone_weights, natural_key
from gradience.compress.adapter import compress_adapter
from gradience.compress.carry import REPORT
from gradience.compress.settings import WriteSettings
from gradience.errors import GradienceError, InputError, UsageError
from gradience.files.shared_names import given_text, path_text, sentence_text
from gradience.files.whole import held, write_errors
from gradience.fleet.measure import FleetJournal, Request, failed, read_rows, replies, stamp_of, stamped_files
from gradience.fleet.settings import FleetCompressSettings, FleetSettings
from gradience.plan.criteria import ToRank, limit_of
from gradience.ranks import max_lora_rank_step, percentile
from gradience.reports import fleet as reports
from gradience.reports.base.report import Stopwatch, save_with_page
from gradience.reports.compression import CompressionReport
from gradience.runtimes.verdict import engine, slot_bytes, steps_below
from gradience.settings import paths_of, public, shared


@public(FleetSettings)
def audit_fleet(settings: FleetSettings) -> reports.FleetReport:
    """Measure every adapter of the sources, write a row for each, and return a summary.

    >>> report = audit_fleet("adapters", "adapters.jsonl")
    >>> report.adapters, report.failed, report.not_served[0].adapters  # BERT, which vLLM refuses
    (3, 0, 3)

    An existing fleet.jsonl is updated: rows of unchanged adapters are reused. Keywords, named like the flags
    of `gradience fleet`:

    Raises InputError if there are no adapters, UsageError (outside-root), LockedError while another run writes the same
    file, OutputError if it cannot be written. An adapter that cannot be measured does not raise: its row has the
    error's code.
    """
    watch, home = Stopwatch(settings.command), root_of(settings)
    limit = None if settings.host is None else limit_of(settings.host)
    rows_file = None if settings.output is None else Path(settings.output)
    options = {"max_memory": settings.max_memory, "allow_pickle": settings.allow_pickle}
    sources = paths_of(settings.sources)
    for source in sources:
        if not os.path.lexists(source):
            raise InputError(f"{source}: no such file or folder", code="not-found", hint="check the path")
    fleet = discover(sources, root=home, recursive=settings.recursive)
    rows: dict[str, reports.FleetRow] = {}
    with ExitStack() as stack:
        journal = stack.enter_context(FleetJournal.begin(rows_file)) if rows_file else None
        if journal:
            rows |= journal.kept(fleet.paths)
        reused = len(rows)
        requests = [
            {"task": "measure", "name": name, "path": str(path), "options": options}
            for name, path in fleet.paths.items()
            if name not in rows
        ]
        for request, reply in replies(requests, workers=settings.workers):
            if isinstance(reply, str):
                row = failed(request["name"], "process-died", reply)
            else:
                row = reports.FleetRow.model_validate_json(reply)
            if journal:
                journal.add(row)
            rows[row.path] = row
            if settings.progress:
                settings.progress(len(rows), len(fleet.paths))
        ordered = [rows[name] for name in fleet.paths]
        if journal:
            journal.finish(ordered)
    statuses = Counter(row.status for row in ordered)
    return reports.FleetReport(
        adapters=len(ordered),
        measured=len(ordered) - reused - statuses["failed"],
        reused=reused,
        failed=statuses["failed"],
        incomplete=statuses["incomplete"],
        untrained=statuses["untrained"],
        bytes=sum(row.bytes or 0 for row in ordered),
        params=sum(row.params for row in ordered),
        elsewhere=fleet.elsewhere,
        engine=engine(),
        rows_file=None if rows_file is None else path_text(rows_file),
        root=path_text(home),
        slots=settings.slots,
        max_error=settings.max_error,
        limit=None if limit is None else limit.words,
        limit_adapters=None if limit is None else limit.adapters_per_base,
        bases=bases(ordered, settings.max_error, None if limit is None else limit.max_rank),
        not_served=not_served(ordered),
        failures=failures(ordered),
        run=watch.run_info(),
    )


# ---------------------------------------------------------------- summary

FORCING = 1000
"""Adapters above the target that a report lists for one base; it counts all of them."""


def failures(rows: Iterable[reports.FleetRow]) -> tuple[reports.Failure, ...]:
    """Return the reasons of failures, the most frequent first."""
    failed = _grouped((row.error or "", row) for row in rows if row.status == "failed")
    return tuple(
        reports.Failure(code=code, adapters=len(group), first=group[0].path, message=group[0].message or "")
        for code, group in failed
    )


def not_served(rows: Iterable[reports.FleetRow]) -> tuple[reports.NotServed, ...]:
    """Return the reasons for which the engine cannot load adapters, the most frequent first."""
    refused = _grouped((row.not_served, row) for row in rows if row.not_served)
    return tuple(
        reports.NotServed(reason=reason, adapters=len(group), first=group[0].path)
        for reason, group in refused
    )


def bases(
    rows: Iterable[reports.FleetRow], max_error: float, limit: int | None = None
) -> tuple[reports.BaseGroup, ...]:
    """Return the adapters that a server would load of each base model, the base with the most first.

    limit: the host's maximum rank.
    """
    served = (row for row in rows if row.rank and row.width is not None and not row.not_served)
    groups = _grouped((row.base_model or "", row) for row in served)
    return tuple(_group(base or None, group, max_error, limit) for base, group in groups)


def _grouped(keyed: Iterable[tuple[str, reports.FleetRow]]) -> list[tuple[str, list[reports.FleetRow]]]:
    """Return rows by key, the largest group first, each in the order of its names."""
    groups: dict[str, list[reports.FleetRow]] = defaultdict(list)
    for key, row in keyed:
        groups[key].append(row)
    for group in groups.values():
        group.sort(key=lambda row: natural_key(row.path))
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _group(
    base: str | None, adapters: Sequence[reports.FleetRow], max_error: float, limit: int | None
) -> reports.BaseGroup:
    ranks = {row.path: row.rank or 0 for row in adapters}
    largest = max(ranks.values())
    width = max(row.width or 0.0 for row in adapters)
    top = max_lora_rank_step(largest)
    steps, target = [], None
    within = limit is not None
    for rank in steps_below(largest):
        above = [row for row in adapters if ranks[row.path] > rank]
        lost = [row.lost_energy_at[rank] for row in above if rank in row.lost_energy_at]
        steps.append(
            reports.Step(
                max_lora_rank=rank,
                slot_bytes=slot_bytes(width, rank),
                truncated=len(above),
                lost_energy_median=float(percentile(lost, 50)) if lost else None,
                lost_energy_max=max(lost, default=None),
            )
        )
        if limit is None and len(lost) == len(above) and max(lost) <= max_error**2:
            target, within = rank, True
    if limit is not None:
        target = limit if largest > limit else None
    elif target is None and steps:
        target = steps[0].max_lora_rank
    higher = [] if target is None else [row for row in adapters if ranks[row.path] > target]
    higher.sort(key=lambda row: -row.lost_energy_at.get(target or 0, math.inf))  # else by name
    return reports.BaseGroup(
        base_model=base,
        adapters=len(adapters),
        bytes=sum(row.bytes or 0 for row in adapters),
        largest_rank=largest,
        max_lora_rank=top,
        slot_bytes=None if top is None else slot_bytes(width, top),
        steps=tuple(steps),
        target=target,
        recommended=within and target is not None,
        above=len(higher),
        forcing=tuple(
            reports.Oversized(
                path=row.path, rank=ranks[row.path], lost_energy=row.lost_energy_at.get(target or 0)
            )
            for row in higher[:FORCING]
        ),
    )


# ---------------------------------------------------------------- discovery

MARKS = known_names()
"""A folder with one of these files is taken for an adapter; its row reports an error if it is not one."""


class Fleet(NamedTuple):
    """Adapters by name (relative to the root, in order), and the number of folders without an adapter."""

    paths: Mapping[str, Path]
    elsewhere: int


def discover(sources: Sequence[Path], *, root: Path, recursive: bool = False) -> Fleet:
    """Return every adapter of the sources, each once.

    sources: an adapter; a folder whose folders and files are adapters.
    root: folder that names are relative to; every adapter is below it.
    recursive: look into folders at any depth, also below an adapter. Links to folders are followed once.

    Raises InputError (what `reading` raises; no-adapters), UsageError (outside-root).
    """
    home = Path(os.path.realpath(root))
    paths: dict[str, Path] = {}
    elsewhere = 0
    for source in sources:
        matches, empty = _adapters_of(source, recursive=recursive)
        elsewhere += empty
        for path in matches:
            paths.setdefault(_name(path, home, root), path)
    if not paths:
        raise InputError(
            f"{sources[0] if len(sources) == 1 else f'{len(sources)} places'}: no adapters found",
            code="no-adapters",
            hint="give a folder of adapter folders, or add --recursive to search deeper",
        )
    return Fleet({name: paths[name] for name in sorted(paths, key=natural_key)}, elsewhere)


def _adapters_of(source: Path, *, recursive: bool) -> tuple[list[Path], int]:
    """Return the adapters of one source, and how many of its folders hold none.

    A folder that cannot be read is among the adapters: its row says why. Hidden ones are left out, and each real folder
    is looked into once.
    """
    if not os.path.isdir(source) or (_marked(source) and not recursive):
        return [source], 0  # an adapter, a file, or nothing; the row says which
    matches = [source] if _marked(source) else []
    empty, visited, waiting = 0, set(), [source]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        entries = _entries(folder)
        if entries is None:
            matches.append(folder)
        for entry in entries or ():
            path = Path(entry.path)
            if not _is_folder(entry):
                if entry.name.lower().endswith(WEIGHT_SUFFIXES) and not _marked(folder):
                    matches.append(path)
                continue
            if recursive:
                waiting.append(path)
            if _marked(path):
                matches.append(path)
            elif not recursive:
                inner = _entries(path)
                lone = lone_weights([item.name for item in inner or ()])
                if inner is None:
                    matches.append(path)
                elif lone is None:
                    empty += 1
                else:
                    matches.append(path / lone)
    return matches, empty


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that cannot be read
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]] | None:
    """Return what is in a folder, without hidden names; None if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name
            )
    except OSError:
        return None


def _marked(folder: Path) -> bool:
    return any(os.path.lexists(folder / mark) for mark in MARKS)


def root_of(settings: FleetSettings) -> Path:
    """Return the root that is set, or the current folder, or for sources that are not below it the one above them."""
    if settings.root is not None:
        return Path(settings.root)
    places = [_place(source) for source in paths_of(settings.sources)]
    if not places or all(place.is_relative_to(os.path.realpath(".")) for place in places):
        return Path(".")
    return Path(os.path.commonpath([place.parent for place in places]))


def _place(path: Path) -> Path:
    """Return the absolute path, without following the adapter's own link."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def _name(path: Path, home: Path, root: Path) -> str:
    """The path below the root."""
    place = _place(path)
    if not place.is_relative_to(home):
        raise UsageError(
            f"{path}: not inside the root {root}, to which adapter names are relative",
            code="outside-root",
            hint="give --root a folder that contains all adapters (Python: root=)",
        )
    return given_text(place.relative_to(home).as_posix())


# ---------------------------------------------------------------- compress_fleet
#
# Each adapter is left unchanged, reused from an earlier run, or truncated. It is written completely or not at all.

BATCH_REPORT = "fleet_compression.json"


@public(FleetCompressSettings)
def compress_fleet(settings: FleetCompressSettings) -> reports.FleetCompression:
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
    results: dict[str, reports.Truncated] = {}
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
                results[name] = _unwritten(row, error)
                continue
            if small:
                status: reports.TruncationStatus = "linked" if linked else "small enough"
                results[name] = reports.Truncated(
                    path=name, status=status, old_rank=row.rank, old_bytes=row.bytes
                )
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
                results[name] = _unwritten(rows[name], InputError(reply, code="process-died"))
            else:
                results[name] = TypeAdapter(reports.Truncated).validate_json(reply)
            if settings.progress:
                settings.progress(len(results), len(rows))
        adapters = [results[name] for name in rows]
        statuses = Counter(adapter.status for adapter in adapters)
        written = [adapter for adapter in adapters if adapter.new_bytes is not None]
        report = reports.FleetCompression(
            rank=wanted,
            written=statuses["written"],
            reused=statuses["reused"],
            small_enough=sum(adapter.status in reports.UNCHANGED for adapter in adapters),
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


def _target(row: reports.FleetRow, output: Path, names: Collection[str]) -> Path:
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


# ---------------------------------------------------------------- one adapter, in a process


def truncate(
    row: reports.FleetRow, source: Path, target: Path, rank: int, options: dict[str, Any]
) -> reports.Truncated:
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
        status: reports.TruncationStatus = "written" if report is None else "reused"
        if report is None:
            compress_adapter(source, target, rank=rank, workers=1, **options)
            report = CompressionReport.read(target / REPORT)
    except GradienceError as error:
        return _unwritten(row, error)
    return reports.Truncated(
        path=row.path,
        status=status,
        old_rank=row.rank,
        old_bytes=row.bytes,
        new_bytes=report.new_bytes,
        measured_error=report.measured_error,
    )


def _unwritten(row: reports.FleetRow, error: GradienceError) -> reports.Truncated:
    """Return the entry of an adapter that could not be written."""
    return reports.Truncated(
        path=row.path,
        status="failed",
        old_rank=row.rank,
        old_bytes=row.bytes,
        error=error.code,
        message=sentence_text(str(error)),
    )


def _earlier(
    row: reports.FleetRow, target: Path, rank: int, options: dict[str, Any]
) -> CompressionReport | None:
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
