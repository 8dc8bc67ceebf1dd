"""run.jsonl -> MonitorReport: what happened, and what to do about it.

The file is read once, in constant memory. Where it holds several runs, the last one is reported.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from gradience.errors import InputError, is_number
from gradience.files.shared_names import path_text
from gradience.monitor import rules
from gradience.monitor.facts import RunFacts, Series, finite, read_setup, settled_since
from gradience.reports import monitor as report
from gradience.settings import Flag, Number, StrPath, paths_of, public, settings_model, several
from gradience.telemetry import Record, TelemetryReader

__all__ = ["monitor_runs"]

USE_KEYS = tuple(name for name in report.RankUsePoint.model_fields if name != "step")
AUDIT_KEYS = (
    "stable_rank_mean",
    "stable_rank_median",
    "utilization_mean",
    "energy_rank_90_p50",
    "energy_rank_90_p90",
    "suggested_r_global_median",
    "suggested_r_global_90",
    "n_layers",
    "total_lora_params",
)


@settings_model()
class MonitorSettings:
    """Runs."""

    paths: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("RUN.jsonl")]
    """File written by GradienceCallback; several are compared."""
    _: KW_ONLY
    gap_threshold: Annotated[Number, Field(ge=1), Flag("X")] = 1.5
    """Alert if evaluation perplexity divided by training perplexity is above this."""


@public(MonitorSettings)
def monitor_runs(settings: MonitorSettings) -> report.MonitorReport:
    """Read the training logs at `paths`, and return a report on each run.

    >>> from gradience import monitor_runs
    >>> monitor_runs("run.jsonl").runs[0].outcome
    'ok'

    Keywords, named like the flags of `gradience monitor`:

    Raises InputError if a file is missing or contains no records (`run-not-found`, `run-not-a-file`, `run-empty`).
    """
    from gradience import __version__

    paths = paths_of(settings.paths)
    return report.MonitorReport(
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


def _report(path: Path, name: str, gap_threshold: float) -> report.RunReport:
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
        hint = "give the run.jsonl that GradienceCallback or TelemetryWriter wrote"
        raise InputError(f"{path}: contains no telemetry records", code="run-empty", hint=hint)
    setup = read_setup(facts.start, rewarded=facts.rewarded)
    run = rules.MonitoredRun(facts, setup, gap_threshold)
    outcome, reason = _outcome(facts)
    return report.RunReport(
        file=name,
        run_id=facts.run_id,
        runs_in_file=len(ids),
        records=facts.records,
        read_notes=tuple(
            report.ReadNote(code=code, count=issue.count, first_line=issue.line, message=issue.message)
            for code, issue in sorted(reader.issues.items())
        ),
        outcome=outcome,
        outcome_reason=reason,
        last_step=facts.last_step,
        resumed_from=tuple(facts.resumed_from),
        started=facts.started,
        seconds=facts.seconds,
        samples_per_second=finite(facts.end.number("train_samples_per_second")) if facts.end else None,
        setup=setup,
        loss=_curve(facts.loss),
        grad_norm=_curve(facts.grad_norm),
        learning_rate=_curve(facts.lr),
        evaluations={
            name: report.SplitReport(
                count=split.count,
                best=_evaluation(split.best, setup),
                last=_evaluation(split.last, setup),
                loss=_curve(split.losses),
            )
            for name, split in facts.splits.items()
        },
        rank_use=_rank_use(facts),
        audits=tuple(_audit(record) for record in facts.audits),
        alerts=tuple(
            report.Alert(code=rule.code, severity=rule.severity, source=rule.source, **asdict(observation))
            for rule in rules.RULES
            for observation in rule.statements(run)
        ),
        notes=tuple(_notes(facts, setup)),
    )


def _outcome(facts: RunFacts) -> tuple[report.Outcome, str | None]:
    if facts.end is None:
        return "unfinished", "still running, or killed"
    status, reason = facts.end.text("status"), facts.end.text("reason")
    if status == "error":
        return "error", reason
    if status in ("aborted", "interrupted"):
        return "interrupted", reason
    return ("stopped-early", reason) if reason and reason.startswith("stopped at") else ("ok", reason)


def _curve(series: Series) -> report.Curve:
    low, high = series.lowest, series.highest
    return report.Curve(
        count=series.count,
        nonfinite=series.nonfinite,
        first_nonfinite_step=series.first_nonfinite_step,
        first=series.first,
        last=finite(series.last),
        low=low.low if low else None,
        low_step=low.low_step if low else None,
        high=high.high if high else None,
        high_step=high.high_step if high else None,
        points=tuple(
            report.CurvePoint(step=b.last_step, mean=b.mean, low=b.low, high=b.high) for b in series.buckets
        ),
    )


def _evaluation(
    evaluation: report.EvaluationPoint | None, setup: report.Setup
) -> report.EvaluationPoint | None:
    """Return the evaluation without meaningless fields: perplexity and gap depend on the trainer's loss."""
    if evaluation is None or setup.method == "supervised":
        return evaluation
    hidden = ("perplexity", "train_loss", "gap") if setup.method == "reinforcement" else ("perplexity",)
    return evaluation.model_copy(update=dict.fromkeys(hidden))


def _rank_use(facts: RunFacts) -> report.RankUse | None:
    last = facts.last_spectra
    if last is None:
        return None
    points = facts.spectra if facts.spectra[-1:] == [last] else [*facts.spectra, last]
    unmeasured, ranks = facts.modules.get("unmeasured"), facts.modules.get("r")
    known = [r for r in ranks if isinstance(r, int)] if isinstance(ranks, list) else []
    return report.RankUse(
        modules=last.count("modules"),
        unmeasured=len(unmeasured) if isinstance(unmeasured, Mapping) else 0,
        max_rank=max(known, default=None),
        untrained=last.count("untrained"),
        nonfinite=last.count("nonfinite"),
        settled_since=settled_since(facts.recent),
        points=tuple(
            report.RankUsePoint(step=point.step, **{key: point.summary.get(key) for key in USE_KEYS})
            for point in points
        ),
    )


def _audit(record: Record) -> dict[str, int | float | str | None]:
    metrics = record.mapping("metrics")
    values = {key: value for key in AUDIT_KEYS if is_number(value := metrics.get(key))}
    return {"step": record.step, **values}


def _notes(facts: RunFacts, setup: report.Setup) -> list[str]:
    notes = []
    if setup.method == "reinforcement":
        notes.append("In reinforcement learning the loss does not measure progress, so no rule judges it.")
    if facts.modules.get("starts_at_zero") is False:
        notes.append(
            f"The factors were initialized with {setup.init or 'something other than zero'}: B·A is not yet ΔW,"
            " so rank use is shown without an alert."
        )
    if facts.not_kept:
        notes.append(f"Appended audits or splits that are not shown: {facts.not_kept}.")
    return notes
