"""run.jsonl -> MonitorReport: what happened, and what to do about it.

The file is read once, in constant memory. Where it holds several runs, the last one is reported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradience.errors import InputError, UsageError
from gradience.files.shared_names import paths_text
from gradience.monitor.assemble import run_report
from gradience.monitor.facts import RunFacts
from gradience.monitor.settings import MonitorSettings
from gradience.reports.monitor import MonitorReport, RunReport
from gradience.settings import paths_of, public
from gradience.telemetry import Record, TelemetryReader

__all__ = ["follow_run", "monitor_runs"]


class RunLog:
    """One file, read to its present end; call `update` again while the run goes on.

    Raises InputError (`run-not-found`, `run-not-a-file`; `run-empty` from `report`).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._reader = TelemetryReader(path)
        self._facts: RunFacts | None = None
        self._ids: set[str] = set()

    @property
    def records(self) -> int:
        """Records of the last run that were read so far."""
        return self._facts.records if self._facts else 0

    def update(self, *, follow: bool = False) -> None:
        """Read what is there; with `follow` only what was finished since the last time."""
        for record in self._reader.poll() if follow else self._reader:
            self._add(record)

    def _add(self, record: Record) -> None:
        if self._facts is None or (record.run_id != self._facts.run_id and record.run_id):
            self._facts = RunFacts(record.run_id)
            if len(self._ids) < 10_000:
                self._ids.add(record.run_id)
        self._facts.add(record)

    def report(self, name: str, gap_threshold: float) -> RunReport:
        """Return the report on the last run of the file, which it calls `name`."""
        if self._facts is None:
            raise InputError(
                f"{self.path}: contains no telemetry records",
                code="run-empty",
                hint="give the run.jsonl that GradienceCallback or TelemetryWriter wrote",
            )
        return run_report(name, self._facts, self._reader, len(self._ids), gap_threshold)


SECONDS_BETWEEN_LOOKS = 2.0
"""Pause of `follow_run` between two looks at the file."""


@public(MonitorSettings)
def monitor_runs(settings: MonitorSettings) -> MonitorReport:
    """Read the runs at `paths` and report what happened in each of them.

    >>> from gradience import monitor_runs
    >>> monitor_runs("run.jsonl").runs[0].outcome
    'ok'

    The keywords are the flags of `gradience monitor`:

    Raises InputError when a file is missing or holds no record, or is not strict (`run-not-strict`).
    """
    logs = [RunLog(path) for path in paths_of(settings.paths)]
    for log in logs:
        log.update()
    report = _report(logs, settings.gap_threshold)
    if settings.strict_schema:
        _require_strict(report)
    return report


@public(MonitorSettings)
def follow_run(settings: MonitorSettings) -> Iterator[MonitorReport]:
    """Yield a report of one run whenever its file has grown; the last is that of the run's end.

    >>> for report in follow_run("run.jsonl"):
    ...     print(report.runs[0].outcome)
    ok

    The keywords are those of `monitor_runs`:

    Raises UsageError (`follow-one`) for several runs, and what `monitor_runs` raises; `run-not-strict` after the last.
    """
    paths = paths_of(settings.paths)
    if len(paths) > 1:
        raise UsageError("--follow takes one run", code="follow-one", hint="give one file")
    return _followed(RunLog(paths[0]), settings)


def _followed(log: RunLog, settings: MonitorSettings) -> Iterator[MonitorReport]:
    seen = 0
    while True:
        log.update(follow=True)
        if log.records != seen:
            seen = log.records
            report = _report([log], settings.gap_threshold)
            yield report
            if report.runs[0].outcome != "unfinished":
                break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if settings.strict_schema:
        _require_strict(report)


def _report(logs: Sequence[RunLog], gap_threshold: float) -> MonitorReport:
    from gradience import __version__

    names = paths_text([log.path for log in logs])
    return MonitorReport(
        gradience_version=__version__,
        gap_threshold=gap_threshold,
        runs=tuple(log.report(name, gap_threshold) for log, name in zip(logs, names, strict=True)),
    )


def _require_strict(report: MonitorReport) -> None:
    """Raise InputError (`run-not-strict`) for the first file with a line that is unreadable or of another schema."""
    for run in report.runs:
        if run.read_notes:
            note = min(run.read_notes, key=lambda note: note.first_line)
            number = sum(note.count for note in run.read_notes)
            more = f" ({number} such lines)" if number > 1 else ""
            raise InputError(
                f"{run.file}: line {note.first_line}: {note.message}{more}",
                code="run-not-strict",
                hint="leave out --strict-schema (Python: strict_schema=) to skip such lines; the report lists them",
            )
