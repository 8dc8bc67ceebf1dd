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
from gradience.learning_rate import rate
from gradience.report.charts import area, sparkline
from gradience.report.lines import Line, Span, columns, line, line_cells, paragraph, render
from gradience.report.monitor_rewards import rewards_lines
from gradience.report.monitor_table import MARKS, OUTCOMES, duration, runs_table, signed
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import MISSING, count, plain, plural, sig, trimmed

MIN_WIDTH, MAX_WIDTH = 60, 100
SPARK, SIDE_SPARK = 32, 16
SHOWN = ("reward", "accuracy", "f1", "exact_match", "rewards/accuracies", "mean_token_accuracy")
"""Metrics of an evaluation that are shown without being asked for, at most two."""
TIMING = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
"""What the Trainer reports about an evaluation itself."""
NOT_SHOWN = (*TIMING, "num_tokens")


def monitor_text(
    report: MonitorReport, *, width: int | None = None, color: bool = False, verbose: bool = False
) -> str:
    """The report as terminal text, at most 100 columns. Several runs begin with a table that compares them."""
    room = min(max(width or MAX_WIDTH, MIN_WIDTH), MAX_WIDTH)
    lines: list[Line] = []
    if len(report.runs) > 1:
        lines += [*runs_table(report.runs, room), []]
    said: set[str] = set()
    for number, run in enumerate(report.runs):
        lines += [[]] if number else []
        lines += _run(run, report.gap_threshold, room, verbose)
        lines += _notes(run, room, said)
    return render(lines, color=color)


# ------------------------------------------------------------------ one run


def _run(run: RunReport, gap_threshold: float, width: int, verbose: bool) -> list[Line]:
    lines = _headline(run, width)
    if run.rewards is not None:
        lines += rewards_lines(run.rewards, run.loss, width=width, verbose=verbose)
        lines += _side_curves(run) if verbose else []
    if run.rewards is None or not run.rewards.reward.count:
        lines += _loss(run, width, verbose and run.rewards is None)
    threshold = gap_threshold if run.setup.method == "supervised" else None
    for name, split in run.evaluations.items():
        lines += _evaluations(name, split, threshold, width, verbose)
    if run.rank_use is not None:
        lines += _rank_use(run.rank_use, verbose)
    if run.audits:
        lines += _audits(run)
    lines += _alerts(run.alerts, width, verbose)
    lines += _recommendations(run.recommendations, width, verbose)
    return lines


def _notes(run: RunReport, width: int, said: set[str]) -> list[Line]:
    """What to keep in mind about a run, each sentence once in a report of several runs."""
    notes = [
        *run.notes,
        *(f"{note.message} ({_lines_of(note.count, note.first_line)})" for note in run.read_notes),
    ]
    new = [note for note in notes if note not in said]
    said.update(new)
    lines: list[Line] = [[], [Span("Keep in mind", "heading")]] if new else []
    for note in new:
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
    lines: list[Line] = [[Span(display_name(run.file), "strong"), Span("  "), Span(word, style)]]
    words = "".join(f" · {fact}" for fact in facts if fact and fact != MISSING)
    if line_cells([*lines[0], Span(words)]) <= width:
        lines[0].append(Span(words, "dim"))
    else:
        lines += paragraph(words.removeprefix(" · "), width, style="dim")
    if run.outcome_reason:
        lines += paragraph(display_sentence(run.outcome_reason), width, style="dim")
    lines += paragraph(_setup_sentence(run), width, style="dim")
    if run.setup.notes:
        lines += paragraph(f"“{display_sentence(run.setup.notes)}”", width, style="dim")
    return lines


def _setup_sentence(run: RunReport) -> str:
    setup = run.setup
    parts = [display_name(name, 40) for name in (setup.model, setup.trainer) if name and name != "Trainer"]
    if setup.quantization:
        parts.append(setup.quantization)
    if setup.r:
        alpha = f" α={trimmed(setup.alpha)}" if setup.alpha is not None else ""
        parts.append(f"r={setup.r}{alpha}")
    if setup.trainable_params:
        parts.append(f"{count(setup.trainable_params)} trainable")
    if setup.learning_rate is not None:
        kinds = " ".join(filter(None, (setup.schedule, setup.optimizer)))
        parts.append(f"lr {rate(setup.learning_rate)} {display_name(kinds, 40)}".rstrip())
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
    return lines + (_side_curves(run) if verbose else [])


def _side_curves(run: RunReport) -> list[Line]:
    lines: list[Line] = []
    for name, other in (("gradient norm", run.grad_norm), ("learning rate", run.learning_rate)):
        if other.points:
            spark = sparkline([point.mean for point in other.points], SIDE_SPARK)
            words = (
                f"{sig(other.first)} → {sig(other.last)}, highest {sig(other.high)} at step {other.high_step}"
            )
            if other.nonfinite:
                words = _nonfinite_words(other)
            lines.append(line(f"  {name:<14} ", Span(spark, "info"), Span(f"  {words}", "dim")))
    return lines


def _nonfinite_words(curve: Curve) -> str:
    return f"NaN or infinite {plural(curve.nonfinite, 'time')} from step {curve.first_nonfinite_step}"


def _curve_words(curve: Curve) -> str:
    if not curve.count:
        return (
            f"  no finite value in {plural(curve.nonfinite, 'record')}"
            if curve.nonfinite
            else "  nothing logged"
        )
    words = f"  {sig(curve.first)} → {sig(curve.last)}, lowest {sig(curve.low)} at step {curve.low_step}"
    if curve.nonfinite:
        words += f", {_nonfinite_words(curve)}"
    return words


def _evaluations(
    name: str, split: SplitReport, gap_threshold: float | None, width: int, verbose: bool
) -> list[Line]:
    best, last = split.best, split.last
    named, note = [("best", best), ("last", last)], ""
    if best is not None and last is not None and best.step == last.step:
        named, note = [("last", last)], ", the last is the best" if split.count > 1 else ""
    words = f"  {plural(split.count, 'evaluation')} on {display_name(name)}{note}"
    lines: list[Line] = [[], [Span("Evaluation", "heading"), Span(words, "dim")]]
    rows: list[list[str | Span]] = []
    for label, point in named:
        if point is not None:
            rows.append(
                [
                    label,
                    f"step {point.step}",
                    f"loss {_loss_words(point, split)}",
                    *_evaluation_cells(point),
                ]
            )
    wide = max((len(row) for row in rows), default=0)
    lines += columns([row + [""] * (wide - len(row)) for row in rows], "<" * wide) if rows else []
    if split.loss.count > 1:
        spark = sparkline([point.mean for point in split.loss.points], SPARK)
        lines.append(line("  loss  ", Span(spark, "info")))
    if verbose and last is not None:
        others = (f"{display_name(k, 40)} {plain(v)}" for k, v in last.metrics.items() if k not in NOT_SHOWN)
        lines += paragraph("; ".join(others), width, style="dim")
    if last is not None and last.gap is not None:
        lines.append(_gap(last.gap, gap_threshold))
    return lines


def _gap(gap: float, threshold: float | None) -> Line:
    """A ratio of perplexities where the loss is a cross-entropy, which `threshold` says."""
    if threshold is None:
        return line(f"  gap to training {signed(gap)}")
    ratio = f" (perplexity ratio {sig(math.exp(min(gap, 700.0)))}, alert threshold {trimmed(threshold)})"
    return line(f"  gap to training {signed(gap)} nats", Span(ratio, "dim"))


def _loss_words(point: EvaluationPoint, split: SplitReport) -> str:
    return "NaN" if point.loss is None and split.loss.nonfinite else sig(point.loss)


def _evaluation_cells(point: EvaluationPoint) -> list[str]:
    cells = [f"perplexity {sig(point.perplexity)}"] if point.perplexity is not None else []
    return cells + [f"{key} {sig(point.metrics[key])}" for key in SHOWN if key in point.metrics][:2]


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
            words = trimmed if key.startswith("energy_rank") else sig
            change = f"{words(values[0])} → {words(values[-1])}"
            rows.append([label, Span(sparkline(values, SPARK), "info"), change])
    lines += columns(rows, "<<<")
    steps = [point.step for point in use.points]
    if steps:
        lines.append(line(Span(f"  {_measured(use, steps)}", "dim")))
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


def _measured(use: RankUse, steps: list[int]) -> str:
    """When the spectra were measured, and whether k@90 stands still."""
    when = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}"
    if use.untrained == use.modules:
        rank = "every ΔW is zero"
    elif use.settled_since is not None:
        rank = f"k@90 settled since step {use.settled_since}"
    else:
        rank = "k@90 not settled"
    return f"measured {plural(len(steps), 'time')}, {when}; {rank}"


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
        + (f" at step {count(item.step)}" if item.step else "")
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
    return display_name(value) if isinstance(value, str) else plain(value)
