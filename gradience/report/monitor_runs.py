"""Several runs side by side in one table."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.reports.base.blocks import Column, Document, Heading, Inline, Role, Span, Table
from gradience.reports.base.numbers import MISSING, count, duration, plural, sig, signed, trimmed
from gradience.reports.monitor import RankUse, RunReport
from gradience.words import noun

OUTCOMES: dict[str, tuple[str, Role]] = {
    "ok": ("finished", "good"),
    "stopped-early": ("stopped early", "good"),
    "interrupted": ("interrupted", "warn"),
    "error": ("ended with an error", "bad"),
    "unfinished": ("still running, or killed", "warn"),
}
SHORT = {"error": "error", "unfinished": "no end"}


def overview_blocks(runs: Sequence[RunReport]) -> Document:
    """Return how many runs there are, how many have errors or warnings, and the table."""
    worst = [{alert.severity for alert in run.alerts} for run in runs]
    errors = sum("error" in severities for severities in worst)
    warnings = sum("warning" in severities and "error" not in severities for severities in worst)
    said = [plural(errors, "run has errors", "runs have errors")] if errors else []
    said += (
        [f"{count(warnings)} {'more' if errors else noun(warnings, 'run')} with warnings"] if warnings else []
    )
    verdict = (
        Span(", ".join(said), "bad" if errors else "warn")
        if said
        else Span("no errors and no warnings", "good")
    )
    return [Heading(plural(len(runs), "run"), level=1, aside=verdict), runs_table(runs)]


def runs_table(runs: Sequence[RunReport]) -> Table:
    """Return one row per run. In a narrow terminal time goes first, then steps, gap, evaluation, outcome, k@90."""
    progress = "loss or reward" if any(run.rewards for run in runs) else "loss"
    columns = [
        Column("run"),
        Column("outcome", drop=5),
        Column("steps", ">", drop=2),
        Column("time", ">", drop=1),
        Column(progress),
        Column("best eval", ">", drop=4),
        Column("gap", ">", drop=3),
        Column("k@90 / r, median", ">", drop=6),
        Column("errors", ">"),
        Column("warnings", ">"),
    ]
    return Table(columns, [_row(run) for run in runs])


def _row(run: RunReport) -> list[Inline]:
    split = next(iter(run.evaluations.values()), None)
    word, role = OUTCOMES[run.outcome]
    severities = [alert.severity for alert in run.alerts]
    errors, warnings = severities.count("error"), severities.count("warning")
    return [
        Span(run.file, "name", to=run.file),
        Span(SHORT.get(run.outcome, word), role),
        MISSING if run.last_step is None else count(run.last_step),
        duration(run.seconds),
        _progress(run),
        sig(split.best.loss) if split and split.best else MISSING,
        signed(split.last.gap) if split and split.last else MISSING,
        _rank(run.rank_use),
        Span(str(errors), "bad") if errors else "0",
        Span(str(warnings), "warn") if warnings else "0",
    ]


def _progress(run: RunReport) -> str:
    curve, what = (run.rewards.reward, "reward ") if run.rewards else (run.loss, "")
    return f"{what}{sig(curve.first)} → {sig(curve.last)}" if curve.count else MISSING


def _rank(use: RankUse | None) -> str:
    if use is None or not use.points:
        return MISSING
    rank = MISSING if use.max_rank is None else count(use.max_rank)
    return f"{trimmed(use.points[-1].energy_rank_90_p50)} / {rank}"
