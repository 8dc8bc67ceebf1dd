"""run.jsonl -> MonitorReport: what happened, and what to do about it.

The file is read once, in constant memory. Where it holds several runs, the last one is reported.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.monitor.assemble import run_report
from gradience.monitor.facts import RunFacts
from gradience.monitor.settings import MonitorSettings
from gradience.reports.monitor import MonitorReport, RunReport
from gradience.settings import paths_of, public
from gradience.telemetry import TelemetryReader

__all__ = ["monitor_runs"]


@public(MonitorSettings)
def monitor_runs(settings: MonitorSettings) -> MonitorReport:
    """Read the training logs at `paths`, and return a report on each run.

    >>> from gradience import monitor_runs
    >>> monitor_runs("run.jsonl").runs[0].outcome
    'ok'

    Keywords, named like the flags of `gradience monitor`:

    Raises InputError if a file is missing or contains no records (`run-not-found`, `run-not-a-file`, `run-empty`).
    """
    from gradience import __version__

    paths = paths_of(settings.paths)
    return MonitorReport(
        gradience_version=__version__,
        gap_threshold=settings.gap_threshold,
        runs=tuple(
            _report(path, name, settings.gap_threshold)
            for path, name in zip(paths, _names(paths), strict=True)
        ),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each log; if some would be alike, their paths below the folder that holds all of them."""
    names = [path_text(path) for path in paths]
    if len(set(names)) == len(set(paths)):
        return names
    whole = [os.path.abspath(path) for path in paths]
    return [path_text(os.path.relpath(path, os.path.commonpath(whole))) for path in whole]


def _report(path: Path, name: str, gap_threshold: float) -> RunReport:
    """Return the report on the last run of a file, which it calls `name`."""
    reader = TelemetryReader(path)
    ids: set[str] = set()
    facts: RunFacts | None = None
    for record in reader:
        if facts is None or (record.run_id != facts.run_id and record.run_id):
            facts = RunFacts(record.run_id)
            if len(ids) < 10_000:
                ids.add(record.run_id)
        facts.add(record)
    if facts is None:
        raise InputError(
            f"{path}: contains no telemetry records",
            code="run-empty",
            hint="give the run.jsonl that GradienceCallback or TelemetryWriter wrote",
        )
    return run_report(name, facts, reader, len(ids), gap_threshold)
