"""Is an audit complete? Alone in a file, because the exit code asks where no report is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gradience.reports.audit import AuditReport, TensorNote
from gradience.reports.base.numbers import count, plural


def incompleteness(report: AuditReport) -> str | None:
    """Return why the result is incomplete, in one sentence; None where it is complete.

    Incomplete means: some tensor or module could not be measured, or nothing at all was trained.
    """
    statuses = Counter(layer.status for layer in report.layers)
    parts = []
    if statuses["nonfinite"]:
        parts.append(f"NaN or infinity in {_of(statuses['nonfinite'], report.n_layers)}")
    if statuses["unsupported"]:
        parts.append(f"{_of(statuses['unsupported'], report.n_layers)} could not be measured")
    if report.coverage.unaudited:
        unaudited = report.coverage.unaudited
        parts.append(
            f"{plural(len(unaudited), 'tensor')} ({count(report.coverage.unaudited_params)} parameters) "
            f"could not be audited: {reasons(unaudited)}"
        )
    if report.n_layers and statuses["untrained"] == report.n_layers:
        modules = "the one module is" if report.n_layers == 1 else f"all {count(report.n_layers)} modules are"
        parts.append(f"{modules} untrained (ΔW = 0): there is nothing to measure")
    return "; ".join(parts) or None


def reasons(notes: Iterable[TensorNote], most: int = 2) -> str:
    """Return the most frequent reasons, with how many tensors each has."""
    reasons = Counter(note.reason for note in notes)
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} ({count(number)})" for reason, number in ranked[:most]]
    rest = len(ranked) - most
    return ", ".join(shown) + (f" and {plural(rest, 'other reason')}" if rest > 0 else "")


def _of(part: int, whole: int) -> str:
    return f"{count(part)} of {plural(whole, 'module')}"
