"""Several runs in one table, and the words that the table and a single run share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.monitor import Alert, RankUse, RunReport
from gradience.report.lines import Cell, Line, Span, columns, columns_width, fit
from gradience.report.names import display_name
from gradience.report.numbers import MISSING, count, sig, trimmed

MARKS = {"info": ("·", "info"), "warning": ("!", "warn"), "error": ("✗", "bad")}
OUTCOMES = {
    "ok": ("finished", "good"),
    "stopped-early": ("stopped early", "good"),
    "interrupted": ("interrupted", "warn"),
    "error": ("ended with an error", "bad"),
    "unfinished": ("still running, or killed", "warn"),
}
SHORT = {"error": "error", "unfinished": "no end"}
HEAD = ("run", "outcome", "steps", "time", "loss", "best eval", "gap", "k@90 / r", "alerts")
ALIGN = "<<>><>>><"
LEAST_NEEDED = ("time", "steps", "gap", "best eval", "outcome")
"""Columns that go where the terminal is too narrow, in this order."""


def runs_table(runs: Sequence[RunReport], width: int) -> list[Line]:
    """One line per run; columns that do not fit are left out, the least needed first."""
    head = [
        "loss or reward" if name == "loss" and any(run.rewards for run in runs) else name for name in HEAD
    ]
    rows: list[list[Cell]] = [[Span(text, "dim") for text in head], *map(_row, runs)]
    kept = list(range(len(HEAD)))
    for name in LEAST_NEEDED:
        if columns_width([[row[i] for i in kept] for row in rows], gap=2) - 2 <= width:
            break
        kept.remove(HEAD.index(name))
    return columns([[row[i] for i in kept] for row in rows], "".join(ALIGN[i] for i in kept), indent=0)


def _row(run: RunReport) -> list[Cell]:
    split = next(iter(run.evaluations.values()), None)
    word, style = OUTCOMES[run.outcome]
    return [
        Span(fit(display_name(run.file), 20), "name"),
        Span(SHORT.get(run.outcome, word), style),
        MISSING if run.last_step is None else count(run.last_step),
        duration(run.seconds),
        _progress(run),
        sig(split.best.loss) if split and split.best else MISSING,
        signed(split.last.gap) if split and split.last else MISSING,
        _rank_cell(run.rank_use),
        _alert_counts(run.alerts),
    ]


def _progress(run: RunReport) -> str:
    curve, what = (run.rewards.reward, "reward ") if run.rewards else (run.loss, "")
    return f"{what}{sig(curve.first)} → {sig(curve.last)}" if curve.count else MISSING


def _rank_cell(use: RankUse | None) -> str:
    if use is None or not use.points:
        return MISSING
    rank = MISSING if use.max_rank is None else count(use.max_rank)
    return f"{trimmed(use.points[-1].energy_rank_90_p90)} / {rank}"


def _alert_counts(alerts: Iterable[Alert]) -> str:
    severities = [alert.severity for alert in alerts]
    marks = [
        f"{MARKS[name][0]}{severities.count(name)}" for name in ("error", "warning") if name in severities
    ]
    return " ".join(marks) or "none"


def duration(seconds: float | None) -> str:
    """45 s, 2 min 6 s, 3 h 12 min."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{sig(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def signed(value: float | None) -> str:
    """+0.31, −0.02."""
    if value is None:
        return MISSING
    return f"{'−' if value < 0 else '+'}{sig(abs(value))}"
