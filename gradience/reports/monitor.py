"""`gradience monitor --json`: alerts and recommendations for one or several training runs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.learning_rate import rate
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import MISSING, count, plain, plural, rough_duration, sig, signed, trimmed
from gradience.reports.base.report import Plots, Report, Severity
from gradience.reports.plots.plot import Axis, Lines, Plot
from gradience.words import listed

Confidence = Literal["low", "medium", "high"]
Outcome = Literal["ok", "stopped-early", "interrupted", "error", "unfinished"]


class Evidence(Part):
    """A value that supports an alert or a recommendation."""

    what: str
    value: Float12 | str
    step: int | None = None


class Alert(Part):
    """A problem found in the run."""

    code: str
    severity: Severity
    message: str
    evidence: tuple[Evidence, ...] = ()
    confidence: Confidence
    """Confidence of the rule that the alert applies to this run."""
    source: str
    """Source of the rule."""
    action: str = ""
    """Recommended action; empty if there is none."""
    reason: str = ""
    """Reason for the action."""


class CurvePoint(Part):
    """A few neighboring points of a series (one in a short run)."""

    step: int
    """The last step of the group."""
    mean: Float12
    low: Float12
    high: Float12


class Curve(Part):
    """A series over steps."""

    count: int
    """Finite points."""
    nonfinite: int
    """Points that were NaN or infinite, or 0 in their place (the Trainer's `logging_nan_inf_filter`)."""
    first_nonfinite_step: int | None = None
    first: Float12 | None = None
    last: Float12 | None = None
    """The last value; null if it is NaN or infinite."""
    low: Float12 | None = None
    low_step: int | None = None
    high: Float12 | None = None
    high_step: int | None = None
    points: tuple[CurvePoint, ...] = ()
    """At most 512."""

    @property
    def means(self) -> list[float]:
        """The means of the points."""
        return [point.mean for point in self.points]


class EvaluationPoint(Part):
    """One evaluation."""

    step: int
    loss: Float12 | None = None
    perplexity: Float12 | None = None
    train_loss: Float12 | None = None
    """Mean training loss since the previous evaluation, or the last loss if the file does not have the mean."""
    gap: Float12 | None = None
    """Evaluation loss minus training loss, in nats."""
    metrics: dict[str, Float12] = Field(default_factory=dict)
    """All other metrics of the evaluation."""


class SplitReport(Part):
    """All evaluations on one split."""

    count: int
    best: EvaluationPoint | None
    """Smallest loss."""
    last: EvaluationPoint | None
    loss: Curve


class RankUsePoint(Part):
    """Use of rank at one step, over modules."""

    step: int
    energy_rank_90_p50: Float12 | None = None
    energy_rank_90_p90: Float12 | None = None
    stable_rank_median: Float12 | None = None
    utilization_median: Float12 | None = None
    fro_norm: Float12 | None = None
    """√Σ‖ΔW‖_F² over modules."""


class RankUse(Part):
    """Live spectra of the run."""

    modules: int
    unmeasured: int
    max_rank: int | None
    untrained: int
    nonfinite: int
    settled_since: int | None
    """The step since which k@90 is constant; null if it still changes, or with too few measurements."""
    points: tuple[RankUsePoint, ...]


class Setup(Part):
    """Configuration of the run, as recorded in the file."""

    model: str | None = None
    task: str | None = None
    trainer: str | None = None
    """Class of the trainer's arguments, or of the trainer itself if the file names it."""
    method: Literal["supervised", "preference", "reinforcement"] = "supervised"
    """Training method, from the class of the trainer, or else from the metrics it logged."""
    evaluated_by: str | None = None
    """The evaluator, if it is not the trainer."""
    r: int | None = None
    alpha: Float12 | None = None
    scale: Float12 | None = None
    rslora: bool = False
    init: str | None = None
    """How the factors were initialized."""
    learning_rate: Float12 | None = None
    optimizer: str | None = None
    schedule: str | None = None
    effective_batch_size: int | None = None
    max_steps: int | None = None
    precision: str | None = None
    quantization: str | None = None
    nan_filter: bool = False
    """True if the Trainer logs a NaN loss as 0 (`logging_nan_inf_filter`)."""
    trainable_params: int | None = None
    hidden_size: int | None = None
    notes: str | None = None


class ReadNote(Part):
    """Lines of the file that could not be read, or only in part."""

    code: str
    count: int
    first_line: int
    message: str


class RunReport(Part):
    """One run."""

    file: str
    run_id: str
    runs_in_file: int
    """Number of runs in the file; the last one is reported."""
    records: int
    read_notes: tuple[ReadNote, ...]
    outcome: Outcome
    outcome_reason: str | None = None
    last_step: int | None
    resumed_from: tuple[int, ...]
    """Steps at which the run resumed."""
    started: Float12 | None
    """Wall clock, seconds since 1970."""
    seconds: Float12 | None
    """Duration from a monotonic clock."""
    samples_per_second: Float12 | None
    """Mean of the whole training, evaluations included, as the Trainer reports it; null before the training ends."""
    setup: Setup
    loss: Curve
    grad_norm: Curve
    learning_rate: Curve
    evaluations: dict[str, SplitReport]
    rank_use: RankUse | None
    audits: tuple[dict[str, int | Float12 | str | None], ...]
    """Summaries of the `lora_audit` records that `gradience audit --append` added."""
    alerts: tuple[Alert, ...]
    notes: tuple[str, ...]
    """Notes on the interpretation of the numbers."""


class MonitorReport(Report):
    """Summary of one or several training runs.

    >>> from gradience import monitor_runs
    >>> report = monitor_runs(["run.jsonl"])
    >>> report.runs[0].outcome
    'ok'
    """

    row_field: ClassVar[str] = "runs"
    plots: ClassVar[Plots] = {"loss": "monitor:loss_plot", "rank": "monitor:rank_plot"}

    schema_: Literal["gradience.monitor/3"] = "gradience.monitor/3"
    gradience_version: str
    gap_threshold: Float12
    runs: tuple[RunReport, ...]

    def screen(self, view: doc.View) -> doc.Document:
        """Return all runs, preceded by a table if there are several; on a brief screen of several only the alerts of
        each, and in full also gradient norm, learning rate, evidence and sources."""
        several = len(self.runs) > 1
        blocks: list[doc.Block] = [*overview_blocks(self.runs)] if several else []
        notes_before: set[str] = set()
        for run in self.runs:
            if several and view.brief:
                if run.alerts:
                    blocks += [doc.Heading(doc.Span(run.file, "name")), _alerts(run, verbose=False)]
                continue
            blocks += [*_title(run), _alerts(run, verbose=view.full), doc.dim(_facts(run))]
            blocks += _logged(run, verbose=view.full)
            blocks += _rank_use(run.rank_use) if run.rank_use is not None else []
            blocks += _audits(run)
            notes = [*run.notes]
            for unread in run.read_notes:
                lines = "" if unread.count == 1 else f"{unread.count} lines, first: "
                notes.append(f"{unread.message} ({lines}line {unread.first_line})")
            blocks += [doc.Heading("Notes"), doc.items(note for note in notes if note not in notes_before)]
            notes_before.update(notes)
        return blocks


OUTCOMES: dict[Outcome, tuple[str, doc.Style]] = {
    "ok": ("finished", "good"),
    "stopped-early": ("stopped early", "good"),
    "interrupted": ("interrupted", "warn"),
    "error": ("ended with an error", "bad"),
    "unfinished": ("still running, or killed", "warn"),
}
SHORT_OUTCOMES = {"error": "error", "unfinished": "no end"}
SPARK = 20
"""Columns of a chart."""
SHOWN = ("reward", "accuracy", "f1", "exact_match", "rewards/accuracies", "mean_token_accuracy")
"""Metrics of an evaluation that are shown by default, at most two."""
NOT_SHOWN = (
    *("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time"),
    "num_tokens",
)
"""Metrics on the evaluation itself, and metrics that grow independent of learning."""


def _title(run: RunReport) -> list[doc.Block]:
    """File, outcome, and number of alerts."""
    outcome, alerts = doc.Span(*OUTCOMES[run.outcome]), _alert_words(run).text
    aside = (outcome, f", {alerts}" if alerts else "")
    return [doc.Heading(("Training run ", doc.Span(run.file, "name")), level=1, aside=aside)]


def _alert_words(run: RunReport) -> doc.Span:
    """Return `1 error and 2 warnings`; empty without alerts."""
    numbers = Counter(alert.severity for alert in run.alerts)
    words = " and ".join(plural(numbers[name], name) for name in ("error", "warning") if numbers[name])
    return doc.Span(words, "bad" if numbers["error"] else "warn")


def _facts(run: RunReport) -> str:
    """Return steps, time and setup, as far as the file has them."""
    setup = run.setup
    steps = plural(run.last_step, "step") if run.last_step is not None else "no steps"
    parts = [f"{steps} in {rough_duration(run.seconds)}" if run.seconds is not None else steps]
    parts += [run.outcome_reason] if run.outcome_reason else []
    parts += [f"resumed at step {step}" for step in run.resumed_from]
    parts += [f"last of {run.runs_in_file} runs in the file"] if run.runs_in_file > 1 else []
    parts += [
        name.removeprefix("[path]/")
        for name in (setup.model, setup.trainer)
        if name and name not in ("Trainer", "TrainingArguments")
    ]
    parts += [setup.quantization] if setup.quantization else []
    if setup.r:
        parts.append(f"r={setup.r}" + (f" α={trimmed(setup.alpha)}" if setup.alpha is not None else ""))
    if setup.learning_rate is not None:
        kinds = filter(None, (f"learning rate {rate(setup.learning_rate)}", setup.schedule, setup.optimizer))
        parts.append(" ".join(kinds))
    parts += [f"batch {setup.effective_batch_size}"] if setup.effective_batch_size else []
    parts += [setup.precision] if setup.precision else []
    return ", ".join(parts)


def _alerts(run: RunReport, *, verbose: bool) -> doc.Notes:
    """Return each alert with its action and the reason for it."""
    notes = []
    for alert in run.alerts:
        details = [f"Next: {alert.action}. Why: {alert.reason}."] if alert.action else []
        if verbose:
            values = []
            for item in alert.evidence:
                value = item.value if isinstance(item.value, str) else plain(item.value)
                values.append(f"{item.what}: {value}" + (f" at step {count(item.step)}" if item.step else ""))
            details += [*(["; ".join(values)] if values else []), f"source: {alert.source}"]
        notes.append(doc.Note(alert.severity, f"{alert.message} ({alert.code})", details))
    if not notes and not run.evaluations:
        return doc.Notes(
            [doc.Note("info", "No alerts. No evaluation was recorded, so overfitting was not checked.")]
        )
    return doc.Notes(notes or [doc.Note("good", "No alerts")])


# ---------------------------------------------------------------- several runs side by side


def overview_blocks(runs: Sequence[RunReport]) -> doc.Document:
    """Return the number of runs, of those with errors and with warnings, and the table."""
    errors = sum(any(alert.severity == "error" for alert in run.alerts) for run in runs)
    warnings = sum(any(alert.severity == "warning" for alert in run.alerts) for run in runs)
    unchecked = sum(not run.evaluations for run in runs)
    without = f"; {plural(unchecked, 'run')} without an evaluation" if unchecked else ""
    verdict = doc.Span(f"no errors and no warnings{without}", "dim" if unchecked else "good")
    if errors or warnings:
        numbers = {"errors": errors, "warnings": warnings}
        words = ", ".join(f"{count(number)} with {name}" for name, number in numbers.items() if number)
        verdict = doc.Span(words, "bad" if errors else "warn")
    return [doc.Heading(plural(len(runs), "run"), level=1, aside=verdict), runs_table(runs)]


def runs_table(runs: Sequence[RunReport]) -> doc.Table:
    """Return one row per run. In a narrow terminal steps go first, then evaluation, outcome and k@90."""

    def best(run: RunReport) -> str:
        split = next(iter(run.evaluations.values()), None)
        return sig(split.best.loss) if split and split.best else MISSING

    def progress(run: RunReport) -> str:
        return f"{sig(run.loss.first)} → {sig(run.loss.last)}" if run.loss.count else MISSING

    def ranks(run: RunReport) -> str:
        use = run.rank_use
        if use is None or not use.points:
            return MISSING
        of = MISSING if use.max_rank is None else count(use.max_rank)
        return f"{trimmed(use.points[-1].energy_rank_90_p50)} / {of}"

    def outcome(run: RunReport) -> doc.Span:
        word, role = OUTCOMES[run.outcome]
        return doc.Span(SHORT_OUTCOMES.get(run.outcome, word), role)

    def steps(run: RunReport) -> str:
        return MISSING if run.last_step is None else count(run.last_step)

    return doc.table_of(
        runs,
        (doc.Column("run"), lambda run: doc.Span(run.file, "name")),
        (doc.Column("outcome", drop=3), outcome),
        (doc.Column("steps", ">", drop=1), steps),
        (doc.Column("loss"), progress),
        (doc.Column("best eval", ">", drop=2, shown=any(run.evaluations for run in runs)), best),
        (doc.Column("k@90 / r", ">", drop=4), ranks),
        (doc.Column("alerts", shown=any(run.alerts for run in runs)), _alert_words),
    )


# ---------------------------------------------------------------- what a run logged over its steps


def _logged(run: RunReport, *, verbose: bool) -> list[doc.Block]:
    """Return the training loss, and loss and metrics of each split."""
    rows = [("training loss", run.loss.means, _loss_words(run.loss))]
    for name, split in run.evaluations.items():
        rows += _evaluation(name, split, verbose=verbose)
    for name, curve in (("gradient norm", run.grad_norm), ("learning rate", run.learning_rate)):
        highest = f"highest {sig(curve.high)} at step {curve.high_step}"
        change = f"{sig(curve.first)} → {sig(curve.last)}, {highest}"
        if verbose and curve.points:
            rows.append((name, curve.means, _nonfinite(curve) if curve.nonfinite else change))
    return [doc.Heading("Loss"), _series(rows)]


def _loss_words(curve: Curve) -> str:
    if not curve.count:
        unusable = f"no finite value in {plural(curve.nonfinite, 'record')}"
        return unusable if curve.nonfinite else "nothing logged"
    last = "NaN" if curve.last is None and curve.nonfinite else sig(curve.last)
    words = f"{sig(curve.first)} → {last}, lowest {sig(curve.low)} at step {curve.low_step}"
    return f"{words}, {_nonfinite(curve)}" if curve.nonfinite else words


def _nonfinite(curve: Curve) -> str:
    return f"NaN or infinite {plural(curve.nonfinite, 'time')} from step {curve.first_nonfinite_step}"


def _series(rows: Iterable[tuple[str, list[float], str]]) -> doc.Table:
    """Return one row per series: its name, a small chart, and its figures."""
    cells: list[list[doc.Inline]] = [
        [label, doc.sparkline(values, SPARK), words] for label, values, words in rows
    ]
    return doc.Table([doc.Column(), doc.Column(drop=1, drawing=True), doc.Column(wrap=True)], cells)


def _evaluation(name: str, split: SplitReport, *, verbose: bool) -> Iterator[tuple[str, list[float], str]]:
    """Yield the loss on a split, and its metrics: at the best and at the last evaluation."""
    points = list({point.step: point for point in (split.best, split.last) if point is not None}.values())
    if split.loss.points:
        marks = ("lowest ", "last ") if len(points) > 1 else ("",)
        losses = [f"{mark}{sig(at.loss)} at step {at.step}" for mark, at in zip(marks, points, strict=False)]
        if points and points[-1].gap is not None:
            losses.append(f"gap to training {signed(points[-1].gap)}")
        yield f"{name} loss", split.loss.means, ", ".join(losses)
    known = [key for key in SHOWN if any(key in point.metrics for point in points)][:2]
    if verbose and split.last is not None:
        known = [key for key in split.last.metrics if key not in NOT_SHOWN]
    for key in known:
        figures = [f"{plain(point.metrics.get(key))} at step {point.step}" for point in points]
        yield f"{name} {key}", [], ", ".join(figures)


def _rank_use(use: RankUse) -> list[doc.Block]:
    """Return k@90 over the steps."""
    if not use.points:
        return []
    rank = f" of {use.max_rank}" if use.max_rank else ""
    state = "not stable at the last measurement"
    if use.untrained == use.modules:
        state = "every ΔW is zero"
    elif use.settled_since is not None:
        state = f"stable from step {use.settled_since}"
    rows = []
    for label, key in (("median module", "energy_rank_90_p50"), ("90th percentile", "energy_rank_90_p90")):
        values = [value for point in use.points if (value := getattr(point, key)) is not None]
        rows += [(label, values, f"{trimmed(values[0])} → {trimmed(values[-1])}{rank}")] if values else []
    unmeasured = f"; {plural(use.unmeasured, 'module')} not measured" if use.unmeasured else ""
    legend = f"Directions with 90 % of a module's energy (k@90), {state}{unmeasured}."
    return [doc.Heading("Use of rank"), _series(rows), doc.dim(legend)]


def _audits(run: RunReport) -> list[doc.Block]:
    """Return one line for each audit that was appended to the log."""
    facts: list[doc.Fact] = []
    for audit in run.audits:
        suggested = audit.get("suggested_r_global_90")
        rank = f", suggests rank {trimmed(float(suggested))}" if isinstance(suggested, (int, float)) else ""
        stable = audit.get("stable_rank_median", audit.get("stable_rank_mean"))
        use = f"stable rank {sig(float(stable))}" if isinstance(stable, (int, float)) else "no summary"
        facts.append((f"step {audit.get('step')}", use + rank))
    return [doc.Heading("Audits"), doc.Facts(facts)]


# ---------------------------------------------------------------- plots

STEP = Axis("step", form="count")
WIDE = 50
"""The axis is logarithmic if a loss reaches this many times the median of all: otherwise the rest would be a
flat line at 0."""


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run; of a single run also its evaluations."""
    runs = [(name, run) for name, run in _named(report) if run.loss.points]
    if not runs:
        return None
    series = [_line(name if len(runs) > 1 else "training loss", run.loss) for name, run in runs]
    if len(runs) == 1:
        evaluations = runs[0][1].evaluations.items()
        series += [
            _line(f"{name} loss", split.loss, marked=True) for name, split in evaluations if split.loss.points
        ]
    ends = [f"{name} {sig(run.loss.first)} to {sig(run.loss.last)}" for name, run in runs]
    values = [mean for _, run in runs for mean in run.loss.means]
    axis = Axis("loss", scale="log" if max(values) > WIDE * median(values) > 0 else "linear")
    return Plot("loss", "Training loss", STEP, axis, series, f"Training loss, first to last: {listed(ends)}.")


def _line(name: str, curve: Curve, *, marked: bool = False) -> Lines:
    return Lines(name, [point.step for point in curve.points], curve.means, marked)


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return k@90 of the median module over the steps of each run that measured it; of a single run also the 90th
    percentile."""
    measured = [(name, use) for name, run in _named(report) if (use := run.rank_use) and use.points]
    if not measured:
        return None
    lines = [(name, "energy_rank_90_p50", use.points) for name, use in measured]
    if len(measured) == 1:
        ((_, _, points),) = lines
        lines = [
            ("median module", "energy_rank_90_p50", points),
            ("90th percentile", "energy_rank_90_p90", points),
        ]
    series = [
        Lines(name, [point.step for point in points], [getattr(point, key) for point in points], marked=True)
        for name, key, points in lines
    ]
    ends = [
        f"{name} {trimmed(use.points[-1].energy_rank_90_p50)} of rank {use.max_rank or 'unknown'}"
        for name, use in measured
    ]
    sentence = (
        f"k@90 of the median module in {plural(len(measured), 'run')}, at the last step: {listed(ends)}."
    )
    return Plot("rank", "Directions needed during training", STEP, Axis("k@90", low=0.0), series, sentence)


def _named(report: MonitorReport) -> list[tuple[str, RunReport]]:
    """Return the runs with their files, numbered if a name is repeated."""
    files = [run.file for run in report.runs]
    return [
        (file if files.count(file) == 1 else f"{file} ({place})", run)
        for place, (file, run) in enumerate(zip(files, report.runs, strict=True), start=1)
    ]
