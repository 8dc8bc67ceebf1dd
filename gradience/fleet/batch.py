"""`compress_fleet`: what `gradience compress --fleet` does, as one function."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gradience.arguments import integer_argument, path_argument
from gradience.errors import GradienceError, InputError, UsageError
from gradience.files.scratch import held
from gradience.files.whole import write_errors
from gradience.fleet.journal import read_rows
from gradience.fleet.processes import Died, answers
from gradience.fleet.squeeze import failed, target_of
from gradience.fleet.worker import Request
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.fleet import FleetRow
from gradience.reports.fleet_compression import FleetCompression, Squeezed

REPORT = "fleet_compression.json"


def compress_fleet(
    fleet: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    rank: int,
    root: str | os.PathLike[str] = ".",
    encoding: str | None = None,
    to: str | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> FleetCompression:
    """Bring every adapter of a `fleet.jsonl` whose rank is larger to `rank`, and return what became of each.

    >>> batch = compress_fleet("fleet.jsonl", "batch", rank=4)
    >>> batch.written, batch.small_enough, batch.failed
    (2, 1, 0)

    fleet: the rows that `audit_fleet` wrote.
    output: folder of the batch; each smaller adapter lies there under the path of its row.
    rank: every module that is larger is truncated to it. An adapter without such a module is left as it is.
    root: what the paths of the rows are relative to, as when they were measured.
    encoding: of every adapter, as for `compress_adapter`.
    to: of every adapter, as for `compress_adapter`.
    dtype: of every adapter, as for `compress_adapter`.
    strip: of every adapter, as for `compress_adapter`.
    base_model: of every adapter, as for `compress_adapter`.
    allow_pickle: of every adapter, as for `compress_adapter`.
    force: make again what an earlier run has made, and replace adapter folders that are there.
    workers: processes; one a processor by default.
    max_memory: bytes that the work on one adapter may take.

    Each adapter is there whole or not at all. What an earlier run of the same batch has written is kept: a run that was
    killed is continued by the same call. Raises InputError for a broken fleet.jsonl, UsageError (bad-rank), LockedError
    while another batch writes to `output`, OutputError when the disk refuses. An adapter that cannot be compressed does
    not raise: its entry has the error's code.
    """
    watch = Stopwatch(command)
    wanted = integer_argument("rank", rank)
    if wanted < 1:
        raise UsageError(f"{wanted} is no rank", code="bad-rank", hint="a whole number from 1, such as 16")
    folder, home = path_argument("output", output), path_argument("root", root)
    options = {
        "encoding": encoding,
        "to": to,
        "dtype": dtype,
        "strip": list(strip),
        "base_model": None if base_model is None else str(path_argument("base_model", base_model)),
        "allow_pickle": allow_pickle,
        "force": force,
        "max_memory": max_memory,
    }
    rows = list(read_rows(path_argument("fleet", fleet)))
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        results, requests = _sorted_out(rows, folder, home, wanted, options)
        for request, answer in answers(requests, workers=workers):
            results[request["name"]] = _squeezed(request, answer)
            if progress:
                progress(len(results), len(rows))
        report = _report(wanted, [results[row.path] for row in rows], watch)
        report.save(folder / REPORT)
    return report


def _sorted_out(
    rows: Iterable[FleetRow], folder: Path, home: Path, rank: int, options: dict[str, Any]
) -> tuple[dict[str, Squeezed], list[Request]]:
    """What is known without work, and what is to be done."""
    results: dict[str, Squeezed] = {}
    requests: list[Request] = []
    names = {row.path for row in rows}
    for row in rows:
        try:
            target = target_of(row, folder)
            _refuse_nested(row, names)
            if row.status == "failed" or row.rank is None:
                raise InputError(row.message or "its rank is not known", code=row.error or "no-rank")
        except GradienceError as error:
            results[row.path] = failed(row, error)
            continue
        if row.rank <= rank:
            results[row.path] = Squeezed(
                path=row.path, status="small enough", old_rank=row.rank, old_bytes=row.bytes
            )
            continue
        requests.append({
            "task": "squeeze",
            "name": row.path,
            "row": row.model_dump(mode="json"),
            "path": str(home / row.path),
            "target": str(target),
            "rank": rank,
            "options": options,
        })  # fmt: skip
    return results, requests


def _refuse_nested(row: FleetRow, names: set[str]) -> None:
    """Its folder would appear inside another that takes its place whole."""
    outer = next((str(above) for above in PurePosixPath(row.path).parents if str(above) in names), None)
    if outer is not None:
        raise InputError(
            f"{row.path}: lies inside {outer}, another adapter of the fleet",
            code="nested-adapter",
            hint="compress it by itself: gradience compress ADAPTER --rank K -o DIR",
        )


def _squeezed(request: Request, answer: bytes | Died) -> Squeezed:
    if isinstance(answer, Died):
        return failed(FleetRow.model_validate(request["row"]), InputError(answer.words, code="process-died"))
    from pydantic import TypeAdapter

    return TypeAdapter(Squeezed).validate_json(answer)


def _report(rank: int, adapters: Sequence[Squeezed], watch: Stopwatch) -> FleetCompression:
    statuses = Counter(adapter.status for adapter in adapters)
    there = [adapter for adapter in adapters if adapter.new_bytes is not None]
    return FleetCompression(
        rank=rank,
        written=statuses["written"],
        reused=statuses["reused"],
        small_enough=statuses["small enough"],
        failed=statuses["failed"],
        old_bytes=sum(adapter.old_bytes or 0 for adapter in there),
        new_bytes=sum(adapter.new_bytes or 0 for adapter in there),
        adapters=tuple(adapters),
        run=watch.run_info(),
    )
