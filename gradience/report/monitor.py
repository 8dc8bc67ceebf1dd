"""A MonitorReport -> blocks: each run's outcome and setup, what was logged, alerts, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gradience.learning_rate import rate
from gradience.report.monitor_runs import OUTCOMES, runs_table
from gradience.report.monitor_series import audit_blocks, logged_blocks, rank_use_blocks
from gradience.reports.base import terminal
from gradience.reports.base.blocks import Block, Document, Heading, Note, Notes, Paragraph, Span, items
from gradience.reports.base.numbers import count, duration, plain, plural, sig, trimmed
from gradience.reports.monitor import Alert, MonitorReport, ReadNote, Recommendation, RunReport

ALERTS = "Alerts"
"""The title of their section."""


def monitor_text(
    report: MonitorReport, *, width: int | None = None, color: bool = False, verbose: bool = False
) -> str:
    """Return the report as terminal text. verbose: gradient norm, learning rate, families, evidence and sources too."""
    room = min(max(width or terminal.MAX_TEXT, terminal.MIN_WIDTH), terminal.MAX_TEXT) - terminal.INDENT
    blocks = monitor_blocks(report, verbose=verbose, chart_columns=room)
    return terminal.render(blocks, width=width, color=color)


def monitor_blocks(report: MonitorReport, *, verbose: bool = False, chart_columns: int = 98) -> Document:
    """Return all runs, before them a table that compares several. chart_columns: of the largest chart."""
    blocks: list[Block] = [runs_table(report.runs)] if len(report.runs) > 1 else []
    notes_before: set[str] = set()
    for run in report.runs:
        blocks += title_blocks(run)
        blocks += logged_blocks(run, report.gap_threshold, chart_columns, verbose=verbose)
        blocks += rank_use_blocks(run.rank_use, verbose=verbose) if run.rank_use is not None else []
        blocks += audit_blocks(run.audits)
        blocks += alert_blocks(run.alerts, verbose=verbose)
        blocks += advice_blocks(run.recommendations)
        notes = [note for note in notes_of(run) if note not in notes_before]
        notes_before.update(notes)
        blocks += [Heading("Keep in mind"), items(notes)] if notes else []
    return blocks


def title_blocks(run: RunReport) -> list[Block]:
    """Return file and outcome; steps and time; setup; the user's own note."""
    word, role = OUTCOMES[run.outcome]
    alerts = alerts_text(run.alerts)
    facts = [plural(run.last_step, "step")] if run.last_step is not None else []
    facts += [duration(run.seconds)] if run.seconds is not None else []
    facts += [f"{sig(run.samples_per_second)} samples/s"] if run.samples_per_second else []
    facts += [f"resumed at step {step}" for step in run.resumed_from]
    facts += [f"last of {run.runs_in_file} runs in the file"] if run.runs_in_file > 1 else []
    sentences = [" · ".join(facts), run.outcome_reason, setup_sentence(run)]
    sentences += [f"“{run.setup.notes}”"] if run.setup.notes else []
    return [
        Heading(
            Span(run.file, "name"),
            level=1,
            aside=(Span(word, role), *((", ", Span(alerts, to=ALERTS)) if alerts else ())),
        ),
        *(Paragraph(Span(sentence, "dim")) for sentence in sentences if sentence),
    ]


def setup_sentence(run: RunReport) -> str:
    """Return model, rank and α, parameters, learning rate, batch and precision, as far as the file says."""
    setup = run.setup
    parts = [name for name in (setup.model, setup.trainer) if name and name != "Trainer"]
    parts += [setup.quantization] if setup.quantization else []
    if setup.r:
        parts.append(f"r={setup.r}" + (f" α={trimmed(setup.alpha)}" if setup.alpha is not None else ""))
    if setup.trainable_params:
        parts.append(f"{count(setup.trainable_params)} trainable parameters")
    if setup.learning_rate is not None:
        kinds = filter(None, (f"lr {rate(setup.learning_rate)}", setup.schedule, setup.optimizer))
        parts.append(" ".join(kinds))
    parts += [f"batch {setup.effective_batch_size}"] if setup.effective_batch_size else []
    parts += [setup.precision] if setup.precision else []
    return " · ".join(parts) or "no configuration recorded"


def alerts_text(alerts: Iterable[Alert]) -> str:
    """Return `1 error and 2 warnings`; empty where there is neither."""
    severities = Counter(alert.severity for alert in alerts)
    return " and ".join(plural(severities[one], one) for one in ("error", "warning") if severities[one])


def alert_blocks(alerts: Iterable[Alert], *, verbose: bool) -> list[Block]:
    """Return the alerts; verbose: with their evidence and source."""
    notes = [
        Note(
            alert.severity,
            f"{alert.message} ({alert.code}, {alert.confidence} confidence)",
            _evidence(alert) if verbose else (),
        )
        for alert in alerts
    ]
    return [Heading(ALERTS), Notes(notes or [Note("good", "none")])]


def _evidence(alert: Alert) -> list[str]:
    """`loss: 0.7 at step 5; …`, and the source of the rule."""
    seen = []
    for item in alert.evidence:
        value = item.value if isinstance(item.value, str) else plain(item.value)
        seen.append(f"{item.what}: {value}" + (f" at step {count(item.step)}" if item.step else ""))
    return [*(["; ".join(seen)] if seen else []), f"source: {alert.source}"]


def advice_blocks(recommendations: Iterable[Recommendation]) -> list[Block]:
    """Return what to do, each with the reason."""
    notes = [
        Note("item", one.action, [f"{one.reason} ({one.because}, {one.confidence} confidence)"])
        for one in recommendations
    ]
    return [Heading("What to do"), Notes(notes)] if notes else []


def notes_of(run: RunReport) -> list[str]:
    """Return what to keep in mind about a run, and the lines of its file that could not be read."""
    unread = [f"{note.message} ({_where(note)})" for note in run.read_notes]
    return [*run.notes, *unread]


def _where(note: ReadNote) -> str:
    return (
        f"line {note.first_line}"
        if note.count == 1
        else f"{note.count} lines, the first is {note.first_line}"
    )
