"""`audit_fleet`: what `gradience fleet` does, as one function."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gradience.arguments import integer_argument, path_argument
from gradience.compare.adapters import compare_adapters
from gradience.errors import GradienceError, require
from gradience.files.shared_names import path_text
from gradience.fleet.discover import Member, discover
from gradience.fleet.exports import export, rows_file_of
from gradience.fleet.journal import Journal, read_rows
from gradience.fleet.measure import failed
from gradience.fleet.processes import Died, answers
from gradience.fleet.summary import Predictions, Tally
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.fleet import FleetReport, FleetRow
from gradience.runtimes.verdict import engine


class Measure(Protocol):
    """What measures adapters."""

    def __call__(self, members: Sequence[Member], **options: Any) -> Iterator[FleetRow]:
        """Yield the row of every adapter, as they come. options: keywords of `measure`."""


def audit_fleet(
    sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    root: str | os.PathLike[str] = ".",
    recursive: bool = False,
    calibrations: Iterable[str | os.PathLike[str]] = (),
    allow_pickle: bool = False,
    force: bool = False,
    workers: int | None = None,
    max_memory: int | None = None,
    measure: Measure | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> FleetReport:
    """Measure every adapter of the sources, write a row for each, and return what holds over all of them.

    >>> report = audit_fleet("adapters", "adapters.jsonl")
    >>> report.adapters, report.failed, report.bases[0].largest_rank
    (3, 0, 8)

    sources: folders of adapters, adapters, and .txt files with a path a line; one or several.
    output: fleet.jsonl; or fleet.csv or fleet.parquet, with a fleet.jsonl beside it. A fleet.jsonl that is there is
        resumed: rows whose files have not changed are taken over.
    root: what the paths of the rows are relative to; the current folder by default.
    recursive: look for adapters at any depth.
    calibrations: files of `gradience calibrate`; each predicts the cost of the next lower step for its adapter.
    allow_pickle: read `.bin` and `.pt` as well, each in a process of its own with limits (needs the extra `hf`).
    force: replace a table that is there.
    workers: processes; one a processor by default. The rows do not depend on it.
    max_memory: bytes that the work on one adapter may take; as for `audit_adapter`.
    measure: what measures in place of processes of this machine, such as `fleet.on_ray.rows_on_ray`.

    Raises InputError where there are no adapters, UsageError (outside-root, bad-fleet-output, output-exists),
    LockedError while another run writes the same file, OutputError when the disk refuses, MissingExtra for .parquet
    without pyarrow. An adapter that cannot be measured does not raise: its row has the error's code.
    """
    watch = Stopwatch(command)
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    home = path_argument("root", root)
    table = None if output is None else path_argument("output", output)
    rows_file = None if table is None else rows_file_of(table, force=force)
    limit = None if max_memory is None else integer_argument("max_memory", max_memory)
    options = {"max_memory": limit, "allow_pickle": allow_pickle}
    predictions = Predictions(
        [path_argument("calibrations", each) for each in calibrations], allow_pickle=allow_pickle
    )
    fleet = discover([path_argument("sources", each) for each in given], root=home, recursive=recursive)
    paths = {member.name: member.path for member in fleet.members}
    tally = Tally()
    with ExitStack() as stack:
        journal = stack.enter_context(Journal.begin(rows_file)) if rows_file else None
        reused = set()
        for row in journal.kept(paths, allow_pickle=allow_pickle) if journal else ():
            reused.add(row.path)
            tally.add(row)
        measured = 0
        rest = [member for member in fleet.members if member.name not in reused]
        for row in (measure or partial(measured_rows, workers=workers))(rest, **options):
            if journal:
                journal.add(row)
            tally.add(row)
            measured += row.status != "failed"
            if progress:
                progress(tally.count, len(paths))
        if journal and rows_file:
            journal.finish(paths)
            if table and table != rows_file:
                export(read_rows(rows_file), table)
    predictions.check_used(tally.digests)
    return FleetReport(
        adapters=len(paths),
        measured=measured,
        reused=len(reused),
        failed=tally.failed,
        incomplete=tally.incomplete,
        untrained=tally.untrained,
        bytes=tally.bytes,
        params=tally.params,
        elsewhere=fleet.elsewhere,
        engine=engine(),
        rows_file=None if rows_file is None else path_text(rows_file),
        root=path_text(home),
        bases=tally.bases(partial(predictions.kl, paths)),
        copies=tally.copies(partial(_difference, paths, allow_pickle=allow_pickle)),
        failures=tally.failures(),
        run=watch.run_info(),
    )


def measured_rows(
    members: Sequence[Member], *, workers: int | None = None, **options: Any
) -> Iterator[FleetRow]:
    """Yield the row of every adapter, as they come.

    options: keywords of `measure`.
    """
    requests = [
        {"task": "measure", "name": member.name, "path": str(member.path), "options": options}
        for member in members
    ]
    for request, answer in answers(requests, workers=workers):
        if isinstance(answer, Died):
            yield failed(request["name"], "process-died", answer.words)
        else:
            yield FleetRow.model_validate_json(answer)


def _difference(paths: dict[str, Path], a: str, b: str, *, allow_pickle: bool) -> float | None:
    """Exact; None where one of them can no longer be read."""
    try:
        return compare_adapters(paths[a], paths[b], workers=1, allow_pickle=allow_pickle).relative_difference
    except GradienceError:
        return None


PART = 32
"""Adapters of one task."""


def rows_on_ray(members: Sequence[Member], **options: Any) -> Iterator[FleetRow]:
    """Yield the row of every adapter, as they come. options: keywords of `measure`. Raises MissingExtra without Ray."""
    ray: Any = require("ray", extra="ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    task = ray.remote(max_retries=5)(_rows)
    there = [member._replace(path=member.path.absolute()) for member in members]
    waiting = [task.remote(there[at : at + PART], options) for at in range(0, len(there), PART)]
    while waiting:
        (done,), waiting = ray.wait(waiting)
        yield from ray.get(done)


def _rows(members: Sequence[Member], options: dict[str, Any]) -> list[FleetRow]:
    return list(measured_rows(members, workers=1, **options))
