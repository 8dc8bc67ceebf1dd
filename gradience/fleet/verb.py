"""`audit_fleet`: what `gradience fleet` does, as one function."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.fleet.discover import Member, discover, root_of
from gradience.fleet.journal import FleetJournal
from gradience.fleet.measure import failed
from gradience.fleet.processes import Died, replies
from gradience.fleet.settings import FleetSettings
from gradience.fleet.summary import Tally
from gradience.plan.hosts import limit_of
from gradience.reports.base.run import Stopwatch
from gradience.reports.fleet import FleetReport, FleetRow
from gradience.runtimes.verdict import engine
from gradience.settings import paths_of, public


@public(FleetSettings)
def audit_fleet(settings: FleetSettings) -> FleetReport:
    """Measure every adapter of the sources, write a row for each, and return what holds over all of them.

    >>> report = audit_fleet("adapters", "adapters.jsonl")
    >>> report.adapters, report.failed, report.not_served[0].adapters  # BERT, which vLLM refuses
    (3, 0, 3)

    A fleet.jsonl that is there is resumed: rows whose files have not changed are taken over. The keywords are the flags
    of `gradience fleet`:

    Raises InputError if there are no adapters, UsageError (outside-root), LockedError while another run writes the same
    file, OutputError when the disk refuses. An adapter that cannot be measured does not raise: its row has the error's
    code.
    """
    watch, home = Stopwatch(settings.command), root_of(settings)
    limit = None if settings.host is None else limit_of(settings.host)
    limit_rank = None if limit is None else limit.max_rank
    rows_file = None if settings.output is None else Path(settings.output)
    options = {"max_memory": settings.max_memory, "allow_pickle": settings.allow_pickle}
    sources = paths_of(settings.sources)
    for source in sources:
        if not os.path.lexists(source):
            raise InputError(f"{source}: no such file or folder", code="not-found", hint="check the path")
    fleet = discover(sources, root=home, recursive=settings.recursive)
    paths = {member.name: member.path for member in fleet.members}
    tally = Tally()
    with ExitStack() as stack:
        journal = stack.enter_context(FleetJournal.begin(rows_file)) if rows_file else None
        reused = set()
        for row in journal.kept(paths) if journal else ():
            reused.add(row.path)
            tally.add(row)
        measured = 0
        rest = [member for member in fleet.members if member.name not in reused]
        for row in measured_rows(rest, workers=settings.workers, **options):
            if journal:
                journal.add(row)
            tally.add(row)
            measured += row.status != "failed"
            if settings.progress:
                settings.progress(tally.count, len(paths))
        if journal:
            journal.finish(paths)
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
        slots=settings.slots,
        max_error=settings.max_error,
        limit=None if limit is None else limit.words,
        limit_adapters=None if limit is None else limit.adapters_per_base,
        bases=tally.bases(settings.max_error, limit_rank),
        not_served=tally.not_served(),
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
    for request, reply in replies(requests, workers=workers):
        if isinstance(reply, Died):
            yield failed(request["name"], "process-died", reply.words)
        else:
            yield FleetRow.model_validate_json(reply)
