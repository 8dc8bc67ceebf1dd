"""`audit_fleet`: what `gradience fleet` does, as one function."""

import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.fleet.discover import discover, root_of
from gradience.fleet.journal import FleetJournal
from gradience.fleet.measure import failed
from gradience.fleet.processes import replies
from gradience.fleet.settings import FleetSettings
from gradience.fleet.summary import bases, failures, not_served
from gradience.plan.hosts import limit_of
from gradience.reports.base.run import Stopwatch
from gradience.reports.fleet import FleetReport, FleetRow
from gradience.runtimes.verdict import engine
from gradience.settings import paths_of, public


@public(FleetSettings)
def audit_fleet(settings: FleetSettings) -> FleetReport:
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
    rows: dict[str, FleetRow] = {}
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
                row = FleetRow.model_validate_json(reply)
            if journal:
                journal.add(row)
            rows[row.path] = row
            if settings.progress:
                settings.progress(len(rows), len(fleet.paths))
        ordered = [rows[name] for name in fleet.paths]
        if journal:
            journal.finish(ordered)
    statuses = Counter(row.status for row in ordered)
    return FleetReport(
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
