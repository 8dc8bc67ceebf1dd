"""From records to facts about one run, in memory that does not grow with the file.

A series of any length is exact while it is short, then has ever wider buckets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from gradience.errors import positive_integer
from gradience.files.shared_names import path_text
from gradience.files.strict_json import LARGEST, SMALLEST
from gradience.reports.monitor import EvaluationPoint, Setup
from gradience.telemetry import Record
from gradience.telemetry.records import REWARDS, Json, method_of

# ---------------------------------------------------------------- a series in bounded memory

MAX_BUCKETS = 512


@dataclass(slots=True)
class Bucket:
    """`count` neighboring points."""

    first_step: int
    last_step: int
    count: int
    total: float
    low: float
    low_step: int
    high: float
    high_step: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def absorb(self, later: Bucket) -> None:
        """Take the points of the next bucket in."""
        self.last_step = later.last_step
        self.count += later.count
        self.total += later.total
        if later.low < self.low:
            self.low, self.low_step = later.low, later.low_step
        if later.high > self.high:
            self.high, self.high_step = later.high, later.high_step


@dataclass(slots=True)
class Series:
    """Numbers over steps. NaN and infinity are counted, not averaged."""

    buckets: list[Bucket] = field(default_factory=list)
    nonfinite: int = 0
    first_nonfinite_step: int | None = None
    last: float | None = None
    """The last value, NaN included."""
    last_step: int | None = None
    _width: int = 1
    """Points that a full bucket holds."""

    def add(self, step: int, value: float) -> None:
        """Add the next point."""
        self.last, self.last_step = value, step
        if not math.isfinite(value):
            self.nonfinite += 1
            if self.first_nonfinite_step is None:
                self.first_nonfinite_step = step
            return
        point = Bucket(step, step, 1, value, value, step, value, step)
        if self.buckets and self.buckets[-1].count < self._width:
            self.buckets[-1].absorb(point)
            return
        if len(self.buckets) == MAX_BUCKETS:
            for left, right in zip(self.buckets[::2], self.buckets[1::2], strict=True):
                left.absorb(right)
            del self.buckets[1::2]
            self._width *= 2
        self.buckets.append(point)

    def drop_after(self, step: int) -> None:
        """Discard values after `step`: a resumed run writes those steps again.

        Exact while buckets hold one point; a wider bucket across the border is kept.
        """
        self.buckets = [bucket for bucket in self.buckets if bucket.first_step <= step]
        if self.first_nonfinite_step is not None and self.first_nonfinite_step > step:
            self.nonfinite, self.first_nonfinite_step = 0, None
        if self.last_step is not None and self.last_step > step:
            self.last = self.buckets[-1].mean if self.buckets else None
            self.last_step = self.buckets[-1].last_step if self.buckets else None

    @property
    def count(self) -> int:
        """Finite points."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def first(self) -> float | None:
        """The first finite value (the mean of the first bucket if the series is long)."""
        return self.buckets[0].mean if self.buckets else None

    @property
    def lowest(self) -> Bucket | None:
        """The bucket that holds the smallest value, as `low` at `low_step`."""
        return min(self.buckets, key=lambda bucket: bucket.low, default=None)

    @property
    def highest(self) -> Bucket | None:
        """The bucket that holds the largest value, as `high` at `high_step`."""
        return max(self.buckets, key=lambda bucket: bucket.high, default=None)

    def part(self, start: float, end: float) -> Sequence[Bucket]:
        """Return the buckets between two fractions of the series, at least one if there is any."""
        n = len(self.buckets)
        low = min(int(start * n), max(n - 1, 0))
        return self.buckets[low : max(low + 1, math.ceil(end * n))]

    def level(self, start: float, end: float) -> float | None:
        """Return the mean of the points between two fractions of the series."""
        part = self.part(start, end)
        count = sum(bucket.count for bucket in part)
        return sum(bucket.total for bucket in part) / count if count else None

    def median(self) -> float | None:
        """Return the median of the bucket means."""
        return median(bucket.mean for bucket in self.buckets) if self.buckets else None


# ---------------------------------------------------------------- facts about one run

MAX_POINTS = 256
MAX_AUDITS = 50
"""Maximum appended audits that are kept; further ones are only counted."""
MAX_SPLITS = 16
SHOWN = ("loss", "ppl", "perplexity", "train_loss", "gap")
"""Metrics of an evaluation that have their own fields."""
NAN_FILTER = ("config", "training", "logging_nan_inf_filter")
SETTLED_INTERVALS = 3
"""Consecutive intervals without movement that count as settled."""
SETTLED_SHARE = 0.9
"""Share of modules whose k@90 must have stayed within 1 over all of them."""


@dataclass(frozen=True, slots=True)
class SpectraPoint:
    """The summary of one `lora_spectra` record."""

    step: int
    summary: Mapping[str, float]

    def count(self, key: str) -> int:
        """Return a number of modules in the summary."""
        return int(self.summary.get(key, 0))


@dataclass(frozen=True, slots=True)
class RankPoint:
    """Allocated and needed ranks at one measurement. The order of modules is the same throughout a run."""

    step: int
    ranks: tuple[int, ...]
    needed: tuple[int | None, ...]
    """k@90 of each module; None if there is no spectrum (untrained, NaN)."""

    @property
    def measured(self) -> list[tuple[int, int]]:
        """(rank, k@90) of the modules that have a spectrum."""
        return [(r, k) for r, k in zip(self.ranks, self.needed, strict=True) if k is not None]


@dataclass(slots=True)
class Split:
    """All evaluations on one split."""

    losses: Series = field(default_factory=Series)
    last: EvaluationPoint | None = None
    best: EvaluationPoint | None = None
    """The one with the smallest loss."""
    count: int = 0

    def drop_after(self, step: int) -> None:
        """Discard values after `step`."""
        self.losses.drop_after(step)
        for name in ("last", "best"):
            evaluation = getattr(self, name)
            if evaluation is not None and evaluation.step > step:
                setattr(self, name, None)


@dataclass(slots=True)
class RunFacts:
    """Facts from a run's records. Feed records in the order of the file."""

    run_id: str
    records: int = 0
    start: Record = field(default_factory=lambda: Record("run_start", "", None, None, 0, {}))
    started: float | None = None
    seconds: float | None = None
    """Monotonic seconds of the parts of the run, added up."""
    last_step: int | None = None
    resumed_from: list[int] = field(default_factory=list)
    end: Record | None = None
    loss: Series = field(default_factory=Series)
    hidden_losses: int = 0
    """Losses that the Trainer's filter logged as 0 because they were NaN; `loss` counts them as not finite."""
    grad_norm: Series = field(default_factory=Series)
    lr: Series = field(default_factory=Series)
    rewarded: bool = False
    """True if a reward or a KL was logged, as in reinforcement learning."""
    splits: dict[str, Split] = field(default_factory=dict)
    modules: Mapping[str, Json] = field(default_factory=dict)
    """The last `lora_modules` record."""
    spectra: list[SpectraPoint] = field(default_factory=list)
    """Measurements over time; every second, fourth … one of them in a long run."""
    last_spectra: SpectraPoint | None = None
    recent: deque[RankPoint] = field(default_factory=lambda: deque(maxlen=SETTLED_INTERVALS + 1))
    audits: list[Record] = field(default_factory=list)
    not_kept: int = 0
    _spectra_seen: int = 0
    _spectra_stride: int = 1
    _seconds_before: float = 0.0

    def add(self, record: Record) -> None:
        """Add what one record says to the facts."""
        self.records += 1
        if record.step is not None and (self.last_step is None or record.step > self.last_step):
            self.last_step = record.step
        elapsed = record.data.get("elapsed_s")
        if isinstance(elapsed, (int, float)):
            self.seconds = self._seconds_before + elapsed
        event = record.event
        if event == "train_step":
            self._train_step(record)
        elif event == "eval":
            self._evaluation(record)
        elif event == "metrics":
            self._metrics(record)
        elif event == "run_start":
            self._start(record)
        elif event == "run_end":
            self.end = record

    def _start(self, record: Record) -> None:
        self.start = record
        self.started = self.started if self.started is not None else record.ts
        self.end = None
        self._seconds_before = self.seconds or 0.0
        step = record.data.get("resumed_from_step")
        if isinstance(step, int):
            self.resumed_from.append(step)
            self._forget_after(step)

    def _forget_after(self, step: int) -> None:
        """Discard values after `step`: a run resumed from that checkpoint repeats and logs them again."""
        for series in (self.loss, self.grad_norm, self.lr):
            series.drop_after(step)
        self.hidden_losses = min(self.hidden_losses, self.loss.nonfinite)
        self.spectra = [point for point in self.spectra if point.step <= step]
        self.last_spectra = self.spectra[-1] if self.spectra else None
        self.recent.clear()
        self.last_step = step
        for split in self.splits.values():
            split.drop_after(step)

    def _train_step(self, record: Record) -> None:
        step = record.step if record.step is not None else self.records
        for series, key in ((self.loss, "loss"), (self.grad_norm, "grad_norm"), (self.lr, "lr")):
            value = record.number(key)
            if key == "loss" and value == 0.0 and self._is_hidden(record):
                self.hidden_losses += 1
                value = math.nan
            if value is not None:
                series.add(step, value)
        self.rewarded = self.rewarded or not REWARDS.isdisjoint(record.data)

    def _is_hidden(self, record: Record) -> bool:
        """Return True if a loss of 0 means NaN: the gradient is not finite, and the Trainer's filter is on."""
        norm, is_filtered = record.number("grad_norm"), self.start.get(*NAN_FILTER) is True
        return is_filtered and norm is not None and not math.isfinite(norm)

    def _evaluation(self, record: Record) -> None:
        name = record.text("split") or "eval"
        if name not in self.splits and len(self.splits) == MAX_SPLITS:
            self.not_kept += 1
            return
        split = self.splits.setdefault(name, Split())
        split.count += 1
        numbers = {key: record.number("metrics", key) for key in record.mapping("metrics")}
        metrics = {key: value for key, value in numbers.items() if value is not None}
        step = record.step if record.step is not None else self.last_step or 0
        loss, train_loss = metrics.get("loss"), finite(metrics.get("train_loss", self.loss.last))
        if loss is not None:
            split.losses.add(step, loss)
        loss = finite(loss)
        split.last = EvaluationPoint(
            step=step,
            loss=loss,
            perplexity=finite(metrics.get("ppl", metrics.get("perplexity"))),
            train_loss=train_loss,
            gap=None if loss is None or train_loss is None else loss - train_loss,
            metrics={
                key: value for key, value in metrics.items() if key not in SHOWN and math.isfinite(value)
            },
        )
        best = split.best.loss if split.best else None
        if loss is not None and (best is None or loss < best):
            split.best = split.last

    def _metrics(self, record: Record) -> None:
        kind = record.text("kind")
        if kind == "lora_modules":
            self.modules = record.mapping("metrics")
            self.recent.clear()
        elif kind == "lora_spectra":
            self._measurement(record)
        elif kind == "lora_audit":
            if len(self.audits) < MAX_AUDITS:
                self.audits.append(record)
            else:
                self.not_kept += 1
        elif kind == "trainer_log":  # trainers that log no loss
            self.rewarded = self.rewarded or not REWARDS.isdisjoint(record.mapping("metrics"))

    def _measurement(self, record: Record) -> None:
        step = record.step if record.step is not None else self.last_step or 0
        summary = record.get("metrics", "summary")
        if not isinstance(summary, Mapping):
            return
        numbers = {key: float(value) for key, value in summary.items() if isinstance(value, (int, float))}
        self.last_spectra = SpectraPoint(step, numbers)
        if self._spectra_seen % self._spectra_stride == 0:
            self.spectra.append(self.last_spectra)
            if len(self.spectra) > MAX_POINTS:
                del self.spectra[1::2]
                self._spectra_stride *= 2
        self._spectra_seen += 1
        point = rank_point(step, self.modules.get("r"), record.get("metrics", "energy_rank_90"))
        if point is not None:
            self.recent.append(point)


def finite(value: float | None) -> float | None:
    """Return the value; None if it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def rank_point(step: int, ranks: Json, needed: Json) -> RankPoint | None:
    """Return allocated and needed ranks of one measurement; None if the lengths of the columns differ."""
    if not isinstance(ranks, list) or not isinstance(needed, list) or len(ranks) != len(needed):
        return None
    if not ranks or not all(isinstance(r, int) and r > 0 for r in ranks):
        return None
    if not all(k is None or isinstance(k, int) for k in needed):
        return None
    return RankPoint(step, tuple(ranks), tuple(needed))


def settled_since(window: Sequence[RankPoint]) -> int | None:
    """Return the first step of the window if the needed ranks have not changed since; None if they still change.

    A k@90 is reproducible to within 1 between seeds, and a settled run keeps it to within 1
    (docs/reference/monitor_rules.md, "Where the thresholds come from").
    """
    if len(window) <= SETTLED_INTERVALS:
        return None
    columns = list(zip(*(point.needed for point in window), strict=True))
    known = [[k for k in column if k is not None] for column in columns]
    whole = [column for column in known if len(column) == len(window)]
    if not whole or len(whole) < SETTLED_SHARE * len(columns):
        return None
    steady = sum(max(column) - min(column) <= 1 for column in whole)
    return window[0].step if steady >= SETTLED_SHARE * len(whole) else None


def read_setup(start: Record, *, rewarded: bool = False) -> Setup:
    """Return the setup in the `config` of a `run_start`; the original project's files have fewer fields.

    rewarded: the run logged a reward or a KL, which tells the method if the trainer's class does not.
    """

    def text(*keys: str) -> str | None:
        return start.text("config", *keys) or None

    def number(*keys: str) -> float | None:
        value = start.number("config", *keys)
        return value if not value or SMALLEST <= abs(value) <= LARGEST else None

    def whole(*keys: str) -> int | None:
        return positive_integer(start.get("config", *keys))

    bases = start.get("config", "trainer", "bases")
    named = bases if isinstance(bases, list) else ()
    classes = [text("trainer", "class"), *named, text("trainer", "arguments")]
    batch = whole("training", "effective_batch_size")
    if batch is None and (size := whole("training", "batch_size")):
        batch = size * (whole("training", "gradient_accumulation") or 1)
    model = text("model_name") or text("model")
    return Setup(
        model=model and path_text(model),
        task=text("task_profile"),
        trainer=text("trainer", "class") or text("trainer", "arguments"),
        method=method_of([name for name in classes if isinstance(name, str)], rewarded=rewarded),
        evaluated_by=text("evaluated_by"),
        r=whole("lora", "r"),
        alpha=number("lora", "alpha"),
        scale=number("lora", "scale"),
        rslora=start.get("config", "lora", "use_rslora") is True,
        init=text("lora", "init"),
        learning_rate=number("optimizer", "lr"),
        optimizer=text("optimizer", "name"),
        schedule=text("training", "schedule"),
        effective_batch_size=batch,
        max_steps=whole("training", "max_steps"),
        precision=text("training", "dtype") or text("base", "dtype"),
        quantization=text("base", "quantization", "name"),
        trainable_params=whole("lora", "trainable_params"),
        hidden_size=whole("base", "hidden_size"),
        nan_filter=start.get(*NAN_FILTER) is True,
        notes=text("notes"),
    )
