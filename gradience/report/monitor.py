"""A MonitorReport -> the screen: outcome, loss, evaluation, use of rank, alerts, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gradience.artifacts.monitor import (
    Alert,
    Curve,
    EvaluationPoint,
    Evidence,
    MonitorReport,
    RankUse,
    Recommendation,
    RunReport,
    SplitReport,
)
from gradience.report.charts import area, sparkline
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import MISSING, count, plural, sig, trimmed
from gradience.report.terminal import Line, Span, columns, fit, line, paragraph, render

MIN_WIDTH, MAX_WIDTH = 60, 100
MARKS = {"info": ("·", "info"), "warning": ("!", "warn"), "error": ("✗", "bad")}
OUTCOMES = {
    "ok": ("finished", "good"),
    "stopped-early": ("stopped early", "good"),
    "interrupted": ("interrupted", "warn"),
    "error": ("ended with an error", "bad"),
    "unfinished": ("no end recorded", "warn"),
}
SPARK = 32
TIMING = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
"""What the Trainer reports about an evaluation itself."""


def monitor_text(
    report: MonitorReport, *, width: int | None = None, color: bool = False, verbose: bool = False
) -> str:
    """The report as terminal text, at most 100 columns. Several runs begin with a table that compares them."""
    room = min(max(width or 80, MIN_WIDTH), MAX_WIDTH)
    lines: list[Line] = []
    if len(report.runs) > 1:
        lines += [*_table(report.runs), []]
    for number, run in enumerate(report.runs):
        lines += [[]] if number else []
        lines += _run(run, report.gap_threshold, room, verbose)
    return render(lines, color=color)


# ------------------------------------------------------------------ several runs


def _table(runs: Iterable[RunReport]) -> list[Line]:
    head: list[str | Span] = [
        Span(text, "dim")
        for text in ("run", "outcome", "steps", "time", "loss", "best eval", "gap", "k@90 / r", "alerts")
    ]
    rows = [head]
    for run in runs:
        split = next(iter(run.evaluations.values()), None)
        rows.append(
            [
                Span(fit(display_name(run.file), 20), "name"),
                Span(*OUTCOMES[run.outcome]),
                _number(run.last_step),
                duration(run.seconds),
                f"{sig(run.loss.first)} → {sig(run.loss.last)}",
                sig(split.best.loss) if split and split.best else MISSING,
                signed(split.last.gap) if split and split.last else MISSING,
                _rank_cell(run.rank_use),
                _alert_counts(run.alerts),
            ]
        )
    return columns(rows, "<<>><>>><", indent=0)


def _rank_cell(use: RankUse | None) -> str:
    if use is None or not use.points:
        return MISSING
    return f"{trimmed(use.points[-1].energy_rank_90_p90)} / {_number(use.max_rank)}"


def _alert_counts(alerts: Iterable[Alert]) -> str:
    severities = [alert.severity for alert in alerts]
    marks = [
        f"{MARKS[name][0]}{severities.count(name)}" for name in ("error", "warning") if name in severities
    ]
    return " ".join(marks) or "none"


# ------------------------------------------------------------------ one run


def _run(run: RunReport, gap_threshold: float, width: int, verbose: bool) -> list[Line]:
    lines = _headline(run, width)
    lines += _loss(run, width, verbose)
    for name, split in run.evaluations.items():
        lines += _evaluations(name, split, gap_threshold, verbose)
    if run.rank_use is not None:
        lines += _rank_use(run.rank_use, verbose)
    if run.audits:
        lines += _audits(run)
    lines += _alerts(run.alerts, width, verbose)
    lines += _recommendations(run.recommendations, width, verbose)
    notes = [
        *run.notes,
        *(f"{note.message} ({_lines_of(note.count, note.first_line)})" for note in run.read_notes),
    ]
    if notes:
        lines += [[], [Span("Keep in mind", "heading")]]
        for note in notes:
            lines += paragraph(display_sentence(note), width, first=line("  · "), indent=4, style="dim")
    return lines


def _lines_of(number: int, first: int) -> str:
    return f"line {first}" if number == 1 else f"{number} lines, the first is {first}"


def _headline(run: RunReport, width: int) -> list[Line]:
    word, style = OUTCOMES[run.outcome]
    facts = [plural(run.last_step, "step") if run.last_step is not None else "", duration(run.seconds)]
    if run.samples_per_second:
        facts.append(f"{sig(run.samples_per_second)} samples/s")
    facts += [f"resumed at step {step}" for step in run.resumed_from]
    if run.runs_in_file > 1:
        facts.append(f"last of {run.runs_in_file} runs in the file")
    lines = [
        [
            Span(display_name(run.file), "strong"),
            Span("  "),
            Span(word, style),
            Span("".join(f" · {fact}" for fact in facts if fact and fact != MISSING), "dim"),
        ]
    ]
    if run.outcome_reason:
        lines += paragraph(display_sentence(run.outcome_reason), width, style="dim")
    lines += paragraph(_setup_sentence(run), width, style="dim")
    if run.setup.notes:
        lines += paragraph(f"“{display_sentence(run.setup.notes)}”", width, style="dim")
    return lines


def _setup_sentence(run: RunReport) -> str:
    setup = run.setup
    parts = [display_name(setup.model)] if setup.model else []
    if setup.quantization:
        parts.append(setup.quantization)
    if setup.r:
        alpha = f" α={trimmed(setup.alpha)}" if setup.alpha is not None else ""
        parts.append(f"r={setup.r}{alpha}")
    if setup.trainable_params:
        parts.append(f"{count(setup.trainable_params)} trainable")
    if setup.learning_rate is not None:
        kinds = " ".join(filter(None, (setup.schedule, setup.optimizer)))
        parts.append(f"lr {sig(setup.learning_rate, 2)} {display_name(kinds, 40)}".rstrip())
    if setup.effective_batch_size:
        parts.append(f"batch {setup.effective_batch_size}")
    if setup.precision:
        parts.append(display_name(setup.precision, 20))
    return " · ".join(parts) or "no configuration recorded"


def _loss(run: RunReport, width: int, verbose: bool) -> list[Line]:
    curve = run.loss
    lines: list[Line] = [[], [Span("Loss", "heading"), Span(_curve_words(curve), "dim")]]
    if curve.points:
        means = [point.mean for point in curve.points]
        lines += area(means, curve.points[0].step, curve.points[-1].step, width=width)
    if verbose:
        for name, other in (("gradient norm", run.grad_norm), ("learning rate", run.learning_rate)):
            if other.points:
                spark = sparkline([point.mean for point in other.points], SPARK)
                lines.append(line(f"  {name:<14} ", Span(spark, "info"), Span(_curve_words(other), "dim")))
    return lines


def _curve_words(curve: Curve) -> str:
    if not curve.count:
        return f"  no finite value in {curve.nonfinite} records" if curve.nonfinite else "  nothing logged"
    words = f"  {sig(curve.first)} → {sig(curve.last)}, lowest {sig(curve.low)} at step {curve.low_step}"
    if curve.nonfinite:
        words += f", NaN or infinite {curve.nonfinite} times from step {curve.first_nonfinite_step}"
    return words


def _evaluations(name: str, split: SplitReport, gap_threshold: float, verbose: bool) -> list[Line]:
    lines: list[Line] = [
        [],
        [Span("Evaluation", "heading"), Span(f"  {display_name(name)}, {split.count} times", "dim")],
    ]
    rows: list[list[str | Span]] = []
    for label, point in (("best", split.best), ("last", split.last)):
        if point is not None:
            rows.append(
                [
                    label,
                    f"step {point.step}",
                    f"loss {_loss_words(point, split)}",
                    *_evaluation_cells(point, verbose),
                ]
            )
    wide = max((len(row) for row in rows), default=0)
    lines += columns([row + [""] * (wide - len(row)) for row in rows], "<" * wide) if rows else []
    if split.loss.count > 1:
        spark = sparkline([point.mean for point in split.loss.points], SPARK)
        lines.append(line("  loss  ", Span(spark, "info")))
    last = split.last
    if last is not None and last.gap is not None:
        ratio = math.exp(min(last.gap, 700.0))
        lines.append(
            line(
                f"  gap to training {signed(last.gap)} nats",
                Span(f" (ratio of perplexities {sig(ratio)}; an alert from {trimmed(gap_threshold)})", "dim"),
            )
        )
    return lines


def _loss_words(point: EvaluationPoint, split: SplitReport) -> str:
    return "NaN" if point.loss is None and split.loss.nonfinite else sig(point.loss)


def _evaluation_cells(point: EvaluationPoint, verbose: bool) -> list[str]:
    cells = [f"perplexity {sig(point.perplexity)}"] if point.perplexity is not None else []
    shown = [
        f"{display_name(key, 24)} {sig(value)}"
        for key, value in point.metrics.items()
        if (verbose and key not in TIMING) or key in ("accuracy", "f1", "exact_match", "mean_token_accuracy")
    ]
    return cells + shown[:6]


def _rank_use(use: RankUse, verbose: bool) -> list[Line]:
    measured = plural(use.modules, "module")
    extra = f", {use.unmeasured} more not measured" if use.unmeasured else ""
    rank = f", rank {use.max_rank}" if use.max_rank else ""
    lines: list[Line] = [[], [Span("Use of rank", "heading"), Span(f"  {measured}{rank}{extra}", "dim")]]
    rows: list[list[str | Span]] = []
    for label, key in (
        ("k@90, median module", "energy_rank_90_p50"),
        ("k@90, 9 of 10 modules", "energy_rank_90_p90"),
        ("stable rank, median", "stable_rank_median"),
        ("utilization, median", "utilization_median"),
        ("‖ΔW‖, all modules", "fro_norm"),
    ):
        values = [v for point in use.points if (v := getattr(point, key)) is not None]
        if values:
            change = f"{sig(values[0])} → {sig(values[-1])}"
            rows.append([label, Span(sparkline(values, SPARK), "info"), change])
    lines += columns(rows, "<<<")
    steps = [point.step for point in use.points]
    if steps:
        settled = (
            f"settled since step {use.settled_since}" if use.settled_since is not None else "not settled"
        )
        measured_at = f"measured {plural(len(steps), 'time')}, steps {steps[0]} to {steps[-1]}"
        lines.append(line(Span(f"  {measured_at}; k@90 {settled}", "dim")))
    if verbose and use.families:
        head: list[str | Span] = [
            Span(t, "dim") for t in ("family", "modules", "k@90 p50", "p90", "stable rank", "‖ΔW‖")
        ]
        table: list[list[str | Span]] = [head]
        for name, family in use.families.items():
            table.append(
                [
                    Span(display_name(name, 40), "name"),
                    str(family.modules),
                    trimmed(family.energy_rank_90_p50),
                    trimmed(family.energy_rank_90_p90),
                    sig(family.stable_rank_median),
                    sig(family.fro_norm),
                ]
            )
        lines += columns(table, "<>>>>>")
    return lines


def _audits(run: RunReport) -> list[Line]:
    lines: list[Line] = [[], [Span("Audits", "heading")]]
    for audit in run.audits:
        suggested = audit.get("suggested_r_global_90")
        rank = f", suggests rank {trimmed(float(suggested))}" if isinstance(suggested, (int, float)) else ""
        stable = audit.get("stable_rank_median", audit.get("stable_rank_mean"))
        use = f"stable rank {sig(float(stable))}" if isinstance(stable, (int, float)) else "no summary"
        lines.append(line(f"  step {audit.get('step')}: {use}{rank}"))
    return lines


# ------------------------------------------------------------------ what to look at, what to do


def _alerts(alerts: Iterable[Alert], width: int, verbose: bool) -> list[Line]:
    lines: list[Line] = [[], [Span("Alerts", "heading")]]
    for alert in alerts:
        mark, style = MARKS[alert.severity]
        lines += paragraph(
            f"{display_sentence(alert.message)} ({alert.code}, {alert.confidence} confidence)",
            width,
            first=[Span("  "), Span(mark, style), Span(" ")],
            indent=4,
        )
        if verbose:
            lines += _evidence(alert.evidence, width)
            lines += paragraph(f"source: {display_sentence(alert.source)}", width, indent=6, style="dim")
    if len(lines) == 2:
        lines.append(line("  ", Span("✓", "good"), " none"))
    return lines


def _evidence(evidence: Iterable[Evidence], width: int) -> list[Line]:
    words = [
        f"{display_name(item.what, 60)}: {value_words(item.value)}"
        + (f" at step {item.step}" if item.step else "")
        for item in evidence
    ]
    return paragraph("; ".join(words), width, indent=6, style="dim") if words else []


def _recommendations(recommendations: Iterable[Recommendation], width: int, verbose: bool) -> list[Line]:
    lines: list[Line] = []
    for item in recommendations:
        lines += paragraph(display_sentence(item.action), width, first=line("  → "), indent=4)
        reason = f"{display_sentence(item.reason)} ({item.because}, {item.confidence} confidence)"
        lines += paragraph(reason, width, indent=6, style="dim")
    return [[], [Span("What to do", "heading")], *lines] if lines else []


def value_words(value: float | str) -> str:
    """A piece of evidence as a reader sees it."""
    return display_name(value) if isinstance(value, str) else sig(value)


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


def _number(value: int | None) -> str:
    return MISSING if value is None else count(value)
