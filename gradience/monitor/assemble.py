"""Facts -> RunReport: nothing is decided here, everything is laid out."""

from collections.abc import Mapping
from dataclasses import asdict

from gradience.arguments import is_number
from gradience.monitor import rules
from gradience.monitor.facts import RunFacts, finite, read_setup
from gradience.monitor.rules import MonitoredRun
from gradience.monitor.series import Series
from gradience.reports.monitor import (
    Alert,
    Curve,
    CurvePoint,
    EvaluationPoint,
    Outcome,
    RankUse,
    RankUsePoint,
    ReadNote,
    RunReport,
    Setup,
    SplitReport,
)
from gradience.telemetry import Record, TelemetryReader
from gradience.telemetry.rank_series import settled_since

USE_KEYS = tuple(name for name in RankUsePoint.model_fields if name != "step")
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


def run_report(
    file: str, facts: RunFacts, reader: TelemetryReader, runs_in_file: int, gap_threshold: float
) -> RunReport:
    """Return everything that is known about one run."""
    setup = read_setup(facts.config, rewarded=facts.rewarded)
    run = MonitoredRun(facts, setup, gap_threshold)
    outcome, reason = _outcome(facts)
    return RunReport(
        file=file,
        run_id=facts.run_id,
        runs_in_file=runs_in_file,
        records=facts.records,
        read_notes=_read_notes(reader),
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
            name: SplitReport(
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
            Alert(code=rule.code, severity=rule.severity, source=rule.source, **asdict(observation))
            for rule in rules.RULES
            for observation in rule.statements(run)
        ),
        notes=tuple(_notes(facts, setup)),
    )


def _outcome(facts: RunFacts) -> tuple[Outcome, str | None]:
    if facts.end is None:
        return "unfinished", "still running, or killed"
    status, reason = facts.end.text("status"), facts.end.text("reason")
    if status == "error":
        return "error", reason
    if status in ("aborted", "interrupted"):
        return "interrupted", reason
    return ("stopped-early", reason) if reason and reason.startswith("stopped at") else ("ok", reason)


def _read_notes(reader: TelemetryReader) -> tuple[ReadNote, ...]:
    first = {issue.code: issue for issue in reversed(reader.issues)}
    return tuple(
        ReadNote(
            code=code,
            count=count,
            first_line=first[code].line if code in first else 0,
            message=first[code].message if code in first else "",
        )
        for code, count in sorted(reader.issue_counts.items())
    )


def _curve(series: Series) -> Curve:
    low, high = series.lowest, series.highest
    return Curve(
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
            CurvePoint(step=b.last_step, mean=b.mean, low=b.low, high=b.high) for b in series.buckets
        ),
    )


def _evaluation(evaluation: EvaluationPoint | None, setup: Setup) -> EvaluationPoint | None:
    """Return the evaluation without meaningless fields: perplexity and gap depend on the trainer's loss."""
    if evaluation is None or setup.method == "supervised":
        return evaluation
    hidden = ("perplexity", "train_loss", "gap") if setup.method == "reinforcement" else ("perplexity",)
    return evaluation.model_copy(update=dict.fromkeys(hidden))


def _rank_use(facts: RunFacts) -> RankUse | None:
    last = facts.last_spectra
    if last is None:
        return None
    points = facts.spectra if facts.spectra[-1:] == [last] else [*facts.spectra, last]
    unmeasured, ranks = facts.modules.get("unmeasured"), facts.modules.get("r")
    return RankUse(
        modules=int(last.summary.get("modules", 0)),
        unmeasured=len(unmeasured) if isinstance(unmeasured, Mapping) else 0,
        max_rank=max((r for r in ranks if isinstance(r, int)), default=None)
        if isinstance(ranks, list)
        else None,
        untrained=int(last.summary.get("untrained", 0)),
        nonfinite=int(last.summary.get("nonfinite", 0)),
        settled_since=settled_since(facts.recent),
        points=tuple(
            RankUsePoint(step=point.step, **{key: point.summary.get(key) for key in USE_KEYS})
            for point in points
        ),
    )


def _audit(record: Record) -> dict[str, int | float | str | None]:
    metrics = record.mapping("metrics")
    row: dict[str, int | float | str | None] = {"step": record.step}
    for key in AUDIT_KEYS:
        value = metrics.get(key)
        if is_number(value):
            row[key] = value
    return row


def _notes(facts: RunFacts, setup: Setup) -> list[str]:
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
